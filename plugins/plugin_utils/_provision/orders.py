# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Orders to machines of hosts that are installed, and stay so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import follow
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import SOCKET, ProvisionAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Call

_LONGEST = 7 * 24 * 3600


class OrderAction(ProvisionAction):
    """Orders machines to do something when they next start the installer."""

    SPEC: ClassVar[dict[str, Any]] = {
        **SOCKET,
        "hosts": {"type": "list", "elements": "str", "required": True},
        "reason": {"type": "str", "required": True},
        "seconds": {"type": "int", "default": 14400},
    }
    GOAL: ClassVar[str]
    """What hosts come to by it."""

    def order(self, arguments: Mapping[str, Any], what: Mapping[str, Any]) -> dict[str, Any]:
        """Say it of each host; one that the service does not take holds up no other.

        :param what: what this order says beside reason and seconds.
        """
        seconds, key = arguments["seconds"], follow.ORDERED[self.GOAL].key
        if not 60 <= seconds <= _LONGEST:
            raise FleetError(f"{seconds} is not within 60 and {_LONGEST}", where="seconds", remedy="use some hours")
        order = {"reason": arguments["reason"], "seconds": seconds, **what}
        service = self.service(arguments["socket"])
        fleet = service.fleet()
        hosts = [name for name in arguments["hosts"] if name in fleet.hosts]
        problems = {name: "the service does not know it" for name in arguments["hosts"] if name not in fleet.hosts}
        asked = {name: Call("PUT", f"/hosts/{name}/{key}", order) for name in hosts}
        past = sorted(follow.ended_now(fleet, hosts, (*follow.ENDED, self.GOAL)))
        if not self._task.check_mode:
            answers = zip(asked, service.ask(asked.values()), strict=True)
            problems |= {name: answer.fault for name, answer in answers if answer.fault is not None}
            fleet = service.fleet()
        return {
            "changed": bool(asked),
            "hosts": arguments["hosts"],
            "problems": problems,
            "ordered": [name for name in hosts if fleet.hosts[name][key]],
            "past": past,
        }
