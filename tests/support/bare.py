# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines as they come from the factory, on the segment of a provisioning server."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from provisioning_server import ProvisioningServer
from tpm_machines import Tpm, machines

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm import expectation
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, SegmentNic, UefiBoot

DISK_SIZE = 1024 * 1024 * 1024
SIZES = {"esp_size": 128 << 20, "swap_size": 64 << 20, "state_size": 64 << 20, "core_size": 256 << 20}
FAILED = "INSTALLATION FAILED"


@dataclass(frozen=True)
class Bare:
    """A machine with empty disks and the product's Secure Boot keys. It boots from the network first.

    :param ek_sha256: of its TPM, as it stands on the delivery note; none without a TPM.
    """

    spec: MachineSpec
    ek_sha256: str | None

    @property
    def from_disk(self) -> MachineSpec:
        """Switched on once it is installed: firmware finds what was entered, and tries the network no more."""
        return replace(self.spec, nics=tuple(replace(nic, bootindex=None) for nic in self.spec.nics))


def bare_machine(
    sandbox: Sandbox,
    keys: ProductKeys,
    directory: Path,
    segment: tuple[str, int],
    mac: str,
    *,
    disks: Sequence[int] = (DISK_SIZE,),
    tpm: Literal["1.2", "2.0"] | None = "2.0",
    secure_boot: bool = True,
    setup_mode: bool = False,
    pxe: bool = False,
    others: Sequence[SegmentNic] = (),
) -> Bare:
    """Make one.

    :param directory: empty; for all that it consists of.
    :param disks: their sizes, bytes. They have the serial numbers ``system``, ``system1`` and so on.
    :param setup_mode: its firmware has no keys, and takes them from anybody.
    :param pxe: boot by PXE, and not by HTTP.
    :param others: its other network cards, which it does not boot from.
    """
    ek_sha256 = _new_tpm(sandbox, directory) if tpm == "2.0" else None
    variables = directory / installed.VARIABLES
    enrolled = None if setup_mode else installed.secure_boot_keys(keys)
    create_vars(sandbox, variables, keys=enrolled, secure_boot=secure_boot)
    made = []
    for number, size in enumerate(disks):
        path = directory / (f"disk{number}.raw" if number else installed.DISK)
        with path.open("wb") as stream:
            stream.truncate(size)
        made.append(Disk(path, serial=f"system{number or ''}"))
    nic = SegmentNic(*segment, mac=mac, bootindex=0)
    boot = UefiBoot(variables, pxe=pxe)
    nics, version = (nic, *others), tpm or "2.0"
    spec = MachineSpec("bare", directory, boot, disks=tuple(made), nics=nics, tpm=tpm is not None, tpm_version=version)
    return Bare(spec, ek_sha256)


def _new_tpm(sandbox: Sandbox, directory: Path) -> str:
    """A TPM that the machine will have; the hash of its endorsement key."""
    workshop = directory / "workshop"
    workshop.mkdir()
    with machines(sandbox, workshop, {"bare": None}) as both:
        ek_sha256 = str(Tpm(both, "bare").sha256)
        both.machine("bare", "off")
    shutil.move(workshop / "tpms/bare", directory / "tpm")
    shutil.rmtree(workshop)
    return ek_sha256


def expect(
    server: ProvisioningServer,
    release: Path,
    host: str,
    bare: Bare,
    mac: str,
    disk: Mapping[str, str],
    hardware_profile: str | None = None,
) -> None:
    """Tell the service what playbook provision would: the release, and a host whose machine this is."""
    manifest = json.loads((release / "manifest.json").read_text())
    product, version = manifest["product"], manifest["version"]
    predicted = {
        "installer": _demanded(expectation.of_installer(manifest)),
        "installed": _demanded(expectation.of_product(manifest)),
    }
    digest = hashlib.sha256((release / "manifest.json").read_bytes()).hexdigest()
    server.put(f"releases/{product}/{version}", {"manifest_sha256": digest, "pcrs": predicted})
    wanted = {
        "product": product,
        "version": version,
        "class": "software_tpm",
        "admit": "listed",
        "ek_sha256": bare.ek_sha256 or hashlib.sha256(mac.encode()).hexdigest(),  # no two hosts have the same
        "macs": [mac],
        "disk": dict(disk),
        "sizes": SIZES,
        "hardware_profile": hardware_profile,
        "recipients": manifest["escrow"]["recipients"],
    }
    server.put(f"hosts/{host}", wanted)


def _demanded(registers: Mapping[int, str | None]) -> dict[str, str]:
    """Registers that have to have a value."""
    return {str(number): value for number, value in registers.items() if value is not None}


def state(server: ProvisioningServer, host: str) -> tuple[str, str]:
    """Where the newest enrolment of a host is, and what its machine said last."""
    known = server.admin.get(f"/admin/v1/machines/{host}").json()
    newest = known["enrolments"][-1]
    return str(newest["state"]), str(newest["line"] or "")
