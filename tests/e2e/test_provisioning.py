# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bare machines are switched on and become hosts of a site: network boot, enrolment, installation, first boot.

The server is a provisioning server as its roles make it, on the machines' Ethernet segment; the controller plays what
an administrator plays. Nobody touches the machines. Once installed they reach the server through the tunnel only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from bare import FAILED, Bare, state
from disks import Extent, cut_out, volumes
from machines import BOOT_TIMEOUT, Boot
from provisioned_site import (
    GATEWAY,
    INNER_GATEWAY,
    POOL,
    SERVER,
    TUNNEL_ADDRESS,
    Site,
    bare_machines,
)
from provisioning_server import ProvisioningServer

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

Machines = Mapping[str, Bare]


@pytest.fixture(scope="module")
def bare(
    sandbox: Sandbox, keys: ProductKeys, server: ProvisioningServer, tmp_path_factory: pytest.TempPathFactory
) -> Machines:
    return bare_machines(sandbox, keys, server, tmp_path_factory.mktemp("machines"))


@pytest.fixture(scope="module")
def site(
    server: ProvisioningServer,
    bare: Machines,
    networked_release: Path,
    networked_server_release: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """It knows the machines by their TPMs, and has its own authorities."""
    machines = {name: {"class": "software_tpm", "ek_sha256": each.ek_sha256} for name, each in bare.items()}
    releases = [networked_release, networked_server_release]
    server.publish(networked_server_release)
    server.machine("ip", "route", "add", POOL, "via", INNER_GATEWAY, "dev", "inner")
    made = Site(tmp_path_factory.mktemp("site"), server, releases, machines)
    made.play("site_pki", "-e", "site_pki_verb=create")
    return made


def test_bare_machines_become_hosts(server: ProvisioningServer, site: Site, bare: Machines, boot: Boot) -> None:
    with site.playing("provision") as provisioning:
        provisioning.wait_for("Switch on, with the network as boot source:", within=180)
        with ExitStack() as stack:
            running = {name: stack.enter_context(boot(each.spec)) for name, each in bare.items()}
            for name, machine in running.items():
                machine.serial.wait_for(f"INSTALLED {name}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
            for machine in running.values():
                machine.wait_exit(BOOT_TIMEOUT)
        assert {name: state(server, name)[0] for name in bare} == dict.fromkeys(bare, "written")
        with ExitStack() as stack:
            for each in bare.values():
                stack.enter_context(boot(each.from_disk))
            provisioning.end(within=BOOT_TIMEOUT)
    assert {name: state(server, name)[0] for name in bare} == dict.fromkeys(bare, "installed")
    reported = json.loads(site.report.read_text())["hosts"]
    assert {name: host["state"] for name, host in reported.items()} == dict.fromkeys(bare, "installed")
    (enrolment,) = server.admin.get(f"/admin/v1/machines/{GATEWAY}").json()["enrolments"]
    assert (enrolment["hardware_profile"], enrolment["hardware"]["dmi"]["sys_vendor"]) == ("qemu_virtio", "QEMU")
    # The server spoke from its address in the tunnel, which the network outside does not know.
    records = server.admin.get("/admin/v1/audit").json()["records"]
    said = [record["actor"] for record in records if record["host"] == SERVER and record["actor"].startswith("machine")]
    assert said[-1] == f"machine {TUNNEL_ADDRESS}", records


def test_officer_opens_the_disk_and_nobody_else_could(
    server: ProvisioningServer, site: Site, bare: Machines, keys: ProductKeys, sandbox: Sandbox, tmp_path: Path
) -> None:
    recovered = tmp_path / "recovery_key"
    options = {"recover": GATEWAY, "identity": str(keys.private("escrow")), "provision_recover_path": str(recovered)}
    site.play("recover", "-e", json.dumps(options))
    key = recovered.read_bytes().strip()
    disk, volume = bare[GATEWAY].spec.disks[0].path, tmp_path / "state.luks"
    cut_out(disk, volumes(disk)["state"], volume)
    opens = ["cryptsetup", "open", "--test-passphrase", "--key-file", "-", "/run/volume"]
    binds = [Bind(volume, "/run/volume")]
    sandbox.run(opens, binds=binds, stdin=key)
    with pytest.raises(CommandError):
        sandbox.run(opens, binds=binds, stdin=key[:-1] + b"x")
    kept = [path for path in (server.machine.root / "var/lib/enrolment").rglob("*") if path.is_file()]
    assert kept
    assert not any(key in path.read_bytes() for path in kept)
    assert key.decode() not in server.journal() + site.printed()


def test_installed_machine_is_not_installed_again_unasked(
    server: ProvisioningServer, bare: Machines, boot: Boot
) -> None:
    """It boots the installer, by mistake or by somebody's will."""
    spec = bare[GATEWAY].spec
    disk = spec.disks[0].path
    before = disk.stat().st_mtime_ns
    with boot(spec) as machine:
        machine.serial.wait_for("the enrolment service refuses this machine", timeout=BOOT_TIMEOUT)
    assert disk.stat().st_mtime_ns == before
    reason = server.admin.get("/admin/v1/audit").json()["records"][-1]["detail"]["reason"]
    assert reason == f"{GATEWAY} is installed, and reinstall is not set"
    assert state(server, GATEWAY)[0] == "installed"


def test_retired_machine_erases_its_disk(
    server: ProvisioningServer, site: Site, bare: Machines, boot: Boot, tmp_path: Path
) -> None:
    """The last that happens to it: its disk holds nothing any more, and neither do its firmware and its TPM."""
    spec = bare[GATEWAY].spec
    disk = spec.disks[0].path
    state_volume = volumes(disk)["state"]
    with site.playing("retire", "--limit", GATEWAY, "-e", "reason=sold", "-e", "wipe=true") as retiring:
        retiring.wait_for(f"Switch on, with the network as boot source: {GATEWAY}", within=180)
        with boot(spec) as machine:
            machine.serial.wait_for(f"WIPED {GATEWAY}", timeout=BOOT_TIMEOUT, fail_on=[FAILED, "INSTALLED"])
            machine.wait_exit(BOOT_TIMEOUT)
        retiring.end(within=60)
    record = server.admin.get("/admin/v1/audit").json()["records"][-1]
    evidence = record["detail"]["evidence"]
    assert record["action"] == "wiped"
    assert (evidence["volumes"], evidence["discarded"]) == (["fleet/state"], True)
    # Nothing of its boot entry: this firmware has forgotten that itself, since QEMU told it what to boot (OVMF).
    assert evidence["tpm"]["cleared"]
    assert "0x81000001" in evidence["tpm"]["evicted"], "the storage key that systemd had made"
    size, end = disk.stat().st_size, 1 << 20
    for number, place in enumerate((state_volume, Extent(0, end), Extent(size - end, end))):
        part = tmp_path / f"part{number}"
        cut_out(disk, place, part)
        assert part.stat().st_blocks == 0, f"something is left at {place}"
    assert state(server, GATEWAY)[0] == "wiped"
