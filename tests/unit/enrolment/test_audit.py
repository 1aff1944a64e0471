# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log: it only grows, and shows it if it did not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import sqlalchemy
from enrolment import Machine, text
from enrolment_apps import POSTGRESQL
from sqlalchemy.exc import DBAPIError


@pytest.mark.parametrize("statement", ["DELETE FROM audit", "UPDATE audit SET actor = 'x'"])
def test_the_database_itself_refuses_to_change_it(server: Any, statement: str) -> None:
    engine = server.service.storage.engine
    with engine.connect() as connection, pytest.raises(DBAPIError, match="only grows"):
        connection.execute(sqlalchemy.text(statement))


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("DELETE FROM audit WHERE sequence = 2", "line 2 is missing"),
        ("DELETE FROM audit WHERE sequence = 1", "line 1 is missing"),
        ("DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)", "its end is missing"),
        ("DELETE FROM audit", "its end is missing"),
        ("UPDATE audit SET detail = '{}' WHERE sequence = 2", "line 2 was changed"),
        ("UPDATE audit SET actor = 'admin local' WHERE sequence = 3", "line 3 was changed"),
        ("UPDATE audit SET time = '2020-01-01T00:00:00.000Z' WHERE sequence = 1", "line 1 was changed"),
        ("UPDATE audit SET digest = previous WHERE sequence = 3", "line 3 was changed"),
        ("UPDATE audit SET sequence = 99 WHERE sequence = 3", "line 3 is missing"),
        ("DELETE FROM audit_head", "its end is missing"),
    ],
)
def test_a_log_that_was_changed_shows_it(server: Any, machine: Machine, statement: str, fault: str) -> None:
    machine.advance("proven")
    server.log()
    server.change(statement)
    answer = server.admin.get("/admin/v1/audit").json()
    assert not answer["intact"]
    assert answer["fault"].startswith(fault)
    assert "enrolment_audit_intact 0.0" in server.admin.get("/metrics").text


def test_every_change_has_time_who_and_why(server: Any, machine: Machine) -> None:
    machine.advance("installed")
    records = [record for record in server.log() if record["enrolment"] == machine.id and "reason" in record["detail"]]
    assert [(each["detail"].get("before"), each["action"]) for each in records] == [
        (None, "challenged"),
        ("challenged", "proven"),
        ("proven", "installing"),
        ("installing", "escrowed"),
        ("escrowed", "written"),
        ("written", "installed"),
    ]
    assert {each["actor"] for each in records} == {"machine 192.0.2.1"}
    assert {each["detail"]["class"] for each in records} == {"tpm"}
    assert all(each["time"].endswith("Z") for each in records)


def test_admins_are_named(server: Any) -> None:
    for name, expected in (("alice\u00e9\x07", "admin alice"), ("", "admin local")):
        server.admin.post("/admin/v1/hosts/one/forget", json={"reason": "x"}, headers={})
        headers = {"X-Client-Name": name.encode()}
        server.admin.get("/admin/v1/escrows/one", headers=headers)
        assert server.last()["actor"] == expected


def test_the_log_is_read_in_parts(server: Any, machine: Machine) -> None:
    machine.advance("installed")
    records = server.log()
    assert server.log(after=3, limit=2) == records[3:5]
    assert {each["host"] for each in server.log(host="one")} == {"one"}


@pytest.mark.skipif(POSTGRESQL is not None, reason="looks into the files of SQLite")
def test_no_secret_is_in_logs_or_in_the_database(
    server: Any, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    machine.advance("installed")
    other = Machine(server)
    other.token = machine.token
    other.id = "0" * 32
    other.own("GET", "")
    assert machine.credential
    secrets = {machine.token.encode(), machine.credential, machine.credential.hex().encode()}
    secrets.add(text(machine.credential).encode())
    files = list(server.file.parent.glob("enrolment.sqlite*"))
    assert len(files) == 3  # with the write-ahead log
    told = b"".join(file.read_bytes() for file in files) + caplog.text.encode()
    # What must be there is found, so what must not be would be.
    assert machine.id.encode() in told
    assert b"BEGIN AGE ENCRYPTED FILE" in told
    for secret in secrets:
        assert secret not in told


def test_a_bug_says_nothing(server: Any, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.apply()

    def broken(*_arguments: Any) -> None:
        raise RuntimeError(machine.token)

    server.service.clock = broken
    answer = machine.own("GET", "")
    assert answer.json() == {"type": "about:blank", "title": "internal error", "status": 500}
    assert "RuntimeError" in caplog.text
    assert machine.token not in "".join(record.getMessage() for record in caplog.records if record.name == "enrolment")
