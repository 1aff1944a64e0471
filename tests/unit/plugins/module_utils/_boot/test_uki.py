# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot.uki import PHASES, _phases, extend
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

ZERO = "0" * 64


# What a PCR of every machine holds whose firmware measured nothing but EV_SEPARATOR, four zero bytes, into it.
SEPARATOR_ONLY = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"


def test_extend_as_the_tpm_does() -> None:
    assert extend(ZERO, "\0\0\0\0") == SEPARATOR_ONLY


def test_phases_extend_what_ukify_printed(tmp_path: Path) -> None:
    printed = f"11:sha1={'a' * 40}\n11:sha256={'b' * 64}\n"
    phases = _phases(printed, tmp_path / "log")
    assert list(phases) == list(PHASES)
    assert phases["enter-initrd"] == "b" * 64
    assert phases["leave-initrd"] == extend("b" * 64, "leave-initrd")
    assert phases["ready"] == extend(phases["sysinit"], "ready")


@pytest.mark.parametrize("printed", ["", "12:sha256=" + "b" * 64, "11:sha256=beef\n"])
def test_ukify_that_printed_no_measurement(tmp_path: Path, printed: str) -> None:
    with pytest.raises(FleetError, match="log: ukify printed no PCR 11 measurement"):
        _phases(printed, tmp_path / "log")
