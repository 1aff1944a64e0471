# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the firmware does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from machines import FIRMWARE_TIMEOUT, REFUSED_BY_FIRMWARE, Boot, NewMachine, Relink

from ansible_collections.vauban.fleet.plugins.module_utils._boot import signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("release")


def _assert_refused(boot: Boot, bare: NewMachine, binary: Path) -> None:
    with boot(bare(binary)) as machine:
        started = [r"EFI stub", r"Linux version"]
        machine.serial.wait_for(REFUSED_BY_FIRMWARE, timeout=FIRMWARE_TIMEOUT, fail_on=started)


def test_signed_uki_is_started(release: Path, manifest: dict[str, Any], bare: NewMachine, boot: Boot) -> None:
    """Without this the refusals would show nothing."""
    with boot(bare(release / manifest["uki"]["file"])) as machine:
        machine.serial.wait_for(r"EFI stub", timeout=FIRMWARE_TIMEOUT)


def test_unsigned_uki_is_refused(unsigned: Path, bare: NewMachine, boot: Boot) -> None:
    _assert_refused(boot, bare, unsigned)


def test_uki_signed_with_another_key_is_refused(
    unsigned: Path, strangers: ProductKeys, sandbox: Sandbox, bare: NewMachine, boot: Boot, tmp_path: Path
) -> None:
    signed = tmp_path / "stranger.efi"
    signing.sign_pe(sandbox, unsigned, signed, strangers.reference("db"), strangers.public("db"))
    _assert_refused(boot, bare, signed)


def test_uki_with_one_changed_byte_is_refused(
    release: Path, manifest: dict[str, Any], bare: NewMachine, boot: Boot, tmp_path: Path
) -> None:
    content = bytearray((release / manifest["uki"]["file"]).read_bytes())
    content[len(content) // 2] ^= 1  # in the initrd
    changed = tmp_path / "changed.efi"
    changed.write_bytes(content)
    _assert_refused(boot, bare, changed)


def test_uki_with_another_command_line_signed_with_another_key_is_refused(
    relink: Relink, strangers: ProductKeys, bare: NewMachine, boot: Boot
) -> None:
    _assert_refused(boot, bare, relink(["systemd.unit=rescue.target"], strangers))
