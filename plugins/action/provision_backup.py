# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import follow, recipients
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.orders import OrderAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import sandbox_at


class ActionModule(OrderAction):
    """Orders machines to send their data, encrypted."""

    SPEC: ClassVar[dict[str, Any]] = {
        **OrderAction.SPEC,
        "recipients": {"type": "list", "elements": "str", "required": True},
        "sdk": {"type": "path", "required": True},
    }
    GOAL = follow.BACKED_UP

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """That age can encrypt to the recipients is found out here, and not by a machine in the night."""
        with tempfile.TemporaryDirectory(prefix="vauban-backup-") as temporary:
            found = recipients.read(arguments["recipients"], sandbox_at(arguments["sdk"], Path(temporary)))
        return {**self.order(arguments, {"recipients": found}), "recipients": found}
