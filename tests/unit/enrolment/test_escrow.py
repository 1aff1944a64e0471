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
from enrolment import RECIPIENTS, Machine, age_file, armour

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
