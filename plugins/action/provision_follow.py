# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from ansible.utils.display import Display

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import follow
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import (
    SITE,
    ProvisionAction,
    installed_hosts,
    read_site,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.follow import Follower, Row, Say, Sign
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.recovery import (
    Officers,
    Opener,
    Unlocker,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Call, Service
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import LoadedSite
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.issue import Issuer
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import sandbox_at


class ActionModule(ProvisionAction):
    """Says what happens to hosts as it happens, and signs what they ask for."""

    SPEC: ClassVar[dict[str, Any]] = {
        **SITE,
        "goal": {"type": "str", "choices": list(follow.GOALS), "default": follow.INSTALLED},
        "issuing_key": {"type": "path"},
        "issuing_passphrase": {"type": "str", "no_log": True},
        "days": {"type": "int", "default": 365},
        "patience": {"type": "float", "default": 3600.0},
        "grace": {"type": "float", "default": 60.0},
        "pause": {"type": "float", "default": 5.0},
        "past": {"type": "list", "elements": "str", "default": []},
        "identity": {"type": "list", "elements": "path", "default": []},
        "shares": {"type": "list", "elements": "path", "default": []},
        "escrow": {"type": "str"},
        "backup_to": {"type": "list", "elements": "str", "default": []},
        "expected": {"type": "dict", "default": {}},
        "sdk": {"type": "path"},
        "check": {"type": "bool", "default": False},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Follow until nothing more is to be expected. Whether all came is not judged here."""
        loaded = read_site(arguments)
        hosts = installed_hosts(loaded, arguments["hosts"])
        goal, issuer = arguments["goal"], _issuer(loaded, arguments)
        officers = Officers(*([Path(each) for each in arguments[name]] for name in ("identity", "shares")))
        brought = bool(officers.identities or officers.shares)
        if brought:
            officers.require()
        if arguments["check"] or self._task.check_mode:
            return {
                "changed": False,
                "hosts": {},
                "failed_hosts": [],
                "past": [],
                "signed": 0,
                "table": [],
                "missing": [],
                "backups": {},
            }
        signed: list[str] = []

        def sign(host: str, name: str, request: str) -> str:
            if issuer is None:
                raise FleetError("nobody signs for a machine that is not installed", where=host)
            chain = issuer.issue(host, name, request)
            signed.append(f"{host} {name}")
            return chain

        service, said = self.service(arguments["socket"]), Display()

        def say(line: str) -> None:
            said.display(f"    {line}")

        with self._unlocker(loaded, hosts, officers if brought else None, arguments, say) as unlocker:
            found = self._follow(service, hosts, sign, say, unlocker, arguments)
        return {
            "changed": bool(signed),
            "hosts": {row.host: row.as_dict() for row in found},
            "failed_hosts": [row.host for row in found if row.state == follow.FAILED],
            "past": sorted({row.enrolment for row in found if row.state in follow.ENDED and row.enrolment}),
            "signed": len(signed),
            "table": follow.table(found),
            "missing": [row.host for row in found if row.state != goal],
            "reason": follow.counted(found),
            "backups": _backups(service, found),
        }

    @contextmanager
    def _unlocker(
        self,
        loaded: LoadedSite,
        hosts: Sequence[str],
        officers: Officers | None,
        arguments: Mapping[str, Any],
        say: Say,
    ) -> Iterator[Unlocker | None]:
        """Only where officers have brought something."""
        if officers is None:
            yield None
            return
        machines = {name: loaded.plan.members[name].host.machine for name in hosts}
        eks = {name: each.ek_sha256 for name, each in machines.items() if each is not None and each.ek_sha256}
        with tempfile.TemporaryDirectory(prefix="vauban-unlock-") as temporary:
            opener = Opener(officers, sandbox_at(arguments["sdk"], Path(temporary)))
            yield Unlocker(
                opener, eks, arguments["expected"], arguments["escrow"], say, backup_to=arguments["backup_to"]
            )

    def _follow(
        self,
        service: Service,
        hosts: Sequence[str],
        sign: Sign,
        say: Say,
        unlocker: Unlocker | None,
        arguments: Mapping[str, Any],
    ) -> list[Row]:
        follower = Follower(
            service,
            hosts,
            sign,
            say,
            time.monotonic,
            time.sleep,
            patience=arguments["patience"],
            grace=arguments["grace"],
            pause=arguments["pause"],
            past=frozenset(arguments["past"]),
            goal=arguments["goal"],
            unlock=(lambda: unlocker.answers(service, self.server)) if unlocker is not None else tuple,
        )
        return follower.run()


def _backups(service: Service, found: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """What the hosts have sent that were backed up, by host."""
    rows = [row for row in found if row.state == follow.BACKED_UP]
    kept = service.need(Call("GET", f"/backups/{row.host}") for row in rows)
    return {
        row.host: each
        for row, all_of in zip(rows, kept, strict=True)
        for each in all_of
        if each["enrolment"] == row.enrolment
    }


def _issuer(loaded: LoadedSite, arguments: Mapping[str, Any]) -> Issuer | None:
    """What signs, and can. Machines that are installed need it, and no others.

    :raises FleetError: it cannot, or is not named.
    """
    if arguments["goal"] != follow.INSTALLED:
        return None
    if arguments["issuing_key"] is None:
        raise FleetError("missing", where="issuing_key", remedy="name the key of the issuing authority")
    key, passphrase = Path(arguments["issuing_key"]), arguments["issuing_passphrase"]
    issuer = Issuer.of_site(loaded.plan, loaded.file, key, passphrase, arguments["days"])
    issuer.check()
    return issuer
