# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import follow
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import SOCKET, ProvisionAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Call

# By which a machine would become the host again, unasked.
_NOBODY: dict[str, Any] = {
    "admit": "approval",
    "ek_sha256": None,
    "ek_certificate": False,
    "serial": None,
    "macs": [],
    "reinstall": False,
}


class ActionModule(ProvisionAction):
    """Lets go of machines. What they left in the audit log and in escrow stays."""

    SPEC: ClassVar[dict[str, Any]] = {
        **SOCKET,
        "hosts": {"type": "list", "elements": "str", "required": True},
        "reason": {"type": "str", "required": True},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Make the service forget which machines these hosts were, and take none for them."""
        service = self.service(arguments["socket"])
        fleet = service.fleet()
        hosts = [name for name in arguments["hosts"] if name in fleet.hosts]
        before = service.expectations(hosts)
        reason = {"reason": arguments["reason"]}
        calls = []
        for name in hosts:
            last = fleet.hosts[name]["enrolment"]
            if last and last["state"] in (*follow.UNDER_WAY, follow.QUARANTINED):
                calls.append(Call("POST", f"/enrolments/{last['id']}/refuse", reason))
            if fleet.hosts[name]["enrolled"]:
                calls.append(Call("POST", f"/hosts/{name}/forget", reason))
            nobody = {**before[name], **_NOBODY}
            if nobody != before[name]:
                calls.append(Call("PUT", f"/hosts/{name}", nobody))
        if not self._task.check_mode:
            service.need(calls)
        return {"changed": bool(calls), "hosts": hosts, "calls": [f"{each.method} {each.path}" for each in calls]}
