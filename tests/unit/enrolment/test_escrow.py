# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is taken into escrow, and what never is."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from enrolment import RECIPIENTS, Machine, age_file, armour, expectation

from vauban_enrolment import ageing

GREASE = b"-> kdf-grease abc\n" + b"A" * 43 + b"\n"


def test_the_same_bytes_get_the_same_receipt_and_others_none(server: Any, machine: Machine) -> None:
    machine.advance("installing")
    raw = json.dumps(machine.escrow_body()).encode()
    headers = {"Content-Type": "application/json"}
    first = machine.own("PUT", "/escrow", content=raw, headers=headers)
    assert first.json()["receipt"]["sha256"] == hashlib.sha256(raw).hexdigest()
    server.start()
    assert machine.own("PUT", "/escrow", content=raw, headers=headers).json() == first.json()
    assert machine.escrow().status_code == 409
    assert server.last()["action"] == "out of order"
    (kept,) = server.admin.get("/admin/v1/escrows/one").json()
    assert base64.b64decode(kept["document"]) == raw
    assert server.last()["action"] == "escrow read"


def test_a_receipt_can_be_asked_for_again_after_the_last_step(machine: Machine) -> None:
    machine.advance("installing")
    body = machine.escrow_body()
    machine.escrow(body)
    machine.written()
    assert machine.escrow(body).status_code == 200
    machine.attest()
    assert machine.escrow(body).status_code == 409


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recovery_key": ""}, "is not an armoured age file"),
        ({"recovery_key": "secret"}, "is not an armoured age file"),
        ({"recovery_key": age_file().replace("AGE", "PGP")}, "is not an armoured age file"),
        ({"recovery_key": age_file() + "x"}, "is not an armoured age file"),
        ({"recovery_key": armour(b"A" * 300)}, "has no header of age"),
        ({"recovery_key": age_file(b"")}, "encrypts 0 bytes"),
        ({"recovery_key": age_file(b"x" * 20)}, "encrypts 20 bytes"),
        ({"recovery_key": age_file(recipients=1)}, "is encrypted to 1 recipients, and not to 2"),
        ({"recovery_key": age_file(recipients=3)}, "is encrypted to 3 recipients, and not to 2"),
        ({"recovery_key": age_file(recipients=1, extra=b"-> scrypt abc 18\n" + b"A" * 43 + b"\n")}, "passphrase"),
        ({"recipients": RECIPIENTS[:1]}, "is for other recipients"),
        ({"recipients": []}, "is for other recipients"),
        ({"recipients": [*RECIPIENTS, "age1" + "z" * 58]}, "is for other recipients"),
        ({"recipients": [RECIPIENTS[0], RECIPIENTS[0]]}, "is for other recipients"),
        ({"tokens": ["systemd-tpm2"]}, "has tokens other than"),
        ({"tokens": ["systemd-recovery", "systemd-tpm2", "systemd-fido2"]}, "has tokens other than"),
        ({"key_slots": ["0", "1", "2"]}, "has 3 key slots"),
        ({"key_slots": ["1", "1"]}, "has 2 key slots"),
        ({"key_slots": []}, "has 0 key slots"),
    ],
)
def test_what_is_no_recovery_key_is_refused(
    server: Any, machine: Machine, changes: dict[str, Any], reason: str
) -> None:
    machine.advance("installing")
    answer = machine.escrow(machine.escrow_body(**changes))
    assert (answer.status_code, answer.json()["title"]) == (422, "refused")
    assert reason not in answer.text
    assert reason in server.last()["detail"]["reason"]
    assert machine.state() == "installing"
    assert server.admin.get("/admin/v1/escrows/one").json() == []


@pytest.mark.parametrize("key", [age_file(), age_file(extra=GREASE), age_file(b"x" * 64)])
def test_what_may_be_one_is_taken(machine: Machine, key: str) -> None:
    machine.advance("installing")
    assert machine.escrow(machine.escrow_body(recovery_key=key)).status_code == 200


def test_without_escrow_nothing_is_written(machine: Machine) -> None:
    machine.advance("installing")
    machine.receipt = {"sha256": "00" * 32}
    assert machine.written().status_code == 409
    assert machine.state() == "installing"


def test_a_recovery_key_outlives_the_enrolment(server: Any, machine: Machine) -> None:
    machine.advance("escrowed")
    machine.report("failed")
    server.clock.wait(604_801)
    ageing.sweep(server.service)
    assert server.admin.get("/admin/v1/machines/one").json()["enrolments"] == []
    assert len(server.admin.get("/admin/v1/escrows/one").json()) == 1


def shares(**changes: Any) -> dict[str, Any]:
    """What it takes both officers to open."""
    made = [
        {"recipient": each, "share": age_file(recipients=1), "sha256": f"{number:02x}" * 32}
        for number, each in enumerate(RECIPIENTS)
    ]
    return {"set": "ab" * 16, "threshold": 2, "shares": made, **changes}


def body(machine: Machine, **changes: Any) -> dict[str, Any]:
    return machine.escrow_body(recovery_key=age_file(recipients=1), shared=shares(**changes))


@pytest.fixture
def both(server: Any, machine: Machine) -> Machine:
    """It takes both of the two officers."""
    machine.advance("installing")
    assert server.admin.put("/admin/v1/hosts/one", json=expectation(threshold=2)).status_code == 200
    return machine


def test_machine_is_told_how_many_officers_it_takes_and_gets_its_receipt(server: Any, both: Machine) -> None:
    assert both.own("GET", "/installation").json()["escrow"] == {"recipients": RECIPIENTS, "threshold": 2}
    raw = json.dumps(body(both)).encode()
    answer = both.own("PUT", "/escrow", content=raw, headers={"Content-Type": "application/json"})
    assert answer.json()["receipt"]["sha256"] == hashlib.sha256(raw).hexdigest()
    (kept,) = server.admin.get("/admin/v1/escrows/one").json()
    assert base64.b64decode(kept["document"]) == raw


def test_receipt_of_shares_is_wanted_before_anything_is_written(both: Machine) -> None:
    both.receipt = {"sha256": "00" * 32}
    assert both.written().status_code == 409
    both.escrow(body(both))
    assert both.written(receipt="00" * 32).status_code == 422
    assert both.written().status_code == 204


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threshold": 3}, "takes 3 officers, and not 2"),
        ({"shares": [shares()["shares"][0]] * 2}, "has shares for other recipients"),
        ({"shares": [*shares()["shares"], shares()["shares"][0]]}, "has shares for other recipients"),
        (
            {"shares": [{**each, "recipient": name} for each, name in zip(shares()["shares"], "xy", strict=True)]},
            None,
        ),
        ({"shares": [{**each, "sha256": "00" * 32} for each in shares()["shares"]]}, "has the same share twice"),
        (
            {"shares": [{**each, "share": "plain"} for each in shares()["shares"]]},
            "a share that is not an armoured",
        ),
        (
            {"shares": [{**each, "share": age_file(recipients=2)} for each in shares()["shares"]]},
            "a share that is encrypted to 2 recipients, and not to 1",
        ),
    ],
)
def test_what_are_no_shares_is_refused(server: Any, both: Machine, changes: dict[str, Any], reason: str | None) -> None:
    answer = both.escrow(body(both, **changes))
    assert answer.status_code == 422
    if reason is not None:
        assert reason in server.last()["detail"]["reason"]
    assert server.admin.get("/admin/v1/escrows/one").json() == []


def test_neither_is_taken_in_place_of_the_other(server: Any, both: Machine) -> None:
    assert both.escrow(both.escrow_body()).status_code == 422
    assert server.last()["detail"]["reason"] == "is not shared, and should take 2 officers"
    assert both.escrow(both.escrow_body(shared=shares())).status_code == 422
    assert server.last()["detail"]["reason"] == "is encrypted to 2 recipients, and not to 1"
    assert server.admin.put("/admin/v1/hosts/one", json=expectation()).status_code == 200
    assert both.escrow(body(both)).status_code == 422
    assert server.last()["detail"]["reason"] == "is shared among officers, and should not be"
