# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine sends its data if it was told to and proves that it is the host. What came whole is kept, nothing else."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enrolment import MANIFEST, RECIPIENTS, Machine, Tpm, age_bytes
from enrolment_apps import served

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.enrolment import Enrolment
from ansible_collections.vauban.fleet.plugins.module_utils._install.wire import Wire
from vauban_enrolment import ageing, backing_up, transfers
from vauban_enrolment.transfers import PIECE

Another = Callable[..., Machine]
CONTENT = age_bytes(b"x" * (2 * PIECE + 1000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DONE: dict[str, Any] = {"manifest_sha256": MANIFEST, "receipt": SHA256, "file_system": {}}


def order(server: Any, host: str = "one", **changes: Any) -> Any:
    body = {"reason": "before a repair", "seconds": 3600, "recipients": RECIPIENTS, **changes}
    return server.admin.put(f"/admin/v1/hosts/{host}/backup", json=body)


def line(server: Any, host: str = "one") -> dict[str, Any]:
    return dict(server.admin.get(f"/admin/v1/machines/{host}").json())


def kept(server: Any) -> list[dict[str, Any]]:
    return list(server.admin.get("/admin/v1/backups/one").json())


def files(server: Any) -> list[str]:
    return sorted(path.name for path in server.backups.iterdir()) if server.backups.exists() else []


def pieces() -> list[tuple[int, bytes]]:
    return [(start, CONTENT[start : start + PIECE]) for start in range(0, len(CONTENT), PIECE)]


def send(machine: Machine) -> None:
    for offset, piece in pieces():
        assert machine.send(offset, piece).status_code == 204


@pytest.fixture
def ordered(server: Any, machine: Machine) -> Machine:
    """A machine that is a host, and starts the installer again since somebody has ordered it."""
    machine.advance("installed")
    server.clock.wait(60)
    assert order(server).json() == {"changed": True}
    assert machine.apply().json()["state"] == "challenged"
    return machine


@pytest.fixture
def sending(ordered: Machine) -> Machine:
    assert ordered.prove().json() == {"state": "backing_up"}
    return ordered


def test_it_is_backed_up_once_and_stays_the_host(server: Any, sending: Machine) -> None:
    before = line(server)["installed"]
    told = sending.own("GET", "/backup").json()
    assert told == {
        "host": "one",
        "disk": {"serial": "DISK1"},
        "recipients": RECIPIENTS,
        "largest": 1 << 36,
        "piece": PIECE,
    }
    send(sending)
    assert kept(server) == [], "it may be cut off"
    receipt = sending.sent(CONTENT).json()["receipt"]
    assert (receipt["id"], receipt["size"], receipt["sha256"]) == (sending.id, len(CONTENT), SHA256)
    assert sending.sent(CONTENT).json()["receipt"] == receipt, "the answer may have been lost"
    (found,) = kept(server)
    with open(found["path"], "rb") as stream:
        assert stream.read() == CONTENT
    assert os.stat(found["path"]).st_mode & 0o077 == 0
    assert (found["size"], found["sha256"], found["recipients"]) == (len(CONTENT), SHA256, RECIPIENTS)
    assert files(server) == [f"one_20261122T120100Z_{sending.id[:8]}.tar.zst.age"]
    for _twice in range(2):
        assert sending.report("backed_up", **DONE).status_code == 204
    told = line(server)
    assert (told["backup"], told["enrolment"]["state"], told["installed"]) == (None, "backed_up", before)
    assert [each["action"] for each in server.log(host="one")][-6:] == [
        "backup ordered",
        "challenged",
        "backing_up",
        "backup handed out",
        "backup kept",
        "backed_up",
    ]
    assert sending.apply().status_code == 403, "it counts once"


def test_restart_of_the_service_between_pieces_is_nothing(server: Any, sending: Machine) -> None:
    for offset, piece in pieces():
        assert sending.send(offset, piece).status_code == 204
        server.start()
    assert sending.sent(CONTENT).status_code == 200


def test_piece_whose_answer_was_lost_comes_again(server: Any, sending: Machine) -> None:
    for offset, piece in pieces():
        for _twice in range(2):
            assert sending.send(offset, piece).status_code == 204
    assert sending.sent(CONTENT).status_code == 200


def test_piece_that_was_cut_off_by_a_crash_is_completed(server: Any, sending: Machine) -> None:
    send(sending)
    part = server.backups / f"{sending.id}.part"
    os.truncate(part, len(CONTENT) - 500)
    offset, piece = pieces()[-1]
    assert sending.send(offset, piece).status_code == 204
    assert sending.sent(CONTENT).status_code == 200


@pytest.mark.parametrize(
    ("offset", "piece", "said"),
    [
        (PIECE + 1, b"x", "a piece came for byte"),
        (2 * PIECE, b"x", "a piece came for byte"),
        (1 << 61, b"x", "more than the"),
        (0, CONTENT[:1000], "a piece came for byte 0"),
        (0, bytes(reversed(CONTENT[:PIECE])), "has no header of age"),
        (0, age_bytes(b"x" * PIECE)[:PIECE], "another piece came for byte 0 than before"),
        (PIECE - 1, b"xy", "another piece came"),
    ],
)
def test_other_piece_ends_the_transfer(server: Any, sending: Machine, offset: int, piece: bytes, said: str) -> None:
    assert sending.send(*pieces()[0]).status_code == 204
    assert sending.send(offset, piece).status_code == 409
    assert sending.state() == "failed"
    assert said in server.last()["detail"]["reason"]
    assert sending.send(*pieces()[1]).status_code in (409, 413), "nothing more is taken"
    assert sending.sent(CONTENT).status_code == 409
    assert line(server)["backup"] is not None, "the order is retried"
    ageing.sweep(server.service)
    assert (files(server), kept(server)) == ([], [])


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"root:x:0:0:root:/root:/bin/bash\n" * 100, "has no header of age"),
        (age_bytes(b"x" * 1000, recipients=1), "encrypted to 1 recipients, and not to 2"),
        (b"age-encryption.org/v1\n-> scrypt abc 18\nabc\n--- " + b"A" * 43 + b"\n", "with a passphrase"),
    ],
)
def test_what_is_not_encrypted_as_ordered_reaches_no_disk(
    server: Any, sending: Machine, first: bytes, said: str
) -> None:
    assert sending.send(0, first).status_code == 409
    assert said in server.last()["detail"]["reason"]
    assert files(server) == []


def test_what_came_has_to_be_what_was_sent(server: Any, sending: Machine) -> None:
    send(sending)
    with (server.backups / f"{sending.id}.part").open("r+b") as stream:  # a disk that does not keep what it was given
        stream.seek(PIECE)
        stream.write(b"\0")
    assert sending.sent(CONTENT).status_code == 409
    assert "bytes came with SHA-256" in server.last()["detail"]["reason"]
    assert kept(server) == []


def test_end_without_a_beginning(server: Any, sending: Machine) -> None:
    assert sending.sent(CONTENT).status_code == 409
    assert "nothing came" in server.last()["detail"]["reason"]


def test_it_may_not_be_larger_than_the_inventory_says(server: Any, sending: Machine) -> None:
    server.start(limits={"backup_bytes": PIECE + 100})
    assert sending.own("GET", "/backup").json()["largest"] == PIECE + 100
    assert sending.send(*pieces()[0]).status_code == 204
    assert sending.send(*pieces()[1]).status_code == 409
    assert f"more than the {PIECE + 100} bytes" in server.last()["detail"]["reason"]


def test_room_is_left_for_others(server: Any, sending: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    system = namedtuple("system", "f_bavail f_frsize")
    server.start(limits={"backup_reserve_bytes": 4096})
    monkeypatch.setattr(transfers.os, "fstatvfs", lambda _file: system((2 * PIECE) // 4096, 4096))
    assert sending.send(*pieces()[0]).status_code == 204
    monkeypatch.setattr(transfers.os, "fstatvfs", lambda _file: system(PIECE // 4096, 4096))
    assert sending.send(*pieces()[0]).status_code == 204, "it is there"
    assert sending.send(*pieces()[1]).status_code == 409
    assert "there is no room" in server.last()["detail"]["reason"]


def test_disk_that_cannot_be_written_is_said(server: Any, sending: Machine) -> None:
    server.backups.write_text("no directory")
    assert sending.send(*pieces()[0]).status_code == 409
    assert "its file cannot be written: File exists" in server.last()["detail"]["reason"]


def test_two_at_once_wait_for_each_other(server: Any, sending: Machine) -> None:
    assert sending.send(*pieces()[0]).status_code == 204
    with (server.backups / f"{sending.id}.part").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        busy = sending.send(*pieces()[1])
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
    assert sending.send(*pieces()[1]).status_code == 204


def test_reading_again_takes_one_thread(sending: Machine) -> None:
    send(sending)
    with backing_up._READING:
        assert sending.sent(CONTENT).status_code == 503
    assert sending.sent(CONTENT).status_code == 200


def test_power_cut_between_name_and_database(server: Any, sending: Machine) -> None:
    send(sending)
    name = f"one_20261122T120100Z_{sending.id[:8]}.tar.zst.age"
    (server.backups / f"{sending.id}.part").rename(server.backups / name)
    assert sending.sent(CONTENT).status_code == 200
    assert [each["path"] for each in kept(server)] == [str(server.backups / name)]


def test_nobody_else_can_send(server: Any, sending: Machine, another: Another) -> None:
    stranger = another(tpm=Tpm("two"), serial="S9", mac="52:54:00:00:00:99")
    assert stranger.apply().json()["state"] == "quarantined"
    right, own = sending.id, stranger.id
    for token, where, code in (
        ("", right, 401),
        ("x" * 43, right, 401),
        (stranger.token, right, 401),
        (stranger.token, own, 409),
        (sending.token, own, 401),
    ):
        stranger.id, stranger.token = where, token
        assert stranger.send(0, CONTENT[:1000]).status_code == code
        # What is larger than others may send is not even read.
        assert stranger.send(0, CONTENT[:PIECE]).status_code == 413
    assert files(server) == []
    assert sending.send(*pieces()[0]).status_code == 204


def test_it_is_not_held_up_by_the_rate_of_others(server: Any, sending: Machine) -> None:
    server.start(limits={"requests_per_minute": 3})
    offset, piece = pieces()[0]
    for _often in range(10):
        assert sending.send(offset, piece).status_code == 204
    token, sending.token = sending.token, "wrong"
    assert [sending.send(offset, b"x").status_code for _often in range(5)] == [401, 401, 401, 429, 429]
    sending.token = token
    assert sending.send(offset, piece).status_code == 204


@pytest.mark.parametrize("path", ["..", "../x", "%2e%2e/0", "{id}/-1", "{id}/0x", "{id}/1e3", "{id}/../../x", "{id}/"])
def test_paths_lead_nowhere_else(server: Any, sending: Machine, path: str) -> None:
    target = f"/v1/backups/{path.format(id=sending.id)}"
    answer = sending.ask("PUT", target, content=CONTENT[:1000], headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 404, answer.text
    assert files(server) == []


def test_piece_has_a_size(sending: Machine) -> None:
    assert sending.send(0, CONTENT[: PIECE + 1]).status_code == 413
    assert sending.send(0, b"").status_code == 422


def test_nobody_without_an_order_is_let_in(server: Any, machine: Machine) -> None:
    machine.advance("installed")
    assert machine.apply().status_code == 403
    assert order(server).is_success
    withdrawn = server.admin.post("/admin/v1/hosts/one/backup/withdraw", json={"reason": "no need"})
    assert withdrawn.json() == {"changed": True}
    assert server.last()["action"] == "backup withdrawn"
    assert machine.apply().status_code == 403


def test_withdrawn_order_stops_who_has_begun(server: Any, sending: Machine) -> None:
    assert sending.send(*pieces()[0]).status_code == 204
    assert server.admin.post("/admin/v1/hosts/one/backup/withdraw", json={"reason": "no need"}).is_success
    assert sending.state() == "refused"
    assert sending.send(*pieces()[1]).status_code in (409, 413)
    ageing.sweep(server.service)
    assert files(server) == []


def test_other_recipients_stop_who_sends_for_the_first(server: Any, sending: Machine) -> None:
    assert sending.send(*pieces()[0]).status_code == 204
    assert order(server, seconds=60).json() == {"changed": False}
    assert sending.send(*pieces()[1]).status_code == 204
    assert order(server, recipients=RECIPIENTS[:1]).json() == {"changed": True}
    assert sending.state() == "refused"
    assert sending.sent(CONTENT).status_code == 409
    sending.apply()
    sending.prove()
    assert sending.own("GET", "/backup").json()["recipients"] == RECIPIENTS[:1]


def test_order_ends_by_itself_but_not_what_was_begun(server: Any, sending: Machine) -> None:
    assert sending.send(*pieces()[0]).status_code == 204
    server.clock.wait(3601)
    assert sending.own("GET", "/backup").status_code == 409
    for offset, piece in pieces()[1:]:
        assert sending.send(offset, piece).status_code == 204
    assert sending.sent(CONTENT).status_code == 200
    assert sending.report("backed_up", **DONE).status_code == 204
    assert sending.apply().status_code == 403


def test_another_tpm_never_gets_the_order(server: Any, ordered: Machine, another: Another) -> None:
    assert another(tpm=Tpm("two"), serial=ordered.serial, mac=ordered.mac).apply().status_code == 403
    liar = another()
    liar.apply()
    liar.tpm = Tpm("two")
    assert liar.prove().status_code == 403
    assert liar.own("GET", "/backup").status_code == 409
    assert liar.send(0, CONTENT[:1000]).status_code == 409
    assert line(server)["backup"] is not None


def test_it_gets_nothing_but_that(sending: Machine) -> None:
    for path in ("/installation", "/keeping", "/wipe", "/repair", "/nonce"):
        assert sending.own("GET", path).status_code == 409
    assert sending.escrow().status_code == 409
    for phase in ("written", "wiped", "repaired"):
        assert sending.report(phase, **DONE).status_code == 409


@pytest.mark.parametrize("wrong", [{"receipt": "00" * 32}, {"manifest_sha256": "00" * 32}, {"file_system": None}])
def test_it_is_done_only_with_evidence(server: Any, sending: Machine, wrong: dict[str, Any]) -> None:
    assert sending.report("backed_up", **DONE).status_code == 422, "nothing was sent"
    send(sending)
    assert sending.sent(CONTENT).is_success
    assert sending.report("backed_up", **{**DONE, **wrong}).status_code == 422
    assert server.last()["action"] == "report refused"
    assert (sending.state(), line(server)["backup"] is not None) == ("backing_up", True)


def test_failure_leaves_the_order_and_no_file(server: Any, sending: Machine) -> None:
    send(sending)
    ageing.sweep(server.service)
    assert files(server) == [f"{sending.id}.part"]
    assert sending.report("failed").is_success
    ageing.sweep(server.service)
    assert files(server) == []
    assert line(server)["backup"] is not None
    assert sending.apply().status_code == 201


def test_what_cannot_be_ordered(server: Any, machine: Machine) -> None:
    assert order(server, "nobody").status_code == 404
    assert order(server).status_code == 409, "it was never installed"
    machine.advance("installed")
    for wrong in (
        {"seconds": 0},
        {"reason": ""},
        {"recipients": []},
        {"recipients": ["ssh-ed25519 AAAA"]},
        {"recipients": [RECIPIENTS[0]] * 2},
        {"recipients": ["age1" + "q" * 58 + "\n"]},
        {"other": "key"},
    ):
        assert order(server, **wrong).status_code == 422
    assert server.admin.put("/admin/v1/hosts/one/wipe", json={"reason": "sold"}).is_success
    assert order(server).status_code == 409
    assert server.admin.get("/admin/v1/backups/nobody").status_code == 404


def test_data_are_saved_before_they_are_repaired(server: Any, machine: Machine) -> None:
    machine.advance("installed")
    repair = {"reason": "does not start", "seconds": 3600}
    assert server.admin.put("/admin/v1/hosts/one/repair", json=repair).is_success
    assert order(server).is_success
    machine.apply()
    assert machine.prove().json() == {"state": "backing_up"}
    send(machine)
    machine.sent(CONTENT)
    machine.report("backed_up", **DONE)
    machine.apply()
    assert machine.prove().json() == {"state": "repairing"}


def test_order_goes_with_the_machine_and_backups_stay(server: Any, sending: Machine) -> None:
    send(sending)
    assert sending.sent(CONTENT).is_success
    assert server.admin.post("/admin/v1/hosts/one/forget", json={"reason": "sold"}).is_success
    assert line(server)["backup"] is None
    assert sending.state() == "refused"
    ageing.sweep(server.service)
    assert len(kept(server)) == len(files(server)) == 1


def test_installer_sends_it_by_tls_and_has_a_receipt(server: Any, sending: Machine, tmp_path: Path) -> None:
    with served(server, tmp_path) as port:
        enrolment = Enrolment(Wire(f"https://localhost:{port}", tmp_path / "site.pem", patience=10), lambda _line: None)
        enrolment.id, enrolment.token = sending.id, sending.token
        assert enrolment.backup()["piece"] == PIECE
        for offset, piece in pieces():
            enrolment.send(offset, piece)
        assert enrolment.sent(len(CONTENT), SHA256)["sha256"] == SHA256
        with pytest.raises(FleetError, match="takes no more of the backup"):
            enrolment.send(0, CONTENT[:1000])
        enrolment.report("backed_up", 100, "done", DONE)
    assert sending.state() == "backed_up"
    assert len(kept(server)) == 1
