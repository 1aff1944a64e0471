# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of a site updates itself twice, through its tunnel, from a Debian machine behind the gateway.

Everything is as an administrator does it: gateway and host are installed over the network, the update server is made by
playbook release, which also has the site certify it, and playbook status says who runs what.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from bare import FAILED, SIZES
from booted import Booted, booted
from machines import BOOT_TIMEOUT, Boot, read_manifest
from provisioned_site import (
    INNER_GATEWAY,
    POOL,
    SERVER,
    SERVER_MAC,
    TUNNEL_ADDRESS,
    Site,
    bare_machines,
)
from provisioning_server import INNER_NETWORK, ProvisioningServer, provisioning_server
from relay import relay
from sdk import unpacked
from shell import PROMPT, Shell
from updating import build, entries, restart, settle, update, version_of

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

pytestmark = pytest.mark.extended

ROOT = Path(__file__).resolve().parents[2]
NAME, ADDRESS = "updates.example.org", "10.80.1.2"
WHILE_THE_TUNNEL_COMES_UP = 24  # tries of five seconds; the timer gives it five minutes
MORE: dict[str, Any] = {
    # A bundle is fetched whole.
    "provisioning": {"sizes": {**SIZES, "state_size": 240 << 20}},
    "tunnels": {"update": {"members": ["update-fetch.service"]}},
    "services": {"updates": {"tcp": [443], "user": "update"}},
    "policy": [{"from": ["machines"], "to": ["provisioning"], "services": ["updates"], "via": "update"}],
    "updates": {"server": f"https://{NAME}", "address": ADDRESS, "via": "update", "service": "updates"},
}


@pytest.fixture(scope="module")
def provisioning(
    sandbox: Sandbox,
    authority: Path,
    networked_release: Path,
    networked_instrumented_server_release: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ProvisioningServer]:
    releases = {"gateway": networked_release, "server": networked_instrumented_server_release}
    installers = [
        {"name": name, "product": name, "version": read_manifest(release)["version"]}
        for name, release in releases.items()
    ]
    with provisioning_server(
        tmp_path_factory.mktemp("provisioning") / "server",
        sandbox=sandbox,
        installers=installers,
        authority=authority,
        boot_server_hosts=[{"name": "server", "macs": [SERVER_MAC], "installer": "server"}],
    ) as started:
        for release in releases.values():
            started.publish(release)
        started.machine("ip", "route", "add", POOL, "via", INNER_GATEWAY, "dev", "inner")
        yield started


@dataclass(frozen=True)
class Updates:
    """The update server, and the controller's side of it.

    :param inventory: names the server and the product.
    :param build: directory in which releases are looked for.
    """

    machine: Booted
    site: Site
    inventory: Path
    build: Path

    def play(self, name: str, **variables: Any) -> str:
        """Run a playbook for the server and the product."""
        words = ["-i", str(self.inventory), "-e", json.dumps({"fleet_build_dir": str(self.build), **variables})]
        return self.site.play(name, *words)

    def offer(self, release: Path) -> str:
        """Publish a release; return its version."""
        version = str(read_manifest(release)["version"])
        self.play("release", version=version)
        return version


@pytest.fixture(scope="module")
def updates(
    sandbox: Sandbox, provisioning: ProvisioningServer, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Updates]:
    """A Debian machine behind the gateway, on which nothing is installed that is ours."""
    directory = tmp_path_factory.mktemp("updates")
    tree = unpacked(sandbox.sdk)
    (directory / "build").mkdir()
    for name in ("sdk", "server"):
        (directory / "build" / name).symlink_to(ROOT / "build" / name)
    with ExitStack() as stack:
        machine = stack.enter_context(booted("updates", (tree,), directory / "machine"))
        stack.enter_context(relay(Path(f"/proc/{machine.pid}/ns/net"), "inner", *provisioning.inner))
        machine("ip", "address", "add", f"{ADDRESS}/{INNER_NETWORK.partition('/')[2]}", "dev", "inner")
        machine("ip", "route", "add", POOL, "via", INNER_GATEWAY, "dev", "inner")
        host = {
            "ansible_connection": "entered",
            "ansible_host": machine.pid,
            "ansible_python_interpreter": "/usr/bin/python3",
            # Installed already; there is no archive to ask.
            "boot_server_packages": [],
            "site_pki_server_packages": [],
            "update_server_name": NAME,
            "update_server_site_file": str(site.file),
        }
        product = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        children = {"update_servers": {"hosts": {"updates": host}}, "products": {"hosts": {"server": product}}}
        inventory = directory / "updates.yml"
        inventory.write_text(yaml.safe_dump({"all": {"children": children}}))
        yield Updates(machine, site, inventory, directory / "build")


@pytest.fixture(scope="module")
def bare(
    sandbox: Sandbox, keys: ProductKeys, provisioning: ProvisioningServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return bare_machines(sandbox, keys, provisioning, tmp_path_factory.mktemp("machines"))


@pytest.fixture(scope="module")
def site(
    provisioning: ProvisioningServer,
    bare: dict[str, Any],
    networked_release: Path,
    networked_instrumented_server_release: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    machines = {name: {"class": "software_tpm", "ek_sha256": each.ek_sha256} for name, each in bare.items()}
    releases = [networked_release, networked_instrumented_server_release]
    made = Site(tmp_path_factory.mktemp("site"), provisioning, releases, machines, MORE)
    made.play("site_pki", "-e", "site_pki_verb=create")
    return made


def test_host_updates_itself_twice_through_its_tunnel(
    site: Site, bare: dict[str, Any], updates: Updates, boot: Boot
) -> None:
    with site.playing("provision") as installing, ExitStack() as stack:
        installing.wait_for("Switch on, with the network as boot source:", within=180)
        with ExitStack() as installers:
            running = {name: installers.enter_context(boot(each.spec)) for name, each in bare.items()}
            for name, machine in running.items():
                machine.serial.wait_for(f"INSTALLED {name}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
            for machine in running.values():
                machine.wait_exit(BOOT_TIMEOUT)
        started = {}
        for name, each in bare.items():
            started[name] = stack.enter_context(boot(replace(each.from_disk, reboots=True)))
        installing.end(within=BOOT_TIMEOUT)
        machine = started[SERVER]
        machine.serial.wait_for(PROMPT, timeout=BOOT_TIMEOUT)
        shell = Shell(machine)
        settle(shell)
        shell("echo kept > /var/lib/marker")
        before = version_of(shell)
        for version in ("0.2.0", "0.3.0"):
            new = updates.offer(build(version, "server"))
            said = update(shell, WHILE_THE_TUNNEL_COMES_UP)
            assert f"installed: {new}; it runs after the next start, {before} stays" in said, said
            shell = restart(machine)
            assert version_of(shell) == new
            assert shell("cat /var/lib/marker").strip() == "kept"
            settle(shell)
            assert entries(shell) == {f"server_{before}.efi", f"server_{new}.efi"}
            before = new
        said = update(shell, WHILE_THE_TUNNEL_COMES_UP)
        assert f"up to date: {before}" in said, said
    table = updates.play("status")
    shown = json.loads((updates.build / "status/status.json").read_text())
    (host,) = [each for each in shown["machines"] if each["host"] == SERVER]
    assert (host["report"]["product"], host["report"]["version"]) == ("server", before), table
    told = updates.machine("journalctl", "--no-pager", "--output=cat", "SYSLOG_IDENTIFIER=vauban_update")
    assert {json.loads(line)["address"] for line in told.splitlines()} >= {TUNNEL_ADDRESS}, told
