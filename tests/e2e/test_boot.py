# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine as it was installed, started twice and each time switched off with the power button."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from machines import DEFAULT_TARGET, STATE_MOUNTED, Boot, reach

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed

POWER_OFF_TIMEOUT = 180


@pytest.fixture(scope="module")
def consoles(release: Path, sandbox: Sandbox, boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the two boots printed."""
    spec = installed.copy_of(sandbox, release / "machine", tmp_path_factory.mktemp("machine"))
    printed = []
    for _boot in range(2):
        with boot(spec) as machine:
            reach(machine, DEFAULT_TARGET)
            machine.serial.send("\nroot\n")
            machine.power_off(POWER_OFF_TIMEOUT)
            printed.append(machine.serial.text)
    return printed


def test_boots_under_secure_boot(consoles: list[str]) -> None:
    assert all("Secure boot enabled" in console for console in consoles)


def test_opens_its_state_without_a_prompt(consoles: list[str]) -> None:
    for console in consoles:
        assert re.search(STATE_MOUNTED, console)
        assert not re.search(r"(?i)passphrase|recovery key", console)


def test_no_unit_fails(consoles: list[str]) -> None:
    for console in consoles:
        assert [line for line in console.splitlines() if "FAILED" in line or "DEPEND" in line] == []


def test_nobody_can_log_in_on_the_console(consoles: list[str]) -> None:
    for console in consoles:
        assert not re.search(r"(?i)login:|password:|[#$] $", console, re.MULTILINE)


def test_power_button_closes_the_state_in_order(consoles: list[str]) -> None:
    for console in consoles:
        assert re.search(r"systemd-shutdown.*: All filesystems unmounted\.", console)
        # The core runs from its volume and the verity device on it until the end.
        assert "Not all DM devices detached, 2 left." in console
