# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot import uki
from ansible_collections.vauban.fleet.plugins.module_utils._tpm import expectation

ZERO = "0" * 64


def registers(name: str, *ways: str) -> dict[str, Any]:
    return {"pcr": {"4": {way: f"{name} {way}" for way in ways}, "11": {word: f"{name} {word}" for word in uki.PHASES}}}


MANIFEST = {"uki": registers("product", "boot_loader", "direct"), "installer": registers("installer", "direct")}


def test_installer_runs_in_the_initrd_and_firmware_started_it() -> None:
    expected = expectation.of_installer(MANIFEST)
    assert expected == {4: "installer direct", 7: None, 11: "installer enter-initrd", 12: ZERO, 13: ZERO}


def test_product_is_up_and_the_boot_loader_started_it() -> None:
    expected = expectation.of_product(MANIFEST)
    assert expected == {4: "product boot_loader", 7: None, 11: "product ready", 12: ZERO, 13: ZERO}


@pytest.mark.parametrize("expected", [expectation.of_installer(MANIFEST), expectation.of_product(MANIFEST)])
def test_what_anybody_can_extend_is_not_demanded_alone(expected: dict[int, str | None]) -> None:
    """Of the registers that name the system only PCR 4 was written before the system ran."""
    assert expected[4] is not None
