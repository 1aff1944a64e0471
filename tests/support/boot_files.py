# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role boot_server lays down, without Ansible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rendering

from ansible_collections.vauban.fleet.plugins.plugin_utils import _boot_server


def lay_down(directory: Path, **variables: Any) -> None:
    """Write the files that follow from these variables below a directory."""
    settings = {**rendering.defaults("boot_server"), **variables}
    asked = {name: settings[f"boot_server_{name}"] for name in _boot_server.Settings.model_fields}
    plan = _boot_server.plan(asked)
    rendering.lay_down("boot_server", directory, __boot_server_plan=plan, __boot_server_kea=plan["kea"], **variables)
