# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In a network where nobody answers DHCP, a machine that boots nothing from it is installed from a USB stick."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bare import FAILED, bare_machine, state
from machines import BOOT_TIMEOUT, Boot
from provisioned_site import GATEWAY, GATEWAY_INNER_MAC, GATEWAY_MAC, SERVER, Site
from provisioning_server import ProvisioningServer

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, SegmentNic

pytestmark = pytest.mark.extended

ADDRESS = "10.9.0.3"  # what follows from the gateway's number in the model


@pytest.fixture
def without_dhcp(server: ProvisioningServer) -> Iterator[ProvisioningServer]:
    """The server, which answers neither DHCP nor TFTP."""
    server.machine("systemctl", "stop", "boot-dhcp.service")
    yield server
    server.machine("systemctl", "start", "boot-dhcp.service")


def test_machine_is_installed_from_a_stick(
    without_dhcp: ProvisioningServer,
    networked_release: Path,
    keys: ProductKeys,
    sandbox: Sandbox,
    boot: Boot,
    tmp_path: Path,
) -> None:
    """It starts from its disk then, though the stick stays where it is, and is not installed a second time."""
    server = without_dhcp
    (tmp_path / "machine").mkdir()
    inner = SegmentNic(*server.inner, mac=GATEWAY_INNER_MAC)
    bare = bare_machine(sandbox, keys, tmp_path / "machine", server.segment, GATEWAY_MAC, others=[inner])
    known = {GATEWAY: {"class": "software_tpm", "ek_sha256": bare.ek_sha256}, SERVER: {}}
    site = Site(tmp_path / "site", server, [networked_release], known)
    site.play("site_pki", "-e", "site_pki_verb=create")
    site.play("medium", "--limit", GATEWAY, "-e", json.dumps({"provision_media_dir": str(tmp_path / "media")}))
    (medium,) = (tmp_path / "media").rglob("*.img")
    written = hashlib.sha256(medium.read_bytes()).digest()

    # The rule of the site matches the stick, too: it has the serial number of the disk.
    stick = Disk(medium, serial="system", usb=True)
    spec = replace(bare.from_disk, disks=(*bare.from_disk.disks, stick))
    from_stick = replace(spec, disks=(*bare.spec.disks, replace(stick, bootindex=0)))
    with site.playing("provision", "--limit", GATEWAY) as provisioning:
        provisioning.wait_for(f"boot source: {GATEWAY}", within=180)
        with boot(from_stick) as machine:
            machine.serial.wait_for(f"INSTALLED {GATEWAY}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
            machine.wait_exit(BOOT_TIMEOUT)
        records = server.admin.get("/admin/v1/audit").json()["records"]
        said = {each["actor"] for each in records if each["host"] == GATEWAY and each["actor"].startswith("machine")}
        assert said == {f"machine {ADDRESS}"}, records
        (tried,) = server.admin.get(f"/admin/v1/machines/{GATEWAY}").json()["enrolments"]
        assert [each["serial"] for each in tried["hardware"]["disks"]] == ["system", "system"]
        with boot(spec):
            provisioning.end(within=BOOT_TIMEOUT)
    assert state(server, GATEWAY)[0] == "installed"
    with boot(from_stick) as machine:
        machine.serial.wait_for("the enrolment service refuses this machine", timeout=BOOT_TIMEOUT)
    assert state(server, GATEWAY)[0] == "installed"
    assert hashlib.sha256(medium.read_bytes()).digest() == written
