# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot import measurement
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

HEADERS = 0x200
PE_OFFSET = 0x40
OPTIONAL_OFFSET = PE_OFFSET + 24
CHECKSUM_OFFSET = OPTIONAL_OFFSET + 64
SECURITY_OFFSET = OPTIONAL_OFFSET + 112 + 4 * 8


def pe_binary(code: bytes, name: bytes = b".text") -> bytes:
    """A PE32+ EFI application (PE format, "Optional Header") with one section."""
    code = code.ljust(-(-len(code) // HEADERS) * HEADERS, b"\0")
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, len(code), 0, 0, 0x1000, 0x1000)
    optional += struct.pack("<QIIHHHHHHIIIIHH", 0, 0x1000, HEADERS, 0, 0, 1, 0, 0, 0, 0, 0x2000, HEADERS, 0, 10, 0)
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    section = struct.pack("<8sIIIIIIHHI", name, len(code), 0x1000, len(code), HEADERS, 0, 0, 0, 0, 0x60000020)
    stub = b"MZ".ljust(60, b"\0") + struct.pack("<I", PE_OFFSET)
    return (stub + coff + optional + section).ljust(HEADERS, b"\0") + code


def signed(binary: bytes) -> bytes:
    """The same with something in place of checksum and signature."""
    data = bytearray(binary) + b"s" * 64
    struct.pack_into("<I", data, CHECKSUM_OFFSET, 0x1234)
    struct.pack_into("<II", data, SECURITY_OFFSET, len(binary), 64)
    return bytes(data)


@pytest.fixture
def application(tmp_path: Path) -> Path:
    path = tmp_path / "application.efi"
    path.write_bytes(pe_binary(b"\xeb\xfe"))
    return path


def test_digest_leaves_out_checksum_and_signature(application: Path) -> None:
    plain = application.read_bytes()
    without = plain[:CHECKSUM_OFFSET] + plain[CHECKSUM_OFFSET + 4 : SECURITY_OFFSET] + plain[SECURITY_OFFSET + 8 :]
    expected = hashlib.sha256(without).hexdigest()

    assert measurement.authenticode(application) == expected
    application.write_bytes(signed(plain))
    assert measurement.authenticode(application) == expected


def test_digest_changes_with_the_code(application: Path) -> None:
    before = measurement.authenticode(application)
    application.write_bytes(pe_binary(b"\x90\xeb\xfd"))

    assert measurement.authenticode(application) != before


def test_policy_keys_are_those_of_systemd_measure(tmp_path: Path) -> None:
    signatures = [
        {"pcrs": [11], "pkfp": "bb", "pol": "", "sig": ""},
        {"pcrs": [11], "pkfp": "aa", "pol": "", "sig": ""},
    ]
    path = tmp_path / "uki.efi"
    path.write_bytes(pe_binary(json.dumps({"sha256": signatures}).encode(), b".pcrsig"))
    assert measurement.policy_keys(path) == ["aa", "bb"]


@pytest.mark.parametrize(
    ("section", "content"),
    [(b".text", b"{}"), (b".pcrsig", b"{"), (b".pcrsig", b"{}"), (b".pcrsig", b'{"sha256": []}'), (b".pcrsig", b"[1]")],
)
def test_image_without_a_policy_is_named(tmp_path: Path, section: bytes, content: bytes) -> None:
    path = tmp_path / "uki.efi"
    path.write_bytes(pe_binary(content, section))
    with pytest.raises(FleetError, match=r"uki.efi: .*(pcrsig|PCR 11)"):
        measurement.policy_keys(path)


def test_pcr_is_extended_in_order_of_starting(application: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.efi"
    other.write_bytes(pe_binary(b"\xf4"))

    assert measurement.boot_pcr([application, other]) != measurement.boot_pcr([other, application])


def test_pcr_without_an_image_holds_action_and_separator() -> None:
    """Both digests as real firmware logs them."""
    value = bytes(32)
    for digest in (
        "3d6772b4f84ed47595d72a2c4c5ffd15f5bb72c7507fe26f2aaee2c69d5633ba",
        "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119",
    ):
        value = hashlib.sha256(value + bytes.fromhex(digest)).digest()

    assert measurement.boot_pcr([]) == value.hex()


@pytest.mark.parametrize("content", [b"", b"not a program", b"MZ" + bytes(100)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(FleetError, match="not a PE binary"):
        measurement.authenticode(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"absent\.efi"):
        measurement.authenticode(tmp_path / "absent.efi")
