# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller makes of a site, and of what the enrolment service tells it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from provisioned import SITE

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.modules import configuration_store
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import configurations, expectations, follow
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.follow import Follower, Row
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.service import Fleet, Service
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import read
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

RELEASE = expectations.Release("server", "1.0", "ab" * 32, {"installer": {}, "installed": {}}, ("age1",))


ORDER = {"ek_sha256": "ab" * 32, "given": "2026-11-22T12:00:00Z", "begun": False}


def host(name: str, enrolment: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    told = {
        "host": name,
        "class": "tpm",
        "reinstall": False,
        "installed": None,
        "enrolled": False,
        "wipe": None,
        "repair": None,
        "backup": None,
        "keep": False,
    }
    return {**told, "enrolment": enrolment, **changes}


def enrolment(state: str, **changes: Any) -> dict[str, Any]:
    told = {"id": "e1", "state": state, "percent": 10, "line": "doing it", "seen": "2026-11-22T12:00:00Z"}
    return {**told, **changes}


def row(told: Mapping[str, Any], **more: Any) -> Row:
    (found,) = follow.rows(
        Fleet({told["host"]: told}, [], []),
        [told["host"]],
        more.get("reasons", {}),
        more.get("old", ()),
        more.get("goal", follow.INSTALLED),
    )
    return found


MENDED: dict[str, Any] = {"installed": "2026-11-22T12:00:00Z"}
REPAIR = {"ek_sha256": "ab" * 32, "expires": "2026-11-22T16:00:00Z"}


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (host("a", enrolment("installed"), **MENDED), "unknown"),
        (host("a", enrolment("installed"), **MENDED, repair=REPAIR), "waiting"),
        (host("a", enrolment("repairing"), **MENDED, repair=REPAIR), "repairing"),
        (host("a", enrolment("failed"), **MENDED, repair=REPAIR), "failed"),
        (host("a", enrolment("repaired"), **MENDED), "repaired"),
    ],
)
def test_where_a_host_is_that_repairs_its_disk(told: Mapping[str, Any], state: str) -> None:
    assert row(told, goal=follow.REPAIRED).state == state
    assert row(told).state == "installed", "it is that all the time"


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (host("a", enrolment("installed"), **MENDED), "unknown"),
        (host("a", enrolment("installed"), **MENDED, backup=REPAIR), "waiting"),
        (host("a", enrolment("repaired"), **MENDED, backup=REPAIR), "waiting"),
        (host("a", enrolment("backing_up"), **MENDED, backup=REPAIR), "backing_up"),
        (host("a", enrolment("failed"), **MENDED, backup=REPAIR), "failed"),
        (host("a", enrolment("backed_up"), **MENDED), "backed_up"),
    ],
)
def test_where_a_host_is_that_sends_its_data(told: Mapping[str, Any], state: str) -> None:
    assert row(told, goal=follow.BACKED_UP).state == state
    assert row(told).state == "installed", "it is that all the time"
    if state not in ("unknown", "failed"):
        assert row(told, goal=follow.REPAIRED).state in ("repaired", "unknown"), "that is another order"


def test_earlier_repair_is_no_news() -> None:
    again = host("a", enrolment("repaired"), **MENDED, repair=REPAIR)
    assert row(again, goal=follow.REPAIRED, old=["e1"]).state == "waiting"
    assert row({**again, "reinstall": True}).state == "waiting"


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (host("a"), "waiting"),
        (host("a", enrolment("installing")), "installing"),
        (host("a", enrolment("installed"), installed="2026-11-22T12:00:00Z"), "installed"),
        (host("a", None, installed="2026-11-22T12:00:00Z"), "installed"),
        (host("a", enrolment("installed"), installed="2026-11-22T12:00:00Z", reinstall=True), "waiting"),
        (host("a", enrolment("proven"), installed="2026-11-22T12:00:00Z", reinstall=True), "proven"),
        (host("a", enrolment("installed"), wipe=ORDER), "waiting"),
        (host("a", enrolment("installed"), installed="2026-11-22T12:00:00Z", wipe=ORDER), "waiting"),
        (host("a", enrolment("wiping"), wipe=ORDER), "wiping"),
        (host("a", enrolment("failed"), wipe=ORDER), "failed"),
        (host("a", enrolment("wiped")), "wiped"),
        (host("a", enrolment("installed"), installed="2026-11-22T12:00:00Z", keep=True), "waiting"),
        (host("a", enrolment("keeping"), installed="2026-11-22T12:00:00Z", keep=True), "keeping"),
    ],
)
def test_state_of_a_host(told: Mapping[str, Any], state: str) -> None:
    assert row(told).state == state


def test_host_that_ended_says_why_and_only_once() -> None:
    told = host("a", enrolment("refused"))
    assert row(told, reasons={"e1": "not the TPM of a"}).line == "not the TPM of a"
    assert row(told, old=["e1"]).state == "waiting"
    assert row(host("a", enrolment("failed"), wipe=ORDER), old=["e1"]).state == "waiting"
    (nobody,) = follow.rows(Fleet({}, [], []), ["a"], {})
    assert nobody.state == "unknown"


class Told:
    """In the place of the service: answers what it has, and remembers what it was asked."""

    def __init__(self, **answers: Callable[[Mapping[str, list[str]]], Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self._answer(call) for call in calls]

    def _answer(self, call: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(f"{call['method']} {call['path']}")
        parts = urlsplit(call["path"])
        name = parts.path.removeprefix("/admin/v1/").partition("/")[0]
        return {"status": 200, "body": self.answers[name](parse_qs(parts.query))} if name in self.answers else _NOTHING


_NOTHING = {"status": 404, "body": {"title": "Not Found", "detail": "nothing is there"}}


def test_fleet_larger_than_an_answer_is_read_whole() -> None:
    names = [f"h{number:05}" for number in range(25_000)]

    def machines(query: Mapping[str, list[str]]) -> Any:
        rest = [name for name in names if name > query.get("after", [""])[0]]
        return {"hosts": [host(name) for name in rest[: int(query["limit"][0])]], "others": []}

    told = Told(machines=machines, requests=lambda _query: [])
    assert list(Service(told, "boot").fleet().hosts) == names
    assert len(told.asked) == 4


def test_audit_log_is_read_on_and_not_again() -> None:
    records = [
        {"sequence": number, "action": "refused", "enrolment": f"e{number}", "detail": {"reason": f"r{number}"}}
        for number in range(1, 4)
    ]

    def audit(query: Mapping[str, list[str]]) -> Any:
        return {"records": [each for each in records if each["sequence"] > int(query["after"][0])]}

    told = Told(audit=audit)
    service = Service(told, "boot")
    assert service.reasons(["e2"]) == {"e2": "r2"}
    assert service.reasons(["e1", "e3"]) == {"e1": "r1", "e3": "r3"}
    assert service.reasons(["e9"]) == {}
    assert told.asked == ["GET /admin/v1/audit?limit=10000&after=0", "GET /admin/v1/audit?limit=10000&after=3"]


def test_refusal_of_the_service_names_call_and_server() -> None:
    with pytest.raises(FleetError, match=r"boot: GET /machines\?limit=10000: Not Found: nothing is there \(404\)"):
        Service(Told(), "boot").fleet()


def follower(told: Told, said: list[str], **changes: Any) -> Follower:
    moments = iter(range(1000))

    def sign(_host: str, _name: str, _request: str) -> str:
        raise FleetError("asks for another name")

    values = {"patience": 30, "grace": 5, "pause": 1, "summary": 10, **changes}
    service = Service(told, "boot")
    return Follower(
        service, ["a"], sign, said.append, lambda: float(next(moments)), lambda _seconds: None, **values
    )  # fmt: skip


def test_silence_ends_it_and_it_says_meanwhile_how_many_are_where() -> None:
    told = Told(machines=lambda _query: {"hosts": [host("a")], "others": []}, requests=lambda _query: [])
    said: list[str] = []
    (found,) = follower(told, said).run()
    assert found.state == "waiting"
    assert said == ["1 waiting"] * 3


def test_disks_that_are_erased_are_followed_to_their_end_and_no_further() -> None:
    states = iter(["wiping", "wiping", "wiped"])

    def machines(_query: Mapping[str, list[str]]) -> Any:
        return {"hosts": [host("a", enrolment(next(states)))], "others": []}

    said: list[str] = []
    (found,) = follower(Told(machines=machines, requests=lambda _query: []), said, goal="wiped").run()
    assert found.state == "wiped"
    assert said == ["a  wiping  10 %  doing it", "a  wiped  10 %  doing it"]


def test_request_that_nobody_may_sign_is_refused_once() -> None:
    request = {"host": "a", "name": "hosts", "enrolment": "e1", "request": "PEM"}
    told = Told(
        machines=lambda _query: {"hosts": [host("a", enrolment("installing"))], "others": []},
        requests=lambda _query: [request],
        enrolments=lambda _query: {"state": "refused"},
    )
    follower(told, []).run()
    assert told.asked.count("POST /admin/v1/enrolments/e1/refuse") == 1


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    site = tmp_path / "small.site.yml"
    site.write_text(yaml.safe_dump(SITE, sort_keys=False))
    return read(site).plan


def test_expectation_is_what_the_site_says(plan: Plan) -> None:
    found = expectations.expectation_of(plan, "one", RELEASE, "cd" * 32, reinstall=True)
    assert (found["class"], found["admit"], found["serial"]) == ("tpm", "listed", "S1")
    assert found["macs"] == ["52:54:00:00:00:14"]
    assert found["configuration"]["url"] == f"https://boot.small.example/configurations/{'cd' * 32}"
    (certificate,) = found["certificates"]
    assert certificate["dns"] == ["one.small.example"]
    assert found["reinstall"]
    assert not found["keep"]
    assert found["hardware_profile"] is None
    other = expectations.expectation_of(plan, "three", RELEASE, None, reinstall=False)
    assert (other["admit"], other["hardware_profile"]) == ("approval", "touch_panel")


def test_disk_is_kept_only_for_a_tpm_that_the_site_lists(plan: Plan) -> None:
    expectations.require_listed(plan, ["one", "two"])
    with pytest.raises(FleetError, match=r"hosts\.three\.machine\.ek_sha256"):
        expectations.require_listed(plan, ["one", "three"])


def test_release_is_never_chosen_by_guess(plan: Plan) -> None:
    other = expectations.Release("server", "2.0", "cd" * 32, {}, ())
    with pytest.raises(FleetError, match=r"2 releases of server; there are server/1\.0, server/2\.0"):
        expectations.choose(plan, ["server"], [RELEASE, other])
    assert expectations.choose(plan, ["server"], [other])["server"] is other


def test_configurations_are_packed_alike_and_taken_only_whole(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "one"), ("c", "another")):
        (tmp_path / "trees" / name / "etc").mkdir(parents=True)
        (tmp_path / "trees" / name / "etc/hostname").write_text(content)
    (tmp_path / "pki/crl").mkdir(parents=True)
    for name in ("root", "issuing"):
        (tmp_path / f"pki/crl/{name}.crl").write_text("list")
    dest = tmp_path / "dest"
    dest.mkdir()
    packed = configurations.pack(tmp_path / "trees", ["a", "b", "c"], tmp_path / "pki", dest)
    assert packed["a"] == packed["b"] != packed["c"]
    assert all(hashlib.sha256((dest / digest).read_bytes()).hexdigest() == digest for digest in packed.values())
    names = set(packed.values())
    configurations.bundle({name: dest / name for name in names}, tmp_path / "bundle")
    configuration_store._take(tmp_path / "store", tmp_path / "bundle", set(names))
    assert {path.name for path in (tmp_path / "store").iterdir()} == names
    (dest / packed["c"]).write_bytes(b"changed")
    configurations.bundle({name: dest / name for name in names}, tmp_path / "bundle")
    with pytest.raises(FleetError, match="did not arrive whole"):
        configuration_store._take(tmp_path / "other", tmp_path / "bundle", set(names))
    assert packed["c"] not in {path.name for path in (tmp_path / "other").glob("*")}
    with pytest.raises(FleetError, match="which nobody wants"):
        configuration_store._take(tmp_path / "other", tmp_path / "bundle", {packed["c"]})
    (tmp_path / "pki/crl/root.crl").write_text("the next list")
    assert configurations.pack(tmp_path / "trees", ["a"], tmp_path / "pki", dest)["a"] != packed["a"]
