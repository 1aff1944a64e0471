# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and places of the scenario."""

from __future__ import annotations

from pathlib import Path

SCENARIO = Path(__file__).resolve().parents[2] / "build/molecule/site"
HOSTS = ("gateway", "collector", "client")
TUNNELS = ("admin", "audit", "logs_time", "high")
Packet = tuple[str, str, str, int]  # source, destination, protocol, port
