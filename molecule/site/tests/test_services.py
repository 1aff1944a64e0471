# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Through the tunnel logs arrive and time follows."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("name", ["client", "gateway"])
def test_logs_arrive(ask: Any, eventually: Any, name: str) -> None:
    ask(name, f"logger --tag proof said-by-{name}")
    eventually(
        lambda: f"said-by-{name}" in ask("collector", "sh -c 'cat /var/log/collected/*.log || true'"), "collected", 120
    )


@pytest.mark.parametrize("name", ["client", "gateway"])
def test_time_follows(ask: Any, eventually: Any, name: str) -> None:
    """A source that is selected (*), and authenticated with NTS."""
    eventually(lambda: "*" in ask(name, "chronyc -n sources").partition("^")[2][:1], "synchronised", 180)
    (line,) = [each for each in ask(name, "chronyc -n authdata").splitlines() if "NTS" in each]
    fields = line.split()
    assert fields[1] == "NTS"
    assert int(fields[-2]) > 0  # cookies: keys were established
