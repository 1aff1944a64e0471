# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json, write_text
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._update.reports import Report
from ansible_collections.vauban.fleet.plugins.plugin_utils import _updates
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction


class ActionModule(ControllerAction):
    """Says which host runs what, for people, for programs and for Prometheus."""

    SPEC: ClassVar[dict[str, Any]] = {
        "hosts": {"type": "list", "elements": "str", "default": []},
        "answers": {"type": "list", "elements": "dict", "required": True},
        "silence": {"type": "float", "default": 24.0},
        "dest": {"type": "path"},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """All hosts at once: one file of each kind."""
        if arguments["silence"] <= 0:
            raise FleetError("machines ask every six hours, so that this is too short", where="silence")
        now, answers = time.time(), arguments["answers"]
        try:
            reports = [Report.from_dict(each) for answer in answers for each in answer["reports"]]
            malformed, dropped = (sum(answer[kind] for answer in answers) for kind in ("malformed", "dropped"))
        except (KeyError, TypeError) as exc:
            remedy = "give the results of module update_reports"
            raise FleetError(f"these are no reports: {exc}", where="answers", remedy=remedy) from exc
        hostvars = self.task_vars.get("hostvars", {})
        known = [_updates.Known.of(name, self._addressed(hostvars[name])) for name in arguments["hosts"]]
        found = _updates.rows(known, reports, now=now, silence=3_600 * arguments["silence"])
        status = {
            "format": 1,
            "time": dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "malformed": malformed,
            "dropped": dropped,
            "machines": [row.as_dict() for row in found],
        }
        if arguments["dest"] and not self._task.check_mode:
            dest = Path(arguments["dest"])
            write_json(dest / "status.json", status)
            write_text(dest / "status.prom", _updates.metrics(found, malformed=malformed, dropped=dropped))
        left_out = [
            f"{kind} lines: {count}" for kind, count in (("malformed", malformed), ("dropped", dropped)) if count
        ]
        return {
            "changed": False,
            "status": status,
            "table": [*_updates.table(found, now=now), *_updates.counted(found), *left_out],
            "silent": [row.host for row in found if row.silent and row.host],
            "experience": _updates.experience(found),
        }

    def _addressed(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """What of a host's variables says where it comes from; templates in them are filled in."""
        names = ("fleet_addresses", "ansible_host", "fleet_machine_id")
        return {name: variables[name] for name in names if name in variables}
