# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine as it was installed."""

from __future__ import annotations

from machines import BOOT_TIMEOUT, DEFAULT_TARGET, Boot, NewMachine


def test_boots_twice_under_secure_boot_and_opens_its_state_without_a_prompt(copy: NewMachine, boot: Boot) -> None:
    spec = copy()
    for _boot in range(2):
        with boot(spec) as machine:
            machine.serial.wait_for(DEFAULT_TARGET, timeout=BOOT_TIMEOUT, fail_on=[r"BOOT FAILED", r"Kernel panic"])
            console = machine.serial.text
            machine.kill()
        assert "Secure boot enabled" in console
        assert "Finished systemd-cryptsetup@state." in console
        assert "FAILED" not in console
