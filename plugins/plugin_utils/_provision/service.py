# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Asks the administrators' side of the enrolment service, many questions at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

PREFIX = "/admin/v1"
CHAIN = "application/pem-certificate-chain"
_PAGE = 10_000


@dataclass(frozen=True)
class Call:
    """A question.

    :param body: JSON; text for one that has a ``kind``.
    """

    method: str
    path: str
    body: Any = None
    kind: str = "application/json"

    def as_dict(self) -> dict[str, Any]:
        """For the module that asks it."""
        return {"method": self.method, "path": f"{PREFIX}{self.path}", "body": self.body, "kind": self.kind}


@dataclass(frozen=True)
class Answer:
    """What came back: parsed, if it is JSON."""

    status: int
    body: Any

    @property
    def fault(self) -> str | None:
        """What the service says against it (RFC 9457), if anything."""
        if self.status < 300:
            return None
        told = self.body if isinstance(self.body, dict) else {}
        said = [str(told[key]) for key in ("title", "detail") if told.get(key)]
        return f"{': '.join(said) or 'no reason given'} ({self.status})"


Ask = Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]


class Service:
    """The administrators' side.

    :param ask: hands calls over and brings back ``status`` and ``body`` of each.
    :param where: the server, for messages.
    """

    def __init__(self, ask: Ask, where: str) -> None:
        self._ask, self._where = ask, where
        self._audited = 0
        self._reasons: dict[str, str] = {}

    def ask(self, calls: Iterable[Call]) -> list[Answer]:
        """The answers, in order, whatever they are."""
        asked = [call.as_dict() for call in calls]
        return [Answer(int(each["status"]), each["body"]) for each in self._ask(asked)] if asked else []

    def need(self, calls: Iterable[Call]) -> list[Any]:
        """The bodies of answers, none of which may be a refusal.

        :raises FleetError: one is.
        """
        made = list(calls)
        answers = self.ask(made)
        for call, answer in zip(made, answers, strict=True):
            if answer.fault is not None:
                raise FleetError(
                    f"{call.method} {call.path}: {answer.fault}",
                    where=self._where,
                    remedy="journalctl -u vauban-enrolment-admin.service on the server says more",
                )
        return [answer.body for answer in answers]

    def fleet(self) -> Fleet:
        """Every host that the service knows, what waits, and what waits for a signature: as it is now."""
        body, requests = self.need([Call("GET", f"/machines?limit={_PAGE}"), Call("GET", "/requests")])
        hosts, others = list(body["hosts"]), list(body["others"])
        while len(body["hosts"]) == _PAGE:
            (body,) = self.need([Call("GET", f"/machines?limit={_PAGE}&after={quote(hosts[-1]['host'])}")])
            hosts += body["hosts"]
        return Fleet({each["host"]: each for each in hosts}, others, list(requests))

    def expectations(self, hosts: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What the service expects of those hosts that it knows."""
        answers = self.ask(Call("GET", f"/machines/{name}") for name in hosts)
        return {
            name: answer.body["expectation"]
            for name, answer in zip(hosts, answers, strict=True)
            if answer.fault is None
        }

    def reasons(self, enrolments: Iterable[str]) -> dict[str, str]:
        """Why these enrolments have ended, as the audit log has it. The log is read on from where it was read to."""
        wanted = list(enrolments)
        while not all(each in self._reasons for each in wanted):
            (body,) = self.need([Call("GET", f"/audit?limit={_PAGE}&after={self._audited}")])
            for record in body["records"]:
                self._audited = record["sequence"]
                if record["action"] in ("refused", "failed") and record["enrolment"]:
                    self._reasons[record["enrolment"]] = str(record["detail"].get("reason", ""))
            if len(body["records"]) < _PAGE:
                break
        return {each: self._reasons[each] for each in wanted if each in self._reasons}


@dataclass(frozen=True)
class Fleet:
    """What the service knows at one moment.

    :param hosts: by name.
    :param others: machines that are no host, yet or at all.
    :param requests: for certificates.
    """

    hosts: Mapping[str, Mapping[str, Any]]
    others: Sequence[Mapping[str, Any]]
    requests: Sequence[Mapping[str, Any]]
