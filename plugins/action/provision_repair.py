# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import follow
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.orders import OrderAction


class ActionModule(OrderAction):
    """Orders machines to repair their disks."""

    SPEC: ClassVar[dict[str, Any]] = {**OrderAction.SPEC, "thorough": {"type": "bool", "default": False}}
    GOAL = follow.REPAIRED

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Whether files may be lost by it is all that it says besides."""
        return self.order(arguments, {"thorough": arguments["thorough"]})
