# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A damaged core: repaired if it can be, else the machine stops."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from disks import flip, overwrite, volumes
from machines import BOOT_TIMEOUT, DEFAULT_TARGET, FAILED, Boot, NewMachine, reach

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec

# Everything that runs is linked with it.
READ_AT_BOOT = "/usr/lib/x86_64-linux-gnu/libc.so.6"
BEYOND_REPAIR = 2 * 1024 * 1024  # bytes; the parity repairs a burst of 0.4 % of the core


def _place(sandbox: Sandbox, release: Path, manifest: dict[str, Any], spec: MachineSpec, path: str) -> int:
    """Where a file of the core begins on the disk (dump.erofs(1) shows its extents)."""
    core = release / manifest["core"]["file"]
    shown = sandbox.run(["dump.erofs", "-e", f"--path={path}", "/run/core"], binds=[Bind(core, "/run/core")]).stdout
    first = re.search(r"^\s*0:\s.*:\s*(\d+)\.\.\s*\d+ \|", shown, re.MULTILINE)
    assert first is not None, shown
    return volumes(spec.disks[0].path)[f"core_{manifest['version']}"].offset + int(first[1])


def test_one_changed_byte_is_repaired(
    release: Path, manifest: dict[str, Any], sandbox: Sandbox, copy_to_damage: NewMachine, boot: Boot
) -> None:
    spec: MachineSpec = copy_to_damage()
    flip(spec.disks[0].path, _place(sandbox, release, manifest, spec, READ_AT_BOOT) + 4096)
    with boot(spec) as machine:
        console = reach(machine, DEFAULT_TARGET)
    assert re.search(r"verity-fec: .* corrected 1 errors", console)
    assert "FAILED" not in console


def test_damage_beyond_repair_stops_the_kernel(
    release: Path, manifest: dict[str, Any], sandbox: Sandbox, copy_to_damage: NewMachine, boot: Boot
) -> None:
    spec: MachineSpec = copy_to_damage()
    place = _place(sandbox, release, manifest, spec, READ_AT_BOOT)
    overwrite(spec.disks[0].path, place, os.urandom(BEYOND_REPAIR))
    with boot(spec) as machine:
        machine.serial.wait_for(
            r"Kernel panic - not syncing: dm-verity device corrupted",
            timeout=BOOT_TIMEOUT,
            fail_on=[DEFAULT_TARGET, FAILED],
        )
