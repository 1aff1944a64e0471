# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the firmware does not start."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from machines import Boot, NewMachine

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory, signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

REFUSED = r"BdsDxe: failed to load .*: (Access Denied|Security Violation)"


def _unsigned(release: Path) -> Path:
    return next((release.parent / "work" / release.name).glob(f"{release.parent.name}_{release.name}.efi.unsigned"))


def _refused(boot: Boot, bare: NewMachine, binary: Path) -> None:
    with boot(bare(binary)) as machine:
        machine.serial.wait_for(REFUSED, timeout=120, fail_on=[r"EFI stub", r"Linux version"])


def test_unsigned_uki_is_refused(release: Path, bare: NewMachine, boot: Boot) -> None:
    _refused(boot, bare, _unsigned(release))


def test_uki_signed_with_another_key_is_refused(
    release: Path, sandbox: Sandbox, bare: NewMachine, boot: Boot, tmp_path: Path
) -> None:
    strangers = ProductKeys(tmp_path / "stranger")
    request = KeyRequest(name="stranger", kind="development")
    key_directory.ensure(strangers, request, sandbox, now=dt.datetime.now(dt.UTC))
    signed = tmp_path / "stranger.efi"
    signing.sign_pe(sandbox, _unsigned(release), signed, strangers.reference("db"), strangers.public("db"))
    _refused(boot, bare, signed)


def test_uki_with_one_changed_byte_is_refused(release: Path, bare: NewMachine, boot: Boot, tmp_path: Path) -> None:
    content = bytearray((release / f"{release.parent.name}_{release.name}.efi").read_bytes())
    content[len(content) // 2] ^= 1  # in the initrd
    changed = tmp_path / "changed.efi"
    changed.write_bytes(content)
    _refused(boot, bare, changed)
