# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What machines say of themselves when they ask for updates: from lines of a web server to one report for each machine.

A machine says what it likes. Only what has exactly the form that ``update-report`` of role update_client gives it
counts, and of that no more than fits: a stranger adds reports of its own, and changes those of nobody else's address.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

LINE = 16_384  # characters; a path and a user agent as long as nginx takes them are fewer
PER_ADDRESS = 4_096  # reporters: a network behind one address
IN_ALL = 65_536
VERSIONS = 8  # of which is remembered that a machine fetched them
AHEAD = 300.0  # seconds that a clock may be ahead

# Both: what another unit logs under this name does not count.
_WHOSE = ("_SYSTEMD_UNIT=nginx.service", "SYSLOG_IDENTIFIER=vauban_update")
_WORD = "[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}"
_TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
_AGENT = re.compile(
    f"vauban-update/1 product=(?P<product>{_WORD}) version=(?P<version>{_WORD}) machine=(?P<machine>[0-9a-f]{{32}})"
    f" since=(?P<since>-|{_TIME}) trial=(?P<trial>yes|no)"
    f" last=(?P<last>ok|refused|no-answer|(?P<outcome>installed|failed|fell-back):(?P<about>{_WORD}))"
)
_FETCHED = re.compile(f"/releases/(?P<product>{_WORD})/(?P<version>{_WORD})/(?P<file>[0-9A-Za-z][0-9A-Za-z.+_~-]*)")
_BEFORE_IT = {"manifest.json", "manifest.json.p7s"}


@dataclass
class Report:
    """What one machine said last.

    :param address: that the server saw; the rest is the machine's own word.
    :param seen: seconds since 1970, by the server's clock, as are those of ``fetched``.
    :param since: seconds since 1970, by the machine's clock; None if it does not say, or names a time to come.
    :param last: ``ok``, ``refused``, ``no-answer``, ``installed``, ``failed`` or ``fell-back``.
    :param about: the version that the last three concern, else empty.
    :param fetched: versions whose bundles it asked for and was given, and when.
    """

    address: str
    machine: str
    product: str
    version: str
    seen: float
    since: float | None
    trial: bool
    last: str
    about: str
    fetched: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For the controller."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The reverse."""
        return cls(**data)


@dataclass
class Reduced:
    """One report for each machine, and what was left out."""

    reports: dict[tuple[str, str], Report] = field(default_factory=dict)
    malformed: int = 0
    dropped: int = 0


def logged(program: str, *, since: float) -> Iterator[str]:
    """What nginx has logged for this, the oldest first, as it is read.

    :param program: journalctl(1).
    :param since: seconds since 1970.
    :raises FleetError: the journal cannot be read.
    """
    argv = [program, "--quiet", "--no-pager", "--all", "--output=cat", f"--since=@{since:.0f}", *_WHOSE]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace") as process:
            if process.stdout is None:
                raise AssertionError("a pipe was asked for")
            while line := process.stdout.readline(LINE + 2):
                yield line.rstrip("\n")
        errors.seek(0)
        if process.returncode != 0:
            remedy = "connect as root, or as a member of group systemd-journal"
            message = f"the journal cannot be read: {errors.read(1000).strip()}"
            raise FleetError(message, where="journalctl", remedy=remedy)


def reduce(lines: Iterable[str], *, now: float) -> Reduced:
    """Keep of each machine what it said last. Memory is bounded, however many lines there are.

    :param lines: of nginx, as role boot_server has it log them.
    :param now: seconds since 1970.
    """
    found, of_address = Reduced(), Counter[str]()
    for line in lines:
        parsed = _parse(line, now)
        if parsed is None:
            found.malformed += 1
            continue
        report, fetched = parsed
        key = (report.address, report.machine)
        before = found.reports.get(key)
        if before is None:
            if of_address[report.address] >= PER_ADDRESS or len(found.reports) >= IN_ALL:
                found.dropped += 1
                continue
            of_address[report.address] += 1
        else:
            report.fetched = before.fetched
        if fetched:
            report.fetched.setdefault(fetched, report.seen)
            if len(report.fetched) > VERSIONS:
                del report.fetched[min(report.fetched, key=report.fetched.__getitem__)]
        if before is None or report.seen >= before.seen:
            found.reports[key] = report
    return found


def _parse(line: str, now: float) -> tuple[Report, str] | None:
    """A report, and the version whose bundle the server gave with the same answer; None if the line is none."""
    if len(line) > LINE:
        return None
    try:
        data = json.loads(line)
        agent = _AGENT.fullmatch(data["agent"])
        address, path = str(ipaddress.ip_address(data["address"])), _FETCHED.fullmatch(data["path"])
        seen, status = float(data["time"]), int(data["status"])
        if agent is None or not 0 < seen <= now + AHEAD:
            return None
        since = None if agent["since"] == "-" else _seconds(agent["since"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    report = Report(
        address=address,
        machine=agent["machine"],
        product=agent["product"],
        version=agent["version"],
        seen=seen,
        since=since if since is not None and since <= now + AHEAD else None,
        trial=agent["trial"] == "yes",
        last=agent["outcome"] or agent["last"],
        about=agent["about"] or "",
    )
    given = path is not None and status in (200, 206) and path["product"] == report.product
    return report, path["version"] if path is not None and given and path["file"] not in _BEFORE_IT else ""


def _seconds(text: str) -> float:
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC).timestamp()
