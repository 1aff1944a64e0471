# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What strangers may send, and how much of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from enrolment import PEM, Machine, Tpm
from fastapi.testclient import TestClient

from vauban_enrolment import ageing
from vauban_enrolment.app import machines_app
from vauban_enrolment.limits import Rate, address_of
from vauban_enrolment.service import Service
from vauban_enrolment.storage import Storage

JSON = {"Content-Type": "application/json"}
Another = Callable[..., Machine]


def stranger(another: Another, number: int, **what: Any) -> Machine:
    return another(tpm=Tpm(f"s{number}"), serial=f"X{number}", mac=f"52:54:00:00:01:{number:02x}", **what)


def test_a_body_that_is_too_large_is_not_read(server: Any, machine: Machine) -> None:
    machine.advance("installing")
    body = {**machine.escrow_body(), "recovery_key": "A" * 200_000}
    for method, path in (("PUT", "/escrow"), ("POST", "/reports"), ("PUT", "/requests/hosts")):
        answer = machine.own(method, path, json=body)
        assert (answer.status_code, answer.json()["title"]) == (413, "too large")
    assert machine.ask("POST", "/v1/enrolments", content=b" " * 131_073, headers=JSON).status_code == 413


def test_a_length_that_is_a_lie_does_not_help(server: Any, machine: Machine) -> None:
    def parts() -> Any:
        for __ in range(200):
            yield b" " * 1024

    assert machine.ask("POST", "/v1/enrolments", content=parts(), headers=JSON).status_code == 413
    headers = {**JSON, "Content-Length": "99999999999999999999999"}
    assert machine.ask("POST", "/v1/enrolments", content=b"{}", headers=headers).status_code == 413


def test_a_request_in_pem_is_short(server: Any, machine: Machine) -> None:
    machine.advance("proven")
    assert machine.own("PUT", "/requests/hosts", content="A" * 9000, headers=PEM).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[" * 60_000,
        b'{"a":' * 20_000,
        b"1" * 5_000,
        b'{"release": NaN}',
        json.dumps({"release": {"product": "../../etc", "version": "1", "manifest_sha256": "ab" * 32}}).encode(),
    ],
)
def test_a_body_that_is_none_is_refused(server: Any, machine: Machine, body: bytes) -> None:
    answer = machine.ask("POST", "/v1/enrolments", content=body, headers=JSON)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("value", ["\ud800", 1, None, ["a"], {"a": "b"}, "x" * 301])
def test_a_text_that_is_none_is_refused(server: Any, machine: Machine, value: Any) -> None:
    application = machine.application()
    application["hardware"]["dmi"]["product_name"] = value
    body = json.dumps(application).encode()
    answer = machine.ask("POST", "/v1/enrolments", content=body, headers=JSON)
    assert answer.status_code == 422
    assert str(value) not in answer.text


@pytest.mark.parametrize("value", ["", "../x", "X", "<b>", "a" * 33, 1, ["a"]])
def test_a_hardware_profile_that_is_none_is_refused(server: Any, machine: Machine, value: Any) -> None:
    application = machine.application()
    application["hardware"]["hardware_profile"] = value
    assert machine.ask("POST", "/v1/enrolments", json=application).status_code == 422


@pytest.mark.parametrize("value", ["\0", "\x1b[2J", "a\nb", "\u202e", "\u2028"])
def test_what_moves_a_cursor_is_replaced(server: Any, another: Another, value: str) -> None:
    machine = stranger(another, 1)
    machine.serial = f"S{value}9"
    assert machine.apply().status_code == 201
    (line,) = server.admin.get("/admin/v1/machines").json()["others"]
    assert value not in line["serial"]
    assert line["serial"].isprintable()


@pytest.mark.parametrize(
    "evidence",
    [
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": 2**70},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}},
        {"a": ["x"] * 300},
        {"a": "x" * 5000},
    ],
)
def test_evidence_is_bounded(server: Any, machine: Machine, evidence: dict[str, Any]) -> None:
    machine.advance("proven")
    body = json.dumps({"phase": "x", "percent": 1, "line": "", "evidence": evidence}).encode()
    answer = machine.own("POST", "/reports", content=body, headers=JSON)
    assert answer.status_code == 422
    # The server is as it was, and can say so.
    assert server.admin.get("/admin/v1/machines/one").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/enrolments/../../admin/v1/machines",
        "/v1/enrolments/%2e%2e/%2e%2e/admin/v1/machines",
        "/v1/enrolments/%00",
        "/v1/enrolments/..%2f..%2fetc%2fpasswd",
        "/v1/enrolments/" + "0" * 31,
        "/v1/enrolments/" + "0" * 32 + "/",
        "/v1/enrolments/" + "0" * 32 + "%0a",
        "/v1/enrolments/" + "\u0660" * 32,
        "//v1/enrolments",
        "/admin/v1/machines",
        "/admin/v1/audit",
        "/metrics",
        "/",
        "/docs",
        "/openapi.json",
    ],
)
def test_paths_that_are_none_are_not_found(server: Any, machine: Machine, path: str) -> None:
    machine.token = "x"
    answer = machine.ask("GET", path)
    assert answer.status_code in (404, 405)
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_address_has_a_rate_and_another_its_own(server: Any, machine: Machine, another: Another) -> None:
    server.start(limits={"requests_per_minute": 5})
    machine.apply()
    codes = [machine.own("GET", "").status_code for __ in range(6)]
    assert codes == [200, 200, 200, 200, 429, 429]
    answer = machine.own("GET", "")
    assert int(answer.headers["retry-after"]) > 0
    assert another(address="192.0.2.2").apply().status_code == 201
    ageing.sweep(server.service)
    assert 'enrolment_turned_away_total{reason="rate_of_requests"} 3.0' in server.admin.get("/metrics").text


def test_all_together_have_a_rate(server: Any, another: Another) -> None:
    server.start(limits={"applications_per_minute_in_all": 3})
    codes = [stranger(another, number, address=f"192.0.2.{number}").apply().status_code for number in range(1, 6)]
    assert codes == [201, 201, 201, 429, 429]


def test_a_rate_refills() -> None:
    moment = 0.0
    rate = Rate(2, 100, 3, lambda: moment)
    assert [rate.take("a") for __ in range(3)] == [True, True, False]
    moment = 30.0
    assert [rate.take("a") for __ in range(2)] == [True, False]


def test_addresses_are_not_remembered_without_end() -> None:
    rate = Rate(1, 1000, 3, lambda: 0.0)
    for number in range(100):
        assert rate.take(str(number))
    assert len(rate.by_address) == 3


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        (b"192.0.2.1, 10.0.0.1", "local"),
        (b"\xff", "local"),
        (b"", "local"),
    ],
)
def test_the_address_is_what_the_web_server_says(header: bytes, address: str) -> None:
    assert address_of({"headers": [(b"x-real-ip", header)]}) == address


def test_few_wait_at_one_address_and_not_many_at_all(server: Any, another: Another) -> None:
    server.start(limits={"unproven_per_address": 2, "unproven": 3})
    answers = [stranger(another, number).apply() for number in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 503]
    assert "retry-after" in answers[-1].headers
    assert stranger(another, 4, address="192.0.2.2").apply().status_code == 201
    assert stranger(another, 5, address="192.0.2.3").apply().status_code == 503


def test_who_waits_in_silence_makes_room(server: Any, another: Another) -> None:
    server.start(limits={"unproven": 2}, lifetimes={"quarantine_silence": 600})
    silent, other = stranger(another, 1), stranger(another, 2)
    silent.apply()
    other.apply()
    for __ in range(3):
        server.clock.wait(250)
        assert other.state() == "quarantined"
    assert stranger(another, 3).apply().status_code == 201
    assert silent.state() == "refused"
    assert server.log()[-2]["detail"]["reason"] == "silence"


@pytest.mark.parametrize(
    ("state", "seconds", "end", "reason"),
    [
        ("challenged", 121, "refused", "the challenge has ended"),
        ("proven", 14_401, "failed", "silence"),
        ("installing", 14_401, "failed", "silence"),
        ("escrowed", 14_401, "failed", "silence"),
        ("written", 86_401, "failed", "no first boot"),
    ],
)
def test_silence_ends_every_state(
    server: Any, machine: Machine, state: str, seconds: int, end: str, reason: str
) -> None:
    machine.advance(state)
    server.clock.wait(seconds)
    ageing.sweep(server.service)
    assert machine.state() == end
    assert server.last()["detail"]["reason"] == reason


def test_of_two_proofs_at_once_one_counts(server: Any, machine: Machine) -> None:
    machine.apply()
    proof = machine.proof(machine.own("GET", "").json()["challenge"])
    # Two processes: each with a connection of its own.
    services = [
        Service(Storage(server.service.settings.database), server.service.settings, server.service.verifier)
        for __ in range(2)
    ]
    clients = [TestClient(machines_app(service)) for service in services]
    headers = {"Authorization": f"Bearer {machine.token}"}

    def answer(client: TestClient) -> int:
        return client.post(f"/v1/enrolments/{machine.id}/proof", json=proof, headers=headers).status_code

    for service in services:
        service.clock = server.clock
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(answer, clients * 4))
    assert sorted(codes) == [200] + [409] * 7
    assert [each["action"] for each in server.log()].count("proven") == 1
    for service in services:
        service.storage.close()


def test_of_two_enrolments_at_once_each_has_its_line(server: Any, another: Another) -> None:
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: stranger(another, n, address=f"192.0.2.{n}").apply().status_code, range(1, 13)))
    assert codes == [201] * 12
    assert [each["action"] for each in server.log()].count("quarantined") == 12


def test_answers_are_not_kept_or_sniffed(server: Any, machine: Machine) -> None:
    for answer in (machine.apply(), machine.own("GET", ""), machine.ask("GET", "/nothing"), server.admin.get("/")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
