# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import contents, files, state
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.files import HOSTS, ISSUING, NTS, ROOT
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.signer import Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.state import Part
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.work import VERBS, Work
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan


class ActionModule(ControllerAction):
    """Says which certificates a site has and which a verb has to make. Changes nothing."""

    SPEC: ClassVar[dict[str, Any]] = {
        "site_file": {"type": "path", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "verb": {"type": "str", "choices": list(VERBS), "default": "list"},
        "names": {"type": "list", "elements": "str", "default": []},
        "days": {"type": "int"},
        "force": {"type": "bool", "default": False},
        "requests": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "host": {"type": "str", "required": True},
                "purpose": {"type": "str", "choices": [HOSTS, NTS], "required": True},
                "content": {"type": "str", "required": True},
                "where": {"type": "str", "required": True},
            },
        },
        "root_key": {"type": "path", "required": True},
        "root_passphrase": {"type": "str", "no_log": True},
        "issuing_key": {"type": "path", "required": True},
        "issuing_passphrase": {"type": "str", "no_log": True},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Look, judge, say."""
        result = _look(arguments)
        if self._task.check_mode and self._task.diff:
            result["diff"] = {"prepared": "".join(f"{line}\n" for line in result["due"])}
        return result


def _look(arguments: Mapping[str, Any]) -> dict[str, Any]:
    loaded = load.read(Path(arguments["site_file"]))
    plan = loaded.plan
    directory = (loaded.file.parent / plan.site.pki.directory).resolve()
    days = plan.site.pki.warn_days if arguments["days"] is None else arguments["days"]
    signers = {
        name: Signer(
            files.authority_path(directory, name),
            Path(arguments[f"{name}_key"]),
            arguments[f"{name}_passphrase"],
            f"site_pki_{name}_passphrase",
        )
        for name in (ROOT, ISSUING)
    }
    verb = arguments["verb"]
    work = Work.of(plan, directory, loaded.hosts(arguments["hosts"]), verb, days=days, force=arguments["force"])
    if verb == "revoke":
        work = work.revoking(_known(directory, arguments["names"], str(loaded.file)))
    elif verb == "revoke_issuing":
        work = work.revoking(files.issuing_certificates(directory))
    work = work.settled(signers)
    for request in arguments["requests"]:
        contents.judge_request(plan, request["host"], request["purpose"], request["content"], request["where"])
    if arguments["requests"]:
        signers[ISSUING].load()
    return {
        "directory": str(directory),
        "domain": plan.site.domain,
        "authorities": [
            {
                "name": each.name,
                "common_name": f"{plan.site.site} {each.name} authority",
                "replaced": _replaced(each),
                **_told(work, each),
            }
            for each in work.authorities
        ],
        "lists": [{"name": each.name, **_told(work, each)} for each in work.lists],
        "certificates": _by_host(work, plan),
        "revoke": [_withdrawal(path) for path in work.withdrawals],
        "due": _due(work),
        "expiring": _expiring(work),
        "table": _table(work),
        "warnings": work.warnings,
    }


def _known(directory: Path, names: Sequence[str], file: str) -> list[Path]:
    if not names:
        raise FleetError(
            "no host is named to be revoked",
            where=file,
            remedy="name hosts with --limit, or in site_pki_names if the site no longer has them",
        )
    paths = []
    for name in names:
        held = files.held_by(directory, name)
        gone = sorted((directory / files.REVOKED).glob(f"{name}.*.pem"))
        if not held and not gone:
            raise FleetError(
                f"{name} has no certificate",
                where=str(directory),
                remedy="look at the names with -e site_pki_verb=list",
            )
        paths += held
    return paths


def _told(work: Work, part: Part) -> dict[str, Any]:
    return {
        "path": str(part.path),
        "state": part.state,
        "ends": _day(part.ends),
        "due": part.path in work.due,
    }


def _by_host(work: Work, plan: Plan) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for certificate in work.certificates:
        host = certificate.name
        found.setdefault(host, []).append(
            {
                **_told(work, certificate),
                "host": host,
                "purpose": certificate.purpose,
                "names": list(certificate.names),
                "common_name": contents.common_name(plan.fqdn(host)),
                "usages": contents.usages(certificate.purpose),
                "key": certificate.key,
                "serial": _serial(certificate.serial),
                "replaced": _replaced(certificate),
            }
        )
    return found


def _replaced(part: Part) -> str:
    """The name by which it is kept when another takes its place; empty for one that is not there."""
    return files.kept_name(part.path, part.serial) if part.serial is not None else ""


def _withdrawal(path: Path) -> dict[str, str]:
    return {"path": str(path), "kept": files.kept_name(path, files.read_certificate(path).serial_number)}


def _due(work: Work) -> list[str]:
    """What the verb makes, changes or takes away, in lines for people."""
    made = [part for part in (*work.authorities, *work.certificates) if part.path in work.due]
    signed = [part for part in work.lists if part.path in work.due]
    return [
        *(f"{part.path}: {part.state}, to be made" for part in made),
        *(f"{part.path}: {part.state}, to be signed" for part in signed),
        *(f"{path}: to be revoked" for path in work.withdrawals),
    ]


def _expiring(work: Work) -> list[str]:
    """What does not last, in lines for people."""
    said = {state.ENDING: "ends on ", state.ENDED: "ended on ", state.UNFIT: "cannot be used: "}
    parts = [*work.authorities, *work.lists, *work.certificates]
    return [f"{part.path}: {said[part.state]}{part.reason or _day(part.ends)}" for part in parts if part.state in said]


def _table(work: Work) -> list[str]:
    rows: list[tuple[str, ...]] = [("NAME", "USE", "IDENTITY", "SERIAL", "ENDS", "STATE")]
    rows += [_row(part, "authority") for part in work.authorities]
    rows += [_row(part, "list") for part in work.lists]
    for certificate in work.certificates:
        use = "ipsec" if certificate.purpose == HOSTS else certificate.purpose
        # The last name is what peers ask for: that of a pair of gateways, if it is one.
        rows.append(_row(certificate, use, certificate.names[-1] if certificate.names else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(part: Part, use: str, identity: str = "") -> tuple[str, ...]:
    said = f"{part.state}: {part.reason}" if part.reason else part.state
    return part.name, use, identity, _serial(part.serial), _day(part.ends), said


def _day(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d}" if time is not None else ""


def _serial(number: int | None) -> str:
    return f"{number:x}" if number is not None else ""
