# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import machine, spec
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import SecureBootKeys, create_vars

MEDIUM_LABEL = "VAUBAN_RELEASE"  # the installer looks for it
REPORT_PORT = "vauban.report"
# Files of a machine's directory, which make up an installed machine.
DISK, VARIABLES, REPORT = "disk.raw", "variables.fd", "report.json"
_SPARE = 8 * 1024 * 1024  # of the FAT file system, bytes


def secure_boot_keys(keys: ProductKeys) -> SecureBootKeys:
    """The product's own certificates and no others, for a machine's variable store."""
    directory = keys.directory
    return SecureBootKeys(directory / "PK.crt", directory / "KEK.crt", (directory / "db.crt",), str(keys.owner()))


def write_medium(sandbox: Sandbox, release: Path, files: list[str], request: Mapping[str, Any], dest: Path) -> None:
    """Write a read-only medium with a release's files and the request of an installation.

    :param files: names below ``release``.
    """
    content = dest.with_name(f".{dest.name}.content")
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir()
    try:
        for name in files:
            os.link(release / name, content / name)
        (content / "install.json").write_text(json.dumps(request, sort_keys=True))
        sandbox.run(
            ["mkfs.erofs", "--quiet", "-L", MEDIUM_LABEL, f"/run/out/{dest.name}", "/run/in"],
            binds=[Bind(dest.parent, "/run/out", writable=True), Bind(content, "/run/in")],
        )
    finally:
        shutil.rmtree(content)


def write_boot_medium(sandbox: Sandbox, uki: Path, dest: Path) -> None:
    """Write a FAT file system that firmware boots the UKI from (UEFI specification 3.5.1.1, removable media)."""
    with dest.open("wb") as stream:
        stream.truncate(uki.stat().st_size + _SPARE)
    image = f"/run/out/{dest.name}"
    binds = [Bind(dest.parent, "/run/out", writable=True), Bind(uki, "/run/in/uki")]
    for command in (
        ["mkfs.vfat", "-n", "INSTALLER", image],
        ["mmd", "-i", image, "::EFI", "::EFI/BOOT"],
        ["mcopy", "-i", image, "/run/in/uki", "::EFI/BOOT/BOOTX64.EFI"],
    ):
        sandbox.run(command, binds=binds)


def install_in_vm(
    sandbox: Sandbox,
    *,
    name: str,
    directory: Path,
    boot_medium: Path,
    medium: Path,
    disk_size: int,
    keys: ProductKeys,
    timeout: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Make an installed machine: boot the installer once with an empty disk, a new TPM and the product's keys.

    :param directory: empty; afterwards holds the disk, the variable store and the TPM's state.
    :param disk_size: bytes.
    :param timeout: seconds, for a machine that hangs.
    :returns: the installer's report.
    :raises FleetError: the installation failed; carries the step and its error.
    """
    with (directory / DISK).open("wb") as stream:
        stream.truncate(disk_size)
    create_vars(sandbox, directory / VARIABLES, keys=secure_boot_keys(keys))
    machine_spec = spec.MachineSpec(
        name=name,
        directory=directory,
        boot=spec.UefiBoot(directory / VARIABLES),
        disks=(
            spec.Disk(boot_medium, readonly=True, serial="boot", bootindex=0),
            spec.Disk(directory / DISK, serial="system"),
            spec.Disk(medium, readonly=True, serial="medium"),
        ),
        tpm=True,
        ports={REPORT_PORT: directory / REPORT},
    )
    with machine.Machine(machine_spec, sandbox) as vm:
        say(f"the installer runs in a machine; its console: {vm.serial.log}")
        vm.wait_exit(timeout)  # it switches itself off, done or failed; the report tells which
    return read_report(directory / REPORT)


def read_report(path: Path) -> dict[str, Any]:
    """The report of an installation.

    :raises FleetError: there is none, or it does not say ``installed``.
    """
    try:
        report = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise FleetError("the installer sent no report", where=str(path), remedy="read serial.log beside it") from None
    if report.get("status") != "installed":
        failure = report.get("failure") or {}
        step = report["steps"][-1]["step"] if report.get("steps") else "start"
        raise FleetError(f"the installer failed at '{step}': {failure.get('message')}", where=failure.get("where"))
    return dict(report)


def copy_of(sandbox: Sandbox, built: Path, copy: Path, *, interactive: bool = False) -> spec.MachineSpec:
    """A machine that starts where ``built`` stands and changes nothing there.

    :param built: directory of an installed machine (:func:`install_in_vm`).
    :param copy: directory for the differences, and for copies of the variable store and the TPM.
    """
    binds = [Bind(copy, "/run/out", writable=True), Bind(built, "/run/built")]
    disk = copy / "disk.qcow2"
    sandbox.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", f"/run/built/{DISK}", "/run/out/disk.qcow2"],
        binds=binds,
    )
    shutil.copy(built / VARIABLES, copy / VARIABLES)
    shutil.copytree(built / "tpm", copy / "tpm")
    return spec.MachineSpec(
        name=built.parent.parent.name,
        directory=copy,
        boot=spec.UefiBoot(copy / VARIABLES),
        disks=(spec.Disk(disk, format="qcow2", base=built / DISK, serial="system"),),
        tpm=True,
        interactive=interactive,
    )
