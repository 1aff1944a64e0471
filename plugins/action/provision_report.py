# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import follow
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import (
    SITE,
    ProvisionAction,
    installed_hosts,
    read_site,
)


class ActionModule(ProvisionAction):
    """Says what came of it, for people and for programs."""

    SPEC: ClassVar[dict[str, Any]] = {
        **SITE,
        "problems": {"type": "dict", "default": {}},
        "dest": {"type": "path"},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the service, and nobody's memory: another run may have gone on meanwhile."""
        loaded = read_site(arguments)
        hosts = installed_hosts(loaded, arguments["hosts"])
        service = self.service(arguments["socket"])
        fleet = service.fleet()
        reasons = service.reasons(ended) if (ended := follow.ended_now(fleet, hosts)) else {}
        found = follow.rows(fleet, hosts, reasons)
        problems: Mapping[str, str] = arguments["problems"]
        missing = [row.host for row in found if row.state != follow.INSTALLED or row.host in problems]
        strangers = [each for each in fleet.others if each["state"] == follow.QUARANTINED]
        report = {
            "format": 1,
            "site": loaded.plan.site.site,
            "server": self.server,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "complete": not missing,
            "hosts": {
                row.host: {**row.as_dict(), **({"problem": problems[row.host]} if row.host in problems else {})}
                for row in found
            },
            "quarantine": [dict(each) for each in strangers],
        }
        if arguments["dest"] and not self._task.check_mode:
            write_json(Path(arguments["dest"]), report)
        return {
            "changed": False,
            "report": report,
            "table": [
                *follow.table(found),
                follow.counted(found),
                *(f"{name}: {said}" for name, said in problems.items()),
                *(f"no host yet: {follow.stranger(each)}" for each in strangers),
            ],
            "missing": missing,
        }
