# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a machine asks for updates, and when it starts a new version: systemd itself keeps the times of its site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hosts
import pytest
import rendering
from booted import Booted, booted
from sdk import unpacked

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MARKER = "/var/lib/update-install/restart"
RESTARTED = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/restarted\n"
Machines = Callable[..., Booted]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machines]:
    """Boots one with these variables of role update_client."""
    tree = unpacked()
    with ExitStack() as stack:

        def make(**variables: Any) -> Booted:
            files = tmp_path / "files"
            rendering.lay_down("update_client", files, update_client_url="https://updates.example.org", **variables)
            made = stack.enter_context(booted("machine", (files, tree), tmp_path / "machine"))
            made("systemctl", "start", "timers.target")
            return made

        yield make


def calendar(machine: Booted, unit: str) -> str:
    return machine("systemctl", "show", "--property=TimersCalendar", "--value", unit)


def test_machine_asks_and_restarts_at_the_times_of_its_site(machine: Machines) -> None:
    asks, restarts = ["*-*-* 20..23:00:00", "Sat,Sun *-*-* *:00:00"], ["Sun *-*-* 03:00:00"]
    made = machine(update_client_ask_times=asks, update_client_reboot="at_times", update_client_restart_times=restarts)
    assert made.state("update-fetch.timer") == made.state("update-restart.timer") == "active"
    said = calendar(made, "update-fetch.timer")
    assert all(time in said for time in asks), said
    assert made("systemctl", "show", "--property=TimersMonotonic", "--value", "update-fetch.timer").strip() == ""
    said = calendar(made, "update-restart.timer")
    assert restarts[0] in said
    assert "2000-01-01" not in said


def test_machine_of_no_particular_times_asks_after_its_start_and_never_restarts(machine: Machines) -> None:
    made = machine()
    assert made.state("update-fetch.timer") == "active"
    assert calendar(made, "update-fetch.timer").strip() == ""
    assert "OnBootUSec=5min" in made("systemctl", "show", "--property=TimersMonotonic", "--value", "update-fetch.timer")
    assert made.state("update-restart.timer") == "inactive"


def test_only_what_this_boot_has_installed_is_started(machine: Machines) -> None:
    made = machine()
    made("systemctl", "start", "update-restart.service")
    made.write(MARKER, "00000000-0000-0000-0000-000000000000\n")
    made("systemctl", "start", "update-restart.service")
    assert "reboot.target" not in made("systemctl", "list-jobs", "--no-legend")
    # In a namespace nothing can really restart.
    made.write("/run/systemd/system/systemd-reboot.service", RESTARTED)
    made("systemctl", "daemon-reload")
    made.write(MARKER, BOOT_ID.read_text())
    made.ask("systemctl", "start", "update-restart.service")
    restarted = made.root / "run/restarted"
    hosts.wait_for(restarted.exists, "the restart", within=60)


@pytest.mark.parametrize(
    ("ended", "asks", "soon"), [("no-answer", [], True), ("refused", [], False), ("no-answer", ["*-*-* 03:00"], False)]
)
def test_no_answer_is_a_reason_to_ask_again_soon(machine: Machines, ended: str, asks: list[str], soon: bool) -> None:
    """Each time, also when it was the retry that got none."""
    made = machine(update_client_ask_times=asks)
    # How it ends, in the place of the program: there is no server.
    script = f"echo {ended} > /var/lib/update/asked; echo >> /var/lib/update/count; exit 1"
    made.write(
        "/run/systemd/system/update-fetch.service.d/90-test.conf",
        f"[Service]\nUser=root\nExecStart=\nExecStart=sh -c '{script}'\n",
    )
    made("systemctl", "daemon-reload")
    assert made.ask("systemctl", "start", "update-fetch.service").returncode != 0
    hosts.wait_for(lambda: not made("systemctl", "list-jobs", "--no-legend").strip(), "the end of all jobs")
    assert (made.state("update-retry.timer") == "active") is soon, made.journal()
    if not soon:
        return
    said = made("systemctl", "show", "--property=TimersMonotonic,RandomizedDelayUSec", "update-retry.timer")
    assert "OnActiveUSec=10min" in said
    assert "RandomizedDelayUSec=20min" in said
    quick = "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=1ms\n"
    made.write("/run/systemd/system/update-retry.timer.d/90-test.conf", quick)
    made("systemctl", "daemon-reload")
    made("systemctl", "restart", "update-retry.timer")
    count = made.root / "var/lib/update/count"
    hosts.wait_for(lambda: len(count.read_text()) >= 3, "the third question", within=60)
