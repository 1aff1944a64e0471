# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _boot_server


def _plain(value: Any) -> Any:
    """Templates of variables within variables are resolved when Python asks for them, and not when pydantic does."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def boot_server_plan(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the variables of the role come to."""
    try:
        return _boot_server.plan(_plain(settings))
    except FleetError as exc:
        raise AnsibleFilterError(str(exc)) from exc


def boot_server_rules(
    mode: str,
    interfaces: list[str] | None = None,
    inner: list[str] | None = None,
    server: str = "dnsmasq",
    database: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the packet filter must let through."""
    try:
        return _boot_server.rules(mode, interfaces or [], inner or [], server, database)
    except FleetError as exc:
        raise AnsibleFilterError(str(exc)) from exc


def boot_server_hosts(
    hosts: Iterable[Mapping[str, Any]], installers: list[dict[str, Any]], default: str = ""
) -> list[dict[str, Any]]:
    """Which hosts of a site boot another installer than the default."""
    return _boot_server.chosen(hosts, installers, default)


class FilterModule:
    """Filters of role boot_server."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name and function of each."""
        return {
            "boot_server_hosts": boot_server_hosts,
            "boot_server_plan": boot_server_plan,
            "boot_server_rules": boot_server_rules,
        }
