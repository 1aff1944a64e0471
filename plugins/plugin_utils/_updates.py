# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Which host runs what: reports of machines beside the hosts of the inventory; for people, programs and Prometheus."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._update.reports import Report

FAILURES = ("failed", "fell-back")
UNKNOWN = "-"
_HEADER = ("HOST", "PRODUCT", "VERSION", "SINCE", "LAST CONTACT", "OUTCOME", "NOTE")
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


@dataclass(frozen=True)
class Known:
    """A host of the inventory.

    :param addresses: those that the server may see it come from.
    :param machine: its machine id, empty where the inventory does not say.
    """

    name: str
    addresses: frozenset[str] = frozenset()
    machine: str = ""

    @classmethod
    def of(cls, name: str, variables: Mapping[str, Any]) -> Known:
        """As its variables say: ``fleet_addresses``, ``ansible_host`` and ``fleet_machine_id``."""
        given = [*variables.get("fleet_addresses", []), variables.get("ansible_host", "")]
        return cls(name, frozenset(filter(None, map(_address, given))), str(variables.get("fleet_machine_id", "")))


@dataclass(frozen=True)
class Row:
    """A host and what it said last, or a machine that is no host.

    :param host: empty for a machine that the inventory does not know.
    :param report: None for a host that was never heard of.
    :param silent: it was heard of too long ago, or never.
    :param note: what people should look at.
    """

    host: str
    report: Report | None
    silent: bool
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        said = self.report.as_dict() if self.report is not None else None
        return {"host": self.host or None, "silent": self.silent, "note": self.note, "report": said}

    def took(self, version: str) -> bool:
        """Whether it has fetched, tried or run a version."""
        return self.report is not None and (
            version in self.report.fetched or version in (self.report.version, self.report.about)
        )

    def failed_with(self, version: str) -> bool:
        """Whether it could not install it, or fell back from it."""
        return self.report is not None and self.report.last in FAILURES and self.report.about == version


def rows(known: Sequence[Known], reports: Iterable[Report], *, now: float, silence: float) -> list[Row]:
    """One row for each host, in the order of the inventory, then one for each machine that is none.

    The address counts before the machine id: a tunnel vouches for the one, nobody for the other.

    :param silence: seconds after which a machine counts as silent.
    """
    by_address = _only([(address, each.name) for each in known for address in each.addresses])
    by_machine = _only([(each.machine, each.name) for each in known if each.machine])
    latest: dict[str, Report] = {}
    strangers: list[Report] = []
    notes: dict[str, str] = {}
    for report in sorted(reports, key=lambda each: each.seen):
        named = by_machine.get(report.machine)
        host = by_address.get(report.address, named)
        if host is None:
            strangers.append(report)
            continue
        if (before := latest.get(host)) is not None and before.machine == report.machine:
            report.fetched = {**before.fetched, **report.fetched}
        latest[host] = report
        notes[host] = f"has the machine id of {named}" if named is not None and named != host else ""
    found = [_row(each.name, latest.get(each.name), notes.get(each.name, ""), now, silence) for each in known]
    strangers.sort(key=lambda each: (ipaddress.ip_address(each.address).packed, each.machine))
    return found + [_row("", each, "not in the inventory", now, silence) for each in strangers]


def _row(host: str, report: Report | None, note: str, now: float, silence: float) -> Row:
    silent = report is None or now - report.seen > silence
    if report is None:
        note = "never heard of"
    elif silent:
        note = ", ".join(filter(None, [f"silent for {_ago(now - report.seen)}", note]))
    elif report.trial:
        note = ", ".join(filter(None, ["on trial", note]))
    return Row(host, report, silent, note)


def table(found: Sequence[Row], *, now: float) -> list[str]:
    """Lines for people."""
    lines = [_HEADER, *(_cells(row, now) for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _cells(row: Row, now: float) -> tuple[str, ...]:
    if (said := row.report) is None:
        return (row.host, *[UNKNOWN] * 5, row.note)
    host = row.host or f"{said.address} {said.machine[:8]}"
    outcome = f"{said.last} {said.about}" if said.about else said.last
    since = _date(said.since) if said.since is not None else UNKNOWN
    return (host, said.product, said.version, since, f"{_ago(now - said.seen)} ago", outcome, row.note)


def counted(found: Sequence[Row]) -> list[str]:
    """How many run what."""
    counts = Counter(f"{row.report.product} {row.report.version}" for row in found if row.report is not None)
    silent = sum(row.silent for row in found)
    return [
        *(f"{name}: {count}" for name, count in sorted(counts.items())),
        *([f"silent: {silent}"] if silent else []),
    ]


def metrics(found: Sequence[Row], *, malformed: int, dropped: int) -> str:
    """Text format of Prometheus, version 0.0.4, for a file that a node exporter collects."""
    families: list[tuple[str, str, list[tuple[dict[str, str], float]]]] = [
        ("vauban_update_info", "What a machine runs, and how its last try ended.", []),
        ("vauban_update_last_contact_timestamp_seconds", "When a machine asked last.", []),
        ("vauban_update_running_since_timestamp_seconds", "Since when it runs its version, by its own clock.", []),
        ("vauban_update_on_trial", "Whether the version has not been called good yet.", []),
        ("vauban_update_silent", "Whether a machine has not asked for too long, or never.", []),
    ]
    info, contact, since, trial, silent = (samples for _name, _help, samples in families)
    for row in found:
        said = row.report
        labels = {"host": row.host, "machine": said.machine if said is not None else ""}
        silent.append((labels, float(row.silent)))
        if said is None:
            continue
        what = {"product": said.product, "version": said.version, "outcome": said.last, "about": said.about}
        info.append(({**labels, "address": said.address, **what}, 1.0))
        contact.append((labels, said.seen))
        trial.append((labels, float(said.trial)))
        if said.since is not None:
            since.append((labels, said.since))
    families.append(("vauban_update_malformed_lines", "Lines of the log that are no report.", [({}, float(malformed))]))
    families.append(("vauban_update_dropped_lines", "Lines of machines that were too many.", [({}, float(dropped))]))
    return "".join(_family(*family) for family in families)


def _family(name: str, text: str, samples: Sequence[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        pairs = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
        lines.append(f"{name}{{{pairs}}} {value!r}" if pairs else f"{name} {value!r}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def experience(found: Sequence[Row]) -> dict[str, dict[str, dict[str, list[str]]]]:
    """By product and version: who took it, who failed with it, and who took it and is silent since.

    Where the inventory has hosts, only they count: what a stranger says must not stop the updates of others.
    """
    counting = [row for row in found if row.host] or list(found)
    result: dict[str, dict[str, dict[str, list[str]]]] = {}
    for row in counting:
        if (said := row.report) is None:
            continue
        name = row.host or said.machine
        for version in {said.version, *said.fetched, *([said.about] if said.about else [])}:
            of = result.setdefault(said.product, {}).setdefault(version, {"took": [], "failed": [], "silent": []})
            of["took"].append(name)
            if row.failed_with(version):
                of["failed"].append(name)
            elif row.silent:
                of["silent"].append(name)
    return result


def _only(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What belongs to one host, and not to several."""
    count = Counter(value for value, _name in pairs)
    return {value: name for value, name in pairs if count[value] == 1}


def _address(value: Any) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        return ""


def _ago(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M")
