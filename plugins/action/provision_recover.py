# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import SOCKET, ProvisionAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Call
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import sandbox_at

_IDENTITY = "/run/identity"


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
        if not identity.is_file():
            raise FleetError("the officer's identity is not here", where=str(identity), remedy="plug its medium in")
        if dest.exists():
            raise FleetError("is there already", where=str(dest), remedy="remove it, or name another file")
        if self._task.check_mode:
            return {"changed": True, "path": str(dest)}
        (kept,) = self.service(arguments["socket"]).need([Call("GET", f"/escrows/{arguments['host']}")])
        chosen = _choose(kept, arguments["host"], arguments["escrow"])
        document = base64.b64decode(chosen["document"])
        if hashlib.sha256(document).hexdigest() != chosen["sha256"]:
            raise FleetError("is not what the machine has sent", where=f"{self.server}: escrow {chosen['id']}")
        with tempfile.TemporaryDirectory(prefix="vauban-recover-") as temporary:
            sandbox = sandbox_at(arguments["sdk"], Path(temporary))
            try:
                # To a pipe: the key is on no disk but where it was asked for.
                key = sandbox.run(
                    ["age", "--decrypt", "--identity", _IDENTITY],
                    binds=[Bind(identity.resolve(), _IDENTITY)],
                    stdin=json.loads(document)["recovery_key"].encode(),
                ).stdout_bytes
            except CommandError as exc:
                wanted = ", ".join(json.loads(document)["recipients"])
                remedy = f"it is encrypted to {wanted}; bring one of their identities"
                raise FleetError(exc.message, where=str(identity), remedy=remedy) from None
        descriptor = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        told = {name: chosen[name] for name in ("id", "sha256", "time", "enrolment")}
        return {"changed": True, "path": str(dest), "escrow": told}


def _choose(kept: Sequence[Mapping[str, Any]], host: str, escrow: str | None) -> Mapping[str, Any]:
    """The newest, or the one that is named."""
    found = [each for each in kept if escrow in (None, each["id"])]
    if not found:
        there = ", ".join(each["id"] for each in kept) or "none"
        raise FleetError(f"{host} has no such recovery key in escrow; there are: {there}", where=host)
    return found[-1]
