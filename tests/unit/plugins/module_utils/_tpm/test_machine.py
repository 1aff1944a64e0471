# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm import machine


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel shows of a TPM; no TPM yet."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(machine, "DEVICE", tmp_path / "tpmrm0")
    monkeypatch.setattr(machine, "_FIRST_TPM", tmp_path / "tpm0")
    return tmp_path


def test_machine_without_tpm(sysfs: Path) -> None:
    with pytest.raises(FleetError, match="this machine shows no TPM"):
        machine.Tpm(sysfs)


def test_machine_with_an_old_tpm(sysfs: Path) -> None:
    (sysfs / "tpm0").mkdir()
    (sysfs / "tpm0/tpm_version_major").write_text("1\n")
    with pytest.raises(FleetError, match=r"a TPM 1\.2, and a TPM 2\.0 is needed"):
        machine.Tpm(sysfs)


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_directory_that_others_can_read(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(FleetError, match="this is no directory for its owner only"):
        machine.Tpm(tmp_path, tcti="device:/dev/null")
    with pytest.raises(FleetError, match="this is no directory for its owner only"):
        machine.Tpm(tmp_path / "missing", tcti="device:/dev/null")


@pytest.mark.parametrize("padding", [b"", bytes(100), b"\xff" * 100])
def test_padding_behind_a_certificate(padding: bytes) -> None:
    certificate = b"\x30\x82\x01\x00" + bytes(range(256))
    assert machine.without_padding(certificate + padding) == certificate


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x82", b"\x30\x82\xff\xff\x01", bytes(40), b"\x10\x01\x03"])
def test_what_is_no_certificate_stays_as_it_is(data: bytes) -> None:
    assert machine.without_padding(data) == data
