# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Actions that speak to the provisioning server of a site."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Service
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import LoadedSite

_CALLS = "vauban.fleet.enrolment_calls"
SOCKET: dict[str, Any] = {"socket": {"type": "path", "default": "/run/vauban-enrolment/admin.sock"}}
# Of those that work on a site.
SITE: dict[str, Any] = {
    **SOCKET,
    "site_file": {"type": "path", "required": True},
    "hosts": {"type": "list", "elements": "str", "required": True},
}


class ProvisionAction(ControllerAction):
    """Works here, and asks the service through a module that runs on the server."""

    SPEC: ClassVar[dict[str, Any]] = SOCKET

    def module(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run a module on the server.

        :raises FleetError: it failed.
        """
        done: dict[str, Any] = self._execute_module(
            module_name=name, module_args=dict(arguments), task_vars=self.task_vars
        )
        if done.get("failed") or done.get("unreachable"):
            told = done.get("failure") or {}
            # A module that raises has no message, but an exception that Ansible has captured.
            raised = getattr(getattr(done.get("exception"), "event", None), "msg", None)
            message = told.get("message") or done.get("msg") or raised or "no reason given"
            where = f"{self.server}: {told['where']}" if told.get("where") else self.server
            raise FleetError(str(message), where=where, remedy=told.get("remedy"))
        return done

    @property
    def server(self) -> str:
        """The host that this task runs on, as the inventory names it."""
        return str(self._task.delegate_to or self.task_vars.get("inventory_hostname", "server"))

    def service(self, socket: str) -> Service:
        """The administrators' side."""

        def ask(calls: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
            told = self.module(_CALLS, {"socket": socket, "actor": _actor(), "calls": list(calls)})
            answers: list[Mapping[str, Any]] = told["answers"]
            return answers

        return Service(ask, self.server)


def installed_hosts(loaded: LoadedSite, names: Sequence[str]) -> list[str]:
    """Those of the hosts that are installed over the network.

    :raises FleetError: none of them is.
    """
    found = [name for name in loaded.hosts(names) if loaded.plan.members[name].host.machine is not None]
    if not found:
        raise FleetError(
            "none of these hosts is installed over the network",
            where=str(loaded.file),
            remedy="describe the machine of each: key machine of the host, and provisioning of the site",
        )
    return found


def read_site(arguments: Mapping[str, Any]) -> LoadedSite:
    """The site, without contradictions."""
    return load.load(Path(arguments["site_file"]))


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as containers have
        return "controller"
