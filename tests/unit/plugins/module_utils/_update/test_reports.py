# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What strangers send through a web server's log is counted, and changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._update import reports
from ansible_collections.vauban.fleet.plugins.module_utils._update.reports import Report, reduce

NOW = 1_795_500_000.0
MACHINE = "0123456789abcdef" * 2
AGENT = f"vauban-update/1 product=gateway version=1.0.0 machine={MACHINE} since=2026-11-01T07:00:00Z trial=no last=ok"
PLAIN = re.compile("[0-9A-Za-z.+_:-]*")


def line(**changes: Any) -> str:
    said = {"time": NOW - 60, "address": "192.0.2.9", "path": "/update/v1/gateway/stable.p7m", "status": 200}
    return json.dumps({**said, "bytes": 1, "agent": AGENT, **changes})


def only(*lines: str) -> Report:
    found = list(reduce(lines, now=NOW).reports.values())
    assert len(found) == 1
    return found[0]


def test_report_is_what_the_machine_said_last() -> None:
    assert only(line(), line(time=NOW, agent=AGENT.replace("1.0.0", "1.1.0"))).version == "1.1.0"
    assert only(line(time=NOW), line(agent=AGENT.replace("1.0.0", "1.1.0"))).version == "1.0.0"
    assert Report.from_dict(json.loads(json.dumps(only(line()).as_dict()))) == only(line())


@pytest.mark.parametrize(
    ("path", "status", "fetched"),
    [
        ("/releases/gateway/1.1.0/gateway.raucb", 200, ["1.1.0"]),
        ("/releases/gateway/1.1.0/gateway.raucb", 206, ["1.1.0"]),
        ("/releases/gateway/1.1.0/gateway.raucb", 404, []),
        ("/releases/gateway/1.1.0/manifest.json", 200, []),
        ("/releases/server/1.1.0/server.raucb", 200, []),
        ("/releases/gateway/../x/y", 200, []),
    ],
)
def test_bundle_that_was_given_counts_as_fetched(path: str, status: int, fetched: list[str]) -> None:
    assert list(only(line(path=path, status=status), line(time=NOW)).fetched) == fetched


def test_only_the_latest_versions_are_remembered() -> None:
    lines = [line(path=f"/releases/gateway/1.{n}/b", time=NOW - 1000 + n) for n in range(100)]
    assert list(only(*lines).fetched) == [f"1.{n}" for n in range(92, 100)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 10_000,
        line(time=NOW + 3600),
        line(time=float("nan")),
        line(time=-1),
        line(time="soon"),
        line(address="updates.example.org"),
        line(address=["192.0.2.9"]),
        line(path=7),
        line(status="ok"),
        line(agent=None),
        line(agent=AGENT + "\n"),
        line(agent=AGENT + " "),
        line(agent=AGENT.replace("1.0.0", "1.0.0;id")),
        line(agent=AGENT.replace("1.0.0", "9" * 65)),
        line(agent=AGENT.replace("gateway", "g\u0430teway")),
        line(agent=AGENT.replace(MACHINE, MACHINE[1:])),
        line(agent=AGENT.replace("2026-11-01", "2026-13-01")),
        line(agent=AGENT.replace("last=ok", "last=ok:1.0.0")),
        line(agent=AGENT.replace("last=ok", "last=failed")),
        line(agent=AGENT.replace("trial=no", "trial=maybe")),
        line(path="/" + "x" * reports.LINE),
    ],
)
def test_what_is_no_report_is_counted(text: str) -> None:
    found = reduce([text, line()], now=NOW)
    assert (found.malformed, len(found.reports)) == (1, 1)


def test_time_to_come_is_not_since_when() -> None:
    assert only(line(agent=AGENT.replace("2026-11-01", "2099-11-01"))).since is None
    assert only(line(agent=AGENT.replace("2026-11-01T07:00:00Z", "-"))).since is None


def test_one_address_does_not_fill_the_list() -> None:
    lines = (line(agent=AGENT.replace(MACHINE, f"{n:032x}")) for n in range(reports.PER_ADDRESS + 10))
    found = reduce([*lines, line(address="192.0.2.10")], now=NOW)
    assert (len(found.reports), found.dropped) == (reports.PER_ADDRESS + 1, 10)
    assert ("192.0.2.10", MACHINE) in found.reports


def test_journal_is_read_line_by_line_and_an_endless_one_in_pieces(tmp_path: Path) -> None:
    program = tmp_path / "journalctl"
    program.write_text("#!/bin/sh\necho first; head -c 100000 /dev/zero | tr '\\0' x; echo; echo last\n")
    program.chmod(0o755)
    lines = list(reports.logged(str(program), since=NOW))
    assert (lines[0], lines[-1]) == ("first", "last")
    assert max(map(len, lines)) <= reports.LINE + 2


def test_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "journalctl"
    program.write_text("#!/bin/sh\necho no permission >&2; exit 1\n")
    program.chmod(0o755)
    with pytest.raises(FleetError, match="cannot be read: no permission"):
        list(reports.logged(str(program), since=NOW))


values = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from(["time", "address", "path", "status", "agent"]), values))
def test_no_value_of_a_field_is_an_error(changes: dict[str, Any]) -> None:
    found = reduce([line(**changes)], now=NOW)
    assert found.malformed + len(found.reports) == 1


@given(st.text(max_size=200))
def test_no_line_is_an_error(text: str) -> None:
    assert reduce([text], now=NOW).malformed == 1


@given(st.sampled_from(["product", "version", "machine", "since", "trial", "last"]), st.text(max_size=80))
def test_what_is_believed_is_plain(name: str, value: str) -> None:
    agent = re.sub(f"{name}=[^ ]*", lambda _match: f"{name}={value}", AGENT)
    for report in reduce([line(agent=agent)], now=NOW).reports.values():
        for each in (report.product, report.version, report.machine, report.last, report.about):
            assert PLAIN.fullmatch(each)
            assert len(each) <= 64
