# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import follow
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import SOCKET, ProvisionAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Call, Fleet

# By which a machine would become the host again, unasked.
_NOBODY: dict[str, Any] = {
    "admit": "approval",
    "ek_sha256": None,
    "ek_certificate": False,
    "serial": None,
    "macs": [],
    "reinstall": False,
    "keep": False,
}


class ActionModule(ProvisionAction):
    """Lets go of machines. What they left in the audit log and in escrow stays."""

    SPEC: ClassVar[dict[str, Any]] = {
        **SOCKET,
        "hosts": {"type": "list", "elements": "str", "required": True},
        "reason": {"type": "str", "required": True},
        "wipe": {"type": "bool"},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Make the service forget which machines these hosts were, and take none for them.

        An order to wipe comes first: it keeps which machine it is for.
        """
        service = self.service(arguments["socket"])
        fleet = service.fleet()
        hosts = [name for name in arguments["hosts"] if name in fleet.hosts]
        before = service.expectations(hosts)
        reason = {"reason": arguments["reason"]}
        calls = []
        orders = _orders(fleet, hosts, arguments["wipe"], reason)
        problems: dict[str, str] = {}
        if not self._task.check_mode:
            answers = zip(orders, service.ask(orders.values()), strict=True)
            problems = {name: answer.fault for name, answer in answers if answer.fault is not None}
            fleet = service.fleet()
        for name in hosts:
            last = fleet.hosts[name]["enrolment"]
            if last and not fleet.hosts[name]["wipe"] and last["state"] in (*follow.UNDER_WAY, follow.QUARANTINED):
                calls.append(Call("POST", f"/enrolments/{last['id']}/refuse", reason))
            if fleet.hosts[name]["enrolled"]:
                calls.append(Call("POST", f"/hosts/{name}/forget", reason))
            nobody = {**before[name], **_NOBODY}
            if nobody != before[name]:
                calls.append(Call("PUT", f"/hosts/{name}", nobody))
        if not self._task.check_mode:
            service.need(calls)
        calls = [*orders.values(), *calls]
        return {
            "changed": bool(calls),
            "hosts": hosts,
            "calls": [f"{each.method} {each.path}" for each in calls],
            "problems": problems,
            "wiping": [name for name in hosts if fleet.hosts[name]["wipe"]],
            "past": sorted(follow.ended_now(fleet, hosts)),
        }


def _orders(fleet: Fleet, hosts: Sequence[str], wipe: bool | None, reason: Mapping[str, str]) -> dict[str, Call]:
    """What has to be said of the disks of hosts, of which nothing is said unless it was asked for."""
    said = {}
    for name in hosts:
        order, last = fleet.hosts[name]["wipe"], fleet.hosts[name]["enrolment"]
        if wipe and order is None and not (last and last["state"] == follow.WIPED):
            said[name] = Call("PUT", f"/hosts/{name}/wipe", dict(reason))
        elif wipe is False and order is not None:
            said[name] = Call("POST", f"/hosts/{name}/wipe/withdraw", dict(reason))
    return said
