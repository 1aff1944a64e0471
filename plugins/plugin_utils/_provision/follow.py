# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Follows hosts from switched off to installed, repaired, backed up or wiped: what to say of it, what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import CHAIN, Call, Fleet, Service

INSTALLED, WAITING, UNKNOWN = "installed", "waiting", "unknown"
QUARANTINED, REFUSED, FAILED = "quarantined", "refused", "failed"
ENDED = (REFUSED, FAILED)
WIPING, WIPED = "wiping", "wiped"
REPAIRING, REPAIRED = "repairing", "repaired"
BACKING_UP, BACKED_UP = "backing_up", "backed_up"
GOALS = (BACKED_UP, INSTALLED, REPAIRED, WIPED)
UNDER_WAY = ("challenged", "proven", "keeping", "installing", "escrowed", "written")
# Where a machine can be that is to erase its disk.
_OBEYING = ("challenged", WIPING, *ENDED)
COLUMNS = ("HOST", "CLASS", "STATE", "DONE", "SEEN", "WHAT IT SAID LAST")


@dataclass(frozen=True)
class Ordered:
    """What a host is told to do that is installed, and stays so.

    :param key: of the order, in what the service tells of a host.
    :param to: what is to happen.
    :param states: where its machine can be.
    """

    key: str
    to: str
    states: tuple[str, ...]


# By what it ends with.
ORDERED: Mapping[str, Ordered] = {
    REPAIRED: Ordered("repair", "its disk will be repaired", ("challenged", REPAIRING, REPAIRED, *ENDED)),
    BACKED_UP: Ordered("backup", "its data will be backed up", ("challenged", BACKING_UP, BACKED_UP, *ENDED)),
}

Say = Callable[[str], None]
Sign = Callable[[str, str, str], str]  # host, name and request; the chain


@dataclass(frozen=True)
class Row:
    """Where a host is.

    :param trust: its class: what its proof is worth.
    :param line: what its machine said last, or why it is not installed.
    :param enrolment: its last one.
    """

    host: str
    trust: str
    state: str
    percent: int | None = None
    seen: str | None = None
    line: str = ""
    enrolment: str | None = None

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        done = f"{self.percent} %" if self.percent is not None else ""
        return self.host, self.trust, self.state, done, self.seen or "", self.line

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        told = asdict(self)
        return {"class": told.pop("trust"), **{key: value for key, value in told.items() if key != "host"}}


def rows(
    fleet: Fleet, hosts: Iterable[str], reasons: Mapping[str, str], old: Iterable[str] = (), goal: str = INSTALLED
) -> list[Row]:
    """Where hosts are.

    :param reasons: why enrolments have ended.
    :param old: enrolments that count no more.
    :param goal: what they are to come to.
    """
    past, look = set(old), partial(_ordered_row, ORDERED[goal]) if goal in ORDERED else _row
    return [look(name, fleet.hosts.get(name), reasons, past) for name in hosts]


def _ordered_row(
    ordered: Ordered, name: str, host: Mapping[str, Any] | None, reasons: Mapping[str, str], old: set[str]
) -> Row:
    """Such a host is installed, and stays so."""
    if host is None:
        return Row(name, "", UNKNOWN, line="the service does not know it")
    trust, last = str(host["class"]), host["enrolment"]
    if last is not None and last["id"] not in old and last["state"] in ordered.states:
        return _under_way(name, trust, last, reasons)
    if host[ordered.key]:
        return Row(name, trust, WAITING, line=f"switch it on; {ordered.to}")
    return Row(name, trust, UNKNOWN, line=f"there is no order for a {ordered.key}, or it has ended")


def _row(name: str, host: Mapping[str, Any] | None, reasons: Mapping[str, str], old: set[str]) -> Row:
    if host is None:
        return Row(name, "", UNKNOWN, line="the service does not know it")
    trust, last = str(host["class"]), host["enrolment"]
    if host["wipe"] and (last is None or last["id"] in old or last["state"] not in _OBEYING):
        return Row(name, trust, WAITING, line="switch it on; its disk will be erased")
    if host["installed"] and not (host["reinstall"] or host["keep"] or host["wipe"]):
        return Row(name, trust, INSTALLED, 100, host["installed"], "", last["id"] if last else None)
    # The last one of a host that is to be installed anew is the one before.
    if last is None or last["id"] in old or last["state"] in (INSTALLED, *ORDERED):
        return Row(name, trust, WAITING, line="switch it on")
    return _under_way(name, trust, last, reasons)


def _under_way(name: str, trust: str, last: Mapping[str, Any], reasons: Mapping[str, str]) -> Row:
    state, line = str(last["state"]), str(last["line"] or "")
    if state in ENDED:
        line = reasons.get(last["id"]) or line
    return Row(name, trust, state, last["percent"], last["seen"], line, last["id"])


def table(found: Sequence[Row]) -> list[str]:
    """Lines for people."""
    cells = [COLUMNS, *(row.cells() for row in found)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def counted(found: Iterable[Row]) -> str:
    """How many are where."""
    numbers = Counter(row.state for row in found)
    return ", ".join(f"{number} {state}" for state, number in sorted(numbers.items(), key=lambda item: -item[1]))


def stranger(machine: Mapping[str, Any]) -> str:
    """A machine that nobody has approved, for a line."""
    parts = [" ".join(str(machine[key]) for key in ("vendor", "model") if machine[key]) or "no name"]
    parts += [f"hardware profile {machine['hardware_profile']}"] if machine["hardware_profile"] else []
    parts += [f"serial {machine['serial']}"] if machine["serial"] else []
    parts += [*machine["macs"][:2], f"EK {machine['ek_sha256']}" if machine["ek_sha256"] else "no TPM"]
    return f"{machine['id']}: {', '.join(parts)}, at {machine['address']}"


def ended_now(fleet: Fleet, hosts: Iterable[str], states: Iterable[str] = ENDED) -> set[str]:
    """The last enrolments of hosts that have ended, in one of these states."""
    last = (fleet.hosts[name]["enrolment"] for name in hosts if name in fleet.hosts)
    return {each["id"] for each in last if each and each["state"] in states}


@dataclass
class Follower:
    """Follows some hosts.

    :param clock: seconds.
    :param sleep: seconds, too.
    :param patience: seconds without any news after which it ends.
    :param grace: seconds in which a host that has failed may come again.
    :param pause: seconds between two looks.
    :param past: enrolments that had ended before machines were started, and count no more.
    :param unlock: gives what there is to say to machines that ask for the recovery key of their disk.
    :param goal: the state that hosts are to come to.
    """

    service: Service
    hosts: Sequence[str]
    sign: Sign
    say: Say
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    patience: float
    grace: float
    pause: float
    past: frozenset[str] = frozenset()
    goal: str = INSTALLED
    unlock: Callable[[], Iterable[Call]] = tuple
    summary: float = 60.0
    _seen: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    _strangers: set[str] = field(default_factory=set)
    _denied: dict[str, str] = field(default_factory=dict)

    def run(self) -> list[Row]:
        """Look until nothing more is to be expected."""
        fleet = self.service.fleet()
        news = said = self.clock()
        while True:
            found = self._look(fleet)
            moment = self.clock()
            changed = self._tell(found, moment)
            self._meet_strangers(fleet)
            answered = self._answer(fleet)
            news = moment if changed or answered else news
            if moment - said >= self.summary:
                said = moment
                self.say(counted(found))
            if all(self._settled(row, moment) for row in found) or moment - news >= self.patience:
                return found
            self.sleep(self.pause)
            fleet = self.service.fleet()

    def _look(self, fleet: Fleet) -> list[Row]:
        ended = ended_now(fleet, self.hosts) - self.past
        reasons = self.service.reasons(ended) if ended else {}
        return rows(fleet, self.hosts, {**reasons, **self._denied}, self.past, self.goal)

    def _settled(self, row: Row, moment: float) -> bool:
        if row.state in (self.goal, UNKNOWN):
            return True
        return row.state in ENDED and moment - self._since[row.host] >= self.grace

    def _tell(self, found: Iterable[Row], moment: float) -> bool:
        """Say what is new, and whether anything is."""
        changed = False
        for row in found:
            now = (row.enrolment, row.state, row.percent, row.line)
            before = self._seen.get(row.host)
            if now == before:
                continue
            changed = True
            self._seen[row.host] = now
            if before is None or now[:2] != before[:2]:
                self._since[row.host] = moment
            if before is not None or row.state not in (WAITING, self.goal):
                done = f"{row.percent} %" if row.percent is not None else ""
                self.say(f"{row.host}  {row.state}  {done}  {row.line}".rstrip())
        return changed

    def _meet_strangers(self, fleet: Fleet) -> None:
        """Tell of machines in quarantine, each once."""
        for machine in fleet.others:
            if machine["state"] == QUARANTINED and machine["id"] not in self._strangers:
                self._strangers.add(machine["id"])
                self.say(f"no host yet: {stranger(machine)}")

    def _answer(self, fleet: Fleet) -> bool:
        """Sign what is asked for. A request that nobody may sign is refused once, and holds up nobody else."""
        calls = []
        for request in fleet.requests:
            host, name, enrolment = request["host"], request["name"], request["enrolment"]
            if host not in self.hosts or enrolment in self._denied:
                continue
            try:
                chain = self.sign(host, name, request["request"])
            except FleetError as exc:
                self._denied[enrolment] = str(exc)
                calls.append(Call("POST", f"/enrolments/{enrolment}/refuse", {"reason": str(exc)[:300]}))
            else:
                calls.append(Call("PUT", f"/certificates/{host}/{name}", chain, CHAIN))
        calls += self.unlock()
        for call, answer in zip(calls, self.service.ask(calls), strict=True):
            if answer.fault is not None:
                self.say(f"{call.path}: {answer.fault}")
        return bool(calls)
