# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import load, pki
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import SiteError


class ActionModule(ActionBase):
    """Says which certificates a site has and which a verb has to make. Changes nothing."""

    SPEC: ClassVar[dict[str, Any]] = {
        "site_file": {"type": "path", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "verb": {"type": "str", "choices": list(pki.VERBS), "default": "list"},
        "names": {"type": "list", "elements": "str", "default": []},
        "days": {"type": "int"},
        "force": {"type": "bool", "default": False},
        "requests": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "host": {"type": "str", "required": True},
                "purpose": {"type": "str", "choices": [pki.HOSTS, pki.NTS], "required": True},
                "content": {"type": "str", "required": True},
                "where": {"type": "str", "required": True},
            },
        },
        "root_key": {"type": "path", "required": True},
        "root_passphrase": {"type": "str", "no_log": True},
        "issuing_key": {"type": "path", "required": True},
        "issuing_passphrase": {"type": "str", "no_log": True},
    }
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look, judge, say."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=self.SPEC)
        try:
            result.update(_look(arguments))
        except FleetError as exc:
            raise AnsibleActionFail(str(exc), result={"failure": exc.as_failure()}) from None
        except SiteError as exc:
            raise AnsibleActionFail(str(exc)) from None
        if self._task.check_mode and self._task.diff:
            result["diff"] = {"prepared": "".join(f"{line}\n" for line in result["due"])}
        return result


def _look(arguments: Mapping[str, Any]) -> dict[str, Any]:
    loaded = load.read(Path(arguments["site_file"]))
    plan = loaded.plan
    directory = (loaded.file.parent / plan.site.pki.directory).resolve()
    hosts = _hosts(plan, arguments["hosts"], str(loaded.file))
    days = plan.site.pki.warn_days if arguments["days"] is None else arguments["days"]
    signers = {
        name: pki.Signer(
            pki.authority_path(directory, name),
            Path(arguments[f"{name}_key"]),
            arguments[f"{name}_passphrase"],
            f"site_pki_{name}_passphrase",
        )
        for name in (pki.ROOT, pki.ISSUING)
    }
    verb, force = arguments["verb"], arguments["force"]
    work = pki.Work.of(plan, directory, hosts, verb, days=days, force=force)
    if verb == "revoke":
        work = work.revoking(_known(directory, arguments["names"], str(loaded.file)))
    work = work.settled(signers)
    for request in arguments["requests"]:
        pki.judge_request(plan, request["host"], request["purpose"], request["content"], request["where"])
    if arguments["requests"]:
        signers[pki.ISSUING].load()
    return {
        "directory": str(directory),
        "domain": plan.site.domain,
        "authorities": [_authority(each, plan, each.name in work.authorities_due) for each in work.authorities],
        "lists": [_list(each, each.name in work.lists_due) for each in work.lists],
        "certificates": _by_host(work.entries, lambda each: _entry(each, plan, verb, force)),
        "revoke": [_withdrawal(path) for path in work.withdrawals],
        "due": _due(work, verb, force),
        "expiring": _expiring(work),
        "table": _table(work),
        "warnings": work.warnings,
    }


def _hosts(plan: Plan, names: Sequence[str], file: str) -> list[str]:
    wanted = set(names)
    if foreign := sorted(wanted - set(plan.members)):
        raise FleetError(
            f"{foreign[0]} is no host of site {plan.site.site}",
            where=file,
            remedy=f"treat one site at a time: --limit site_{plan.site.site.replace('-', '_')}",
        )
    return [name for name in plan.members if name in wanted]


def _known(directory: Path, names: Sequence[str], file: str) -> list[Path]:
    if not names:
        raise FleetError(
            "no host is named to be revoked",
            where=file,
            remedy="name hosts with --limit, or in site_pki_names if the site no longer has them",
        )
    paths = []
    for name in names:
        held = pki.held_by(directory, name)
        gone = sorted((directory / pki.REVOKED).glob(f"{name}.*.pem"))
        if not held and not gone:
            raise FleetError(
                f"{name} has no certificate",
                where=str(directory),
                remedy="look at the names with -e site_pki_verb=list",
            )
        paths += held
    return paths


def _authority(authority: pki.Authority, plan: Plan, due: bool) -> dict[str, Any]:
    return {
        "name": authority.name,
        "common_name": f"{plan.site.site} {authority.name} authority",
        "path": str(authority.path),
        "state": authority.state,
        "ends": _day(authority.ends),
        "due": due,
    }


def _list(revocations: pki.RevocationList, due: bool) -> dict[str, Any]:
    return {
        "name": revocations.name,
        "path": str(revocations.path),
        "state": revocations.state,
        "ends": _day(revocations.ends),
        "due": due,
    }


def _entry(entry: pki.Entry, plan: Plan, verb: str, force: bool) -> dict[str, Any]:
    replaced = "" if entry.serial is None else f"{entry.host}.{entry.serial:x}.pem"
    return {
        "host": entry.host,
        "purpose": entry.purpose,
        "names": list(entry.names),
        "common_name": pki.common_name(plan.fqdn(entry.host)),
        "usages": pki.usages(entry.purpose),
        "path": str(entry.path),
        "state": entry.state,
        "serial": _serial(entry.serial),
        "ends": _day(entry.ends),
        "key": entry.key or "",
        "replaced": replaced,
        "due": entry.due(verb, force=force),
    }


def _due(work: pki.Work, verb: str, force: bool) -> list[str]:
    """What the verb makes, changes or takes away, in lines for people."""
    return [
        *(f"{each.path}: {each.state}, to be made" for each in work.authorities if each.name in work.authorities_due),
        *(f"{each.path}: {each.state}, to be signed" for each in work.lists if each.name in work.lists_due),
        *(f"{each.path}: {each.state}, to be made" for each in work.entries if each.due(verb, force=force)),
        *(f"{path}: to be revoked" for path in work.withdrawals),
    ]


def _withdrawal(path: Path) -> dict[str, str]:
    serial = pki.read_certificate(path).serial_number
    return {"path": str(path), "kept": f"{path.name.partition('.')[0]}.{serial:x}.pem"}


def _day(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d}" if time is not None else ""


def _serial(number: int | None) -> str:
    return f"{number:x}" if number is not None else ""


def _expiring(work: pki.Work) -> list[str]:
    """What does not last, in lines for people."""
    parts: list[pki.Entry | pki.Authority | pki.RevocationList] = [*work.authorities, *work.lists, *work.entries]
    said = {pki.ENDING: "ends on ", pki.ENDED: "ended on ", pki.UNFIT: "cannot be used: "}
    return [f"{part.path}: {said[part.state]}{part.reason or _day(part.ends)}" for part in parts if part.state in said]


def _by_host(
    entries: Iterable[pki.Entry], told: Callable[[pki.Entry], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        found.setdefault(entry.host, []).append(told(entry))
    return found


def _table(work: pki.Work) -> list[str]:
    rows: list[tuple[str, ...]] = [("NAME", "USE", "IDENTITY", "SERIAL", "ENDS", "STATE")]
    for authority in work.authorities:
        serial = _serial(authority.serial)
        rows.append((authority.name, "authority", "", serial, _day(authority.ends), _state(authority)))
    for revocations in work.lists:
        rows.append((revocations.name, "list", "", "", _day(revocations.ends), _state(revocations)))
    for entry in work.entries:
        use = "ipsec" if entry.purpose == pki.HOSTS else entry.purpose
        # The last name is what peers ask for: that of a pair of gateways, if it is one.
        identity = entry.names[-1] if entry.names else ""
        rows.append((entry.host, use, identity, _serial(entry.serial), _day(entry.ends), _state(entry)))
    return _aligned(rows)


def _state(part: pki.Entry | pki.Authority | pki.RevocationList) -> str:
    return f"{part.state}: {part.reason}" if part.reason else part.state


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
