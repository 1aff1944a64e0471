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
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.recovery import Escrow, Officers, Opener
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import sandbox_at


class ActionModule(ProvisionAction):
    """Gives back a recovery key, into a file for one pair of eyes; or what each of several officers has to decrypt."""

    SPEC: ClassVar[dict[str, Any]] = {
        **SOCKET,
        "host": {"type": "str", "required": True},
        "identity": {"type": "list", "elements": "path", "default": []},
        "shares": {"type": "list", "elements": "path", "default": []},
        "shares_to": {"type": "path"},
        "dest": {"type": "path"},
        "sdk": {"type": "path", "required": True},
        "escrow": {"type": "str"},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Before anything is asked, which is logged, all is there that it takes."""
        if arguments["shares_to"] is not None:
            return self._hand_out(arguments, Path(arguments["shares_to"]))
        if arguments["dest"] is None:
            raise FleetError("missing", where="dest", remedy="name the file that is made")
        return self._open(arguments, Path(arguments["dest"]))

    def _open(self, arguments: Mapping[str, Any], dest: Path) -> dict[str, Any]:
        officers = Officers(*([Path(each) for each in arguments[name]] for name in ("identity", "shares")))
        officers.require()
        _require_new(dest)
        if self._task.check_mode:
            return {"changed": True, "path": str(dest)}
        with tempfile.TemporaryDirectory(prefix="vauban-recover-") as temporary:
            opener = Opener(officers, sandbox_at(arguments["sdk"], Path(temporary)))
            service = self.service(arguments["socket"])
            about, key = opener.fetch(service, self.server, arguments["host"], arguments["escrow"])
        _write(dest, key)
        return {"changed": True, "path": str(dest), "escrow": _told(about)}

    def _hand_out(self, arguments: Mapping[str, Any], dest: Path) -> dict[str, Any]:
        """What it writes is encrypted, and no secret. One file for each officer."""
        _require_new(dest)
        if self._task.check_mode:
            return {"changed": True, "path": str(dest)}
        host = arguments["host"]
        found = Escrow.fetch(self.service(arguments["socket"]), self.server, host, arguments["escrow"])
        if not found.shares:
            remedy = "bring the identity of one officer, who opens it alone"
            raise FleetError(f"the recovery key of {host} is not shared", where=f"{self.server}: {host}", remedy=remedy)
        dest.mkdir(mode=0o700)
        for recipient, share in found.shares.items():
            _write(dest / f"{host}-{recipient}.age", share.encode())
        told = {"threshold": found.threshold, "officers": list(found.shares)}
        return {"changed": True, "path": str(dest), "escrow": _told(found.about), **told}


def _require_new(dest: Path) -> None:
    if dest.exists():
        raise FleetError("is there already", where=str(dest), remedy="remove it, or name another")


def _write(dest: Path, content: bytes) -> None:
    descriptor = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _told(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: about[name] for name in ("id", "sha256", "time", "enrolment")}
