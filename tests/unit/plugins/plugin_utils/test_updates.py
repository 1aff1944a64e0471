# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ansible_collections.vauban.fleet.plugins.module_utils._update.reports import Report
from ansible_collections.vauban.fleet.plugins.plugin_utils import _updates
from ansible_collections.vauban.fleet.plugins.plugin_utils._updates import Known, Row, rows

NOW, SILENCE = 1_795_500_000.0, 86_400.0


def report(address: str = "192.0.2.1", number: int = 1, **changes: Any) -> Report:
    said: dict[str, Any] = {
        "address": address,
        "machine": f"{number:032x}",
        "product": "gateway",
        "version": "1.0",
        "seen": NOW - 60,
        "since": None,
        "trial": False,
        "last": "ok",
        "about": "",
    }
    return Report(**{**said, **changes})


def known(name: str, *addresses: str, number: int = 0) -> Known:
    variables = {"fleet_addresses": list(addresses), "fleet_machine_id": f"{number:032x}" if number else ""}
    return Known.of(name, variables)


def found(hosts: list[Known], *reports: Report) -> dict[str, Row]:
    return {
        row.host or (row.report.address if row.report else ""): row
        for row in rows(hosts, reports, now=NOW, silence=SILENCE)
    }


def test_address_of_a_tunnel_counts_before_the_machine_id() -> None:
    """Who takes the machine id of another host is seen, and the other host is not disturbed."""
    hosts = [known("one", "192.0.2.1", number=1), known("two", "192.0.2.2", number=2)]
    rows_ = found(hosts, report("192.0.2.1", 2, version="6.6.6"), report("192.0.2.2", 2))
    assert rows_["one"].note == "has the machine id of two"
    assert rows_["two"].report == report("192.0.2.2", 2)
    assert not rows_["two"].note


def test_machine_id_counts_where_the_address_says_nothing() -> None:
    assert found([known("one", number=1)], report("198.51.100.1", 1))["one"].report is not None
    both = [known("one", "192.0.2.1", number=1), known("two", "192.0.2.1", number=2)]
    assert found(both, report("192.0.2.1", 2))["two"].report is not None


def test_ansible_host_is_an_address_if_it_is_one() -> None:
    assert Known.of("one", {"ansible_host": "192.0.2.1"}).addresses == {"192.0.2.1"}
    assert Known.of("one", {"ansible_host": "one.example.org"}).addresses == set()


def test_host_that_moved_is_one_host() -> None:
    hosts = [known("one", "192.0.2.1", "192.0.2.3")]
    older = report("192.0.2.1", version="1.0", seen=NOW - 7200, fetched={"1.1": NOW - 7200})
    row = found(hosts, older, report("192.0.2.3", version="1.1"))["one"]
    assert row.report is not None
    assert (row.report.version, row.report.fetched) == ("1.1", {"1.1": NOW - 7200})


def test_strangers_and_those_never_heard_of_are_shown() -> None:
    rows_ = found([known("one", "192.0.2.1")], report("192.0.2.99", 9))
    assert (rows_["one"].silent, rows_["one"].note) == (True, "never heard of")
    assert rows_["192.0.2.99"].note == "not in the inventory"


@pytest.mark.parametrize(("age", "note"), [(86_300, ""), (90_000, "silent for 1 d"), (1e9, "silent for 11574 d")])
def test_silence_is_named_with_its_length(age: float, note: str) -> None:
    row = found([known("one", "192.0.2.1")], report(seen=NOW - age))["one"]
    assert (row.silent, row.note) == (bool(note), note)


def test_experience_counts_hosts_and_not_strangers() -> None:
    hosts = [known(f"host{n}", f"192.0.2.{n}") for n in range(1, 6)]
    said = [
        report("192.0.2.1", 1, version="1.1"),
        report("192.0.2.2", 2, last="fell-back", about="1.1"),
        report("192.0.2.3", 3, fetched={"1.1": NOW}),
        report("192.0.2.4", 4, version="1.1", seen=NOW - 2 * SILENCE),
        report("192.0.2.5", 5),
        report("192.0.2.66", 6, last="failed", about="1.1"),
    ]
    all_rows = rows(hosts, said, now=NOW, silence=SILENCE)
    assert _updates.experience(all_rows)["gateway"]["1.1"] == {
        "took": ["host1", "host2", "host3", "host4"],
        "failed": ["host2"],
        "silent": ["host4"],
    }
    strangers = rows([], said, now=NOW, silence=SILENCE)
    assert len(_updates.experience(strangers)["gateway"]["1.1"]["took"]) == 5


words = st.from_regex("[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}", fullmatch=True)
times = st.floats(0, NOW)
anything = st.builds(
    Report,
    address=st.ip_addresses().map(str),
    machine=st.from_regex("[0-9a-f]{32}", fullmatch=True),
    product=words,
    version=words,
    seen=times,
    since=st.none() | times,
    trial=st.booleans(),
    last=st.sampled_from(["ok", "refused", "no-answer", "installed", "failed", "fell-back"]),
    about=st.just("") | words,
    fetched=st.dictionaries(words, times, max_size=3),
)
names = st.text(min_size=1, max_size=20)


@given(st.lists(anything, max_size=6), st.lists(names, max_size=3, unique=True))
def test_every_machine_has_a_line_and_a_sample_and_nothing_else(said: list[Report], hosts: list[str]) -> None:
    """Names of hosts are anything, too."""
    all_rows = rows([Known(name) for name in hosts], said, now=NOW, silence=SILENCE)
    assert len(all_rows) == len(said) + len(hosts)
    text = _updates.metrics(all_rows, malformed=3, dropped=0)
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    assert set(families) == {name.split()[2] for name in text.split("\n") if name.startswith("# TYPE ")}
    assert len(families["vauban_update_silent"]) == len(all_rows)
    assert sorted(
        sample.labels["host"] for sample in families["vauban_update_silent"] if sample.labels["host"]
    ) == sorted(hosts)
    assert len(families["vauban_update_info"]) == len(said)
    assert all(sample.value == 1 for sample in families["vauban_update_info"])
    lines = _updates.table([row for row in all_rows if not row.host], now=NOW)
    assert len(lines) == 1 + len(said)
    assert all(line.isprintable() for line in lines)
    assert json.loads(json.dumps([row.as_dict() for row in all_rows])) is not None
