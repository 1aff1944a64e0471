# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests with machines share: how far a boot came, and what its console says about it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, UefiBoot

Boot = Callable[[MachineSpec], AbstractContextManager[Machine]]
NewMachine = Callable[..., MachineSpec]
Relink = Callable[..., Path]

DEFAULT_TARGET = r"Reached target .*multi-user\.target"
STATE_MOUNTED = r"Mounted .*sysroot-state\.mount"
FAILED = r"BOOT FAILED"
PANIC = r"Kernel panic"
REFUSED_BY_FIRMWARE = r"BdsDxe: failed to load .*: (?:Access Denied|Security Violation)"
# An emulated machine on a busy host; good markers end every wait long before.
BOOT_TIMEOUT = 600  # seconds
FIRMWARE_TIMEOUT = 240


def reach(machine: Machine, marker: str) -> str:
    """Wait until a boot has come that far; return the console's text. If it failed, the error carries the reason."""
    found = machine.serial.wait_for([marker, FAILED], timeout=BOOT_TIMEOUT)
    assert found.re.pattern == marker, f"the boot failed before {marker!r}:\n{_reason(machine)}"
    return machine.serial.text


def reach_failure(machine: Machine) -> str:
    """Wait until a boot ends in the failure target, which has no shell; return the reason that it prints."""
    never = [STATE_MOUNTED, DEFAULT_TARGET, PANIC]
    machine.serial.wait_for(FAILED, timeout=BOOT_TIMEOUT, fail_on=never)
    return _reason(machine)


def _reason(machine: Machine) -> str:
    """The notice of boot-failed.service stands before the reason and, so that it stays on a screen, behind it."""
    before = machine.serial.wait_for(r"Restart in \d+ seconds", timeout=60, fail_on=[PANIC])
    after = machine.serial.wait_for(FAILED, timeout=120, fail_on=[PANIC])
    return machine.serial.text[before.end() : after.start()].strip()


def read_manifest(release: Path) -> dict[str, Any]:
    """What a release says about itself."""
    data: dict[str, Any] = json.loads((release / "manifest.json").read_text("utf-8"))
    return data


def copy_with_raw_disk(release: Path, directory: Path) -> MachineSpec:
    """A copy of a built machine whose disk, ``disks[0].path``, can be changed byte by byte."""
    built, disk = release / "machine", directory / installed.DISK
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", built / installed.DISK, disk], check=True)
    shutil.copy(built / installed.VARIABLES, directory)
    shutil.copytree(built / "tpm", directory / "tpm")
    boot = UefiBoot(directory / installed.VARIABLES)
    return MachineSpec("copy", directory, boot, disks=(Disk(disk, serial="system"),), tpm=True)
