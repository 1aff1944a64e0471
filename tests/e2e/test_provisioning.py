# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare machine is switched on and becomes a host of a site: network boot, enrolment, installation, first boot.

The server is a provisioning server as its roles make it, on the machine's Ethernet segment; the controller plays what
an administrator plays. Nobody touches the machine.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bare import FAILED, Bare, bare_machine, state
from disks import cut_out, volumes
from machines import BOOT_TIMEOUT, Boot
from provisioned_site import HOST, Site
from provisioning_server import ProvisioningServer

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

MAC = "52:54:00:00:00:03"


@pytest.fixture(scope="module")
def bare(
    sandbox: Sandbox, keys: ProductKeys, server: ProvisioningServer, tmp_path_factory: pytest.TempPathFactory
) -> Bare:
    return bare_machine(sandbox, keys, tmp_path_factory.mktemp("bare"), server.segment, MAC)


@pytest.fixture(scope="module")
def site(
    server: ProvisioningServer, bare: Bare, networked_release: Path, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """It knows the machine by its TPM, and has its own authorities."""
    machine = {"class": "software_tpm", "ek_sha256": bare.ek_sha256}
    made = Site(tmp_path_factory.mktemp("site"), server, networked_release, machine)
    made.play("site_pki", "-e", "site_pki_verb=create")
    return made


def test_bare_machine_becomes_a_host(server: ProvisioningServer, site: Site, bare: Bare, boot: Boot) -> None:
    with site.playing("provision") as provisioning:
        provisioning.wait_for("Switch on, with the network as boot source: paris-gw1", within=180)
        with boot(bare.spec) as machine:
            machine.serial.wait_for(f"INSTALLED {HOST}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
            machine.wait_exit(BOOT_TIMEOUT)
        assert state(server, HOST)[0] == "written"
        # Switched on again, firmware finds what the installer entered, and tries the network no more.
        (nic,) = bare.spec.nics
        with boot(replace(bare.spec, nics=(replace(nic, bootindex=None),))):
            provisioning.end(within=BOOT_TIMEOUT)
    assert state(server, HOST)[0] == "installed"
    reported = json.loads(site.report.read_text())["hosts"]
    assert {name: host["state"] for name, host in reported.items()} == {HOST: "installed"}


def test_officer_opens_the_disk_and_nobody_else_could(
    server: ProvisioningServer, site: Site, bare: Bare, keys: ProductKeys, sandbox: Sandbox, tmp_path: Path
) -> None:
    recovered = tmp_path / "recovery_key"
    options = {"recover": HOST, "identity": str(keys.private("escrow")), "provision_recover_path": str(recovered)}
    site.play("recover", "-e", json.dumps(options))
    key = recovered.read_bytes().strip()
    disk, volume = bare.spec.disks[0].path, tmp_path / "state.luks"
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


def test_installed_machine_is_not_installed_again_unasked(server: ProvisioningServer, bare: Bare, boot: Boot) -> None:
    """It boots the installer, by mistake or by somebody's will."""
    before = bare.spec.disks[0].path.stat().st_mtime_ns
    with boot(bare.spec) as machine:
        machine.serial.wait_for("the enrolment service refuses this machine", timeout=BOOT_TIMEOUT)
    assert bare.spec.disks[0].path.stat().st_mtime_ns == before
    reason = server.admin.get("/admin/v1/audit").json()["records"][-1]["detail"]["reason"]
    assert reason == f"{HOST} is installed, and reinstall is not set"
    assert state(server, HOST)[0] == "installed"
