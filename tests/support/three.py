# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of scenario ``site``."""

from __future__ import annotations

HOSTS = ("gateway", "collector", "client")
TUNNELS = ("admin", "audit", "logs_time", "high")
