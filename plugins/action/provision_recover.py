# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import SOCKET, ProvisionAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.recovery import Officer, require_identity
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import sandbox_at


class ActionModule(ProvisionAction):
    """Gives back a recovery key, into a file for one pair of eyes."""

    SPEC: ClassVar[dict[str, Any]] = {
        **SOCKET,
        "host": {"type": "str", "required": True},
        "identity": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "sdk": {"type": "path", "required": True},
        "escrow": {"type": "str"},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Decrypt one key. Before anything is asked, which is logged, all is there that it takes."""
        identity, dest = Path(arguments["identity"]), Path(arguments["dest"])
        require_identity(identity)
        if dest.exists():
            raise FleetError("is there already", where=str(dest), remedy="remove it, or name another file")
        if self._task.check_mode:
            return {"changed": True, "path": str(dest)}
        with tempfile.TemporaryDirectory(prefix="vauban-recover-") as temporary:
            officer = Officer(identity, sandbox_at(arguments["sdk"], Path(temporary)))
            service = self.service(arguments["socket"])
            chosen, key = officer.fetch(service, self.server, arguments["host"], arguments["escrow"])
        descriptor = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        told = {name: chosen[name] for name in ("id", "sha256", "time", "enrolment")}
        return {"changed": True, "path": str(dest), "escrow": told}
