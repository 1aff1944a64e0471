# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A byte changed on the state volume while the machine was off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from disks import flip, longest_change, volumes
from machines import Boot, NewMachine, reach
from shell import PROMPT, Shell

from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec

PIECE = 6 * 1024 * 1024  # more than anything else that a boot writes in one piece
SIZE = 8 * PIECE  # the file system may put it in several
KNOWN = "/var/known"


def test_is_an_error_and_never_wrong_data(
    continued: NewMachine, instrumented_release: Path, boot: Boot, tmp_path: Path
) -> None:
    spec: MachineSpec = continued(tmp_path)
    with boot(spec) as machine:
        shell = Shell(machine)
        shell(f"yes {'v' * 63} | head -c {SIZE} > {KNOWN}; sync")
        machine.power_off(180)
    disk = spec.disks[0].path
    written = longest_change(instrumented_release / "machine" / installed.DISK, disk, volumes(disk)["state"])
    assert written.size >= PIECE, "the file was not found on the disk"
    flip(disk, written.offset + written.size // 2)
    with boot(replace(spec, restore=None)) as machine:
        reach(machine, PROMPT)
        shell = Shell(machine)
        assert "Input/output error" in shell.ask(f"cat {KNOWN} > /dev/null").text
        read = f"dd if={KNOWN} iflag=direct bs=4096 conv=noerror 2>/run/errors"
        assert shell(f"{read} | tr -d 'v\\n' | wc -c") == "0", "wrong data was read"
        assert shell("grep -c 'error reading' /run/errors") == "1"  # EILSEQ, since nothing is cached
        assert "INTEGRITY AEAD ERROR" in shell("dmesg")
