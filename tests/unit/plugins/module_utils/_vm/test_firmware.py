# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._vm import firmware

edk2 = pytest.importorskip("virt.firmware.varstore.edk2", reason="the Python package virt-firmware is not installed")


def empty_store() -> bytes:
    """An EFI firmware volume that holds an empty authenticated variable store (as OVMF's template does)."""
    from virt.firmware.efi import guids

    size, header = 0x40000, 72
    volume: bytes = bytes(16) + guids.parse_str(guids.NvData).bytes_le
    volume += struct.pack("<QLLHHHxBLL", size, 0x4856465F, 0, header, 0, 0, 2, size // 4096, 4096)
    volume = volume.ljust(header, b"\0")
    volume += guids.parse_str(guids.AuthVars).bytes_le + struct.pack("<LBB", size - header, 0x5A, 0xFE) + bytes(6)
    return volume.ljust(size, b"\xff")


def test_boot_address_is_for_the_next_boot_only(tmp_path: Path) -> None:
    store = tmp_path / "vars.fd"
    store.write_bytes(empty_store())
    firmware.set_boot_uri(store, "http://192.0.2.1/installer.efi")
    variables = edk2.Edk2VarStore(str(store)).get_varlist()
    assert variables["BootNext"].data == struct.pack("<H", 0x99)
    assert b"http://192.0.2.1/installer.efi" in variables["Boot0099"].data
    assert "BootOrder" not in variables
    assert len(store.read_bytes()) == len(empty_store())


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "vars.fd"
    other.write_bytes(b"something else" * 100)
    with pytest.raises(FleetError, match="not a variable store") as caught:
        firmware.set_boot_uri(other, "http://192.0.2.1/installer.efi")
    assert caught.value.where == str(other)
    assert other.read_bytes() == b"something else" * 100
    assert list(tmp_path.iterdir()) == [other]
