# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the firmware's variables say about Secure Boot. With real firmware: tests/e2e/test_provisioning_faults.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import secure_boot

GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"


@pytest.fixture
def variables(tmp_path: Path) -> Path:
    """Those of a machine with Secure Boot on, as efivarfs shows them."""
    (tmp_path / f"SecureBoot-{GUID}").write_bytes(b"\x06\0\0\0\x01")
    (tmp_path / f"SetupMode-{GUID}").write_bytes(b"\x06\0\0\0\0")
    return tmp_path


def test_secure_boot_is_on(variables: Path) -> None:
    secure_boot.require(variables)


@pytest.mark.parametrize("value", [b"\x06\0\0\0\0", b"\x06\0\0\0", b""])
def test_secure_boot_is_off(variables: Path, value: bytes) -> None:
    (variables / f"SecureBoot-{GUID}").write_bytes(value)
    with pytest.raises(FleetError, match="Secure Boot is off"):
        secure_boot.require(variables)


def test_firmware_knows_no_secure_boot(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="Secure Boot is off"):
        secure_boot.require(tmp_path)


def test_anybody_may_change_its_keys(variables: Path) -> None:
    (variables / f"SetupMode-{GUID}").write_bytes(b"\x06\0\0\0\x01")
    with pytest.raises(FleetError, match="setup mode"):
        secure_boot.require(variables)


def test_keys_are_not_enrolled_where_nobody_knows_what_cards_start(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="no event log"):
        secure_boot.enrol({}, tmp_path, tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("driver", ["BOOT", "RUNTIME"])
def test_keys_are_not_enrolled_over_drivers_of_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    log = tmp_path / "log"
    log.write_text(f"  EventType: EV_EFI_{driver}_SERVICES_DRIVER\n")
    monkeypatch.setattr(secure_boot, "run", lambda words: SimpleNamespace(stdout=Path(words[1]).read_text()))
    (tmp_path / "variables").mkdir()
    with pytest.raises(FleetError, match="1 drivers of cards"):
        secure_boot.enrol({}, tmp_path / "variables", log)
    assert list((tmp_path / "variables").iterdir()) == []
