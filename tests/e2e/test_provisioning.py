# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare machine is switched on, and becomes a host: network boot, enrolment, installation, first boot from its disk.

The server is a provisioning server as its roles make it, on the machine's Ethernet segment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from machines import BOOT_TIMEOUT, Boot, reach, read_manifest
from provisioning_server import ProvisioningServer, provisioning_server
from shell import PROMPT

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm import expectation
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, SegmentNic, UefiBoot

HOST = "paris-gw1"
DISK_SIZE = 1024 * 1024 * 1024
SIZES = {"esp_size": 128 << 20, "swap_size": 64 << 20, "state_size": 64 << 20, "core_size": 256 << 20}
FAILED = "INSTALLATION FAILED"


@pytest.fixture(scope="module")
def server(
    networked_release: Path, authority: Path, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProvisioningServer]:
    """It offers the release, and knows what the release measures."""
    manifest = read_manifest(networked_release)
    product, version = manifest["product"], manifest["version"]
    installers = [{"name": "gateway", "product": product, "version": version}]
    directory = tmp_path_factory.mktemp("provisioning") / "server"
    with provisioning_server(directory, sandbox=sandbox, installers=installers, authority=authority) as started:
        started.publish(networked_release)
        pcrs = {
            "installer": demanded(expectation.of_installer(manifest)),
            "installed": demanded(expectation.of_product(manifest)),
        }
        content = {"manifest_sha256": sha256(networked_release / "manifest.json"), "pcrs": pcrs}
        started.put(f"releases/{product}/{version}", content)
        wanted = {
            "product": product,
            "version": version,
            "class": "software_tpm",
            "admit": "approval",
            "disk": {"serial": "system"},
            "sizes": SIZES,
            "recipients": manifest["escrow"]["recipients"],
        }
        started.put(f"hosts/{HOST}", wanted)
        yield started
        for line in started.admin.get("/admin/v1/audit").json()["records"]:
            print(line)  # pytest shows it of a test that fails


def demanded(registers: Mapping[int, str | None]) -> dict[str, str]:
    """Registers that have to have a value."""
    return {str(number): value for number, value in registers.items() if value is not None}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Fleet:
    """What an admin sees."""

    server: ProvisioningServer

    def unknown(self) -> dict[str, Any]:
        """The one machine that nobody knows."""
        (waiting,) = self.server.admin.get("/admin/v1/machines").json()["others"]
        assert waiting["state"] == "quarantined"
        return dict(waiting)

    def host(self) -> dict[str, Any]:
        """All that is known of the host."""
        return dict(self.server.admin.get(f"/admin/v1/machines/{HOST}").json())

    def state(self) -> str:
        """Where its newest enrolment is."""
        return str(self.host()["enrolments"][-1]["state"])


@pytest.fixture(scope="module")
def bare_machine(
    sandbox: Sandbox, keys: ProductKeys, server: ProvisioningServer, tmp_path_factory: pytest.TempPathFactory
) -> MachineSpec:
    """It has the product's Secure Boot keys, an empty disk, a new TPM, and boots by HTTP."""
    directory = tmp_path_factory.mktemp("bare")
    create_vars(sandbox, directory / installed.VARIABLES, keys=installed.secure_boot_keys(keys))
    with (directory / installed.DISK).open("wb") as stream:
        stream.truncate(DISK_SIZE)
    return MachineSpec(
        "bare",
        directory,
        UefiBoot(directory / installed.VARIABLES, pxe=False),
        disks=(Disk(directory / installed.DISK, serial="system"),),
        nics=(SegmentNic(*server.segment, bootindex=0),),
        tpm=True,
    )


def test_bare_machine_becomes_a_host(server: ProvisioningServer, bare_machine: MachineSpec, boot: Boot) -> None:
    fleet = Fleet(server)
    with boot(bare_machine) as machine:
        machine.serial.wait_for("somebody has to approve enrolment", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
        answer = server.admin.post(f"/admin/v1/enrolments/{fleet.unknown()['id']}/approve", json={"host": HOST})
        assert answer.is_success, answer.text
        machine.serial.wait_for(f"INSTALLED {HOST}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
        machine.wait_exit(BOOT_TIMEOUT)
    assert fleet.state() == "written"
    # Switched on again, firmware finds what the installer entered, and tries the network no more.
    with boot(replace(bare_machine, nics=(SegmentNic(*server.segment),))) as machine:
        reach(machine, PROMPT)
