# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine is told to repair its disk if it proves that it is the host, soon enough, and nobody else ever is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from enrolment import MANIFEST, Machine, Tpm, text

from vauban_enrolment import ageing

Another = Callable[..., Machine]
RECIPIENT = "age1" + "q" * 58
ANSWER = {"credential_blob": text(b"blob"), "secret": text(b"secret"), "recovery_key": "age"}
DONE: dict[str, Any] = {"manifest_sha256": MANIFEST, "header": {}, "file_system": {}, "core": {}, "boot": {}}


def order(server: Any, host: str = "one", **changes: Any) -> Any:
    body = {"reason": "does not start", "seconds": 3600, **changes}
    return server.admin.put(f"/admin/v1/hosts/{host}/repair", json=body)


def line(server: Any, host: str = "one") -> dict[str, Any]:
    return dict(server.admin.get(f"/admin/v1/machines/{host}").json())


def question(machine: Machine) -> dict[str, Any]:
    assert machine.tpm is not None
    return {"recipient": RECIPIENT, **machine.tpm.quote(text(b"00"), machine.predicted["installer"])}


@pytest.fixture
def installed(server: Any, machine: Machine) -> Machine:
    machine.advance("installed")
    server.clock.wait(60)
    return machine


@pytest.fixture
def broken(server: Any, installed: Machine) -> Machine:
    """A machine that is a host, and starts the installer again since somebody has ordered it."""
    assert order(server).json() == {"changed": True}
    assert installed.apply().json()["state"] == "challenged"
    return installed


def test_it_is_repaired_once_and_stays_the_host(server: Any, broken: Machine) -> None:
    before = line(server)["installed"]
    assert broken.prove().json() == {"state": "repairing"}
    assert broken.own("GET", "/repair").json() == {"host": "one", "disk": {"serial": "DISK1"}, "thorough": False}
    assert broken.own("PUT", "/unlock", json=question(broken)).status_code == 202
    (asked,) = server.admin.get("/admin/v1/unlocks").json()
    assert (asked["host"], asked["recipient"]) == ("one", RECIPIENT)
    assert server.admin.put(f"/admin/v1/unlocks/{broken.id}", json=ANSWER).status_code == 204
    assert broken.own("GET", "/unlock").json() == ANSWER
    assert broken.report("repaired", **DONE).status_code == 204
    assert broken.report("repaired", **DONE).status_code == 204, "the answer may have been lost"
    found = line(server)
    assert (found["repair"], found["enrolment"]["state"], found["installed"]) == (None, "repaired", before)
    assert [each["action"] for each in server.log(host="one")][-7:] == [
        "repair ordered",
        "challenged",
        "repairing",
        "repair handed out",
        "unlock asked for",
        "unlock answered",
        "repaired",
    ]
    assert server.last()["detail"]["evidence"] == DONE
    assert broken.apply().status_code == 403, "it counts once"


def test_nobody_without_an_order_is_let_in(server: Any, installed: Machine) -> None:
    assert installed.apply().status_code == 403
    assert order(server).is_success
    withdrawn = server.admin.post("/admin/v1/hosts/one/repair/withdraw", json={"reason": "it starts"})
    assert withdrawn.json() == {"changed": True}
    assert server.last()["action"] == "repair withdrawn"
    assert installed.apply().status_code == 403


def test_order_ends_by_itself(server: Any, broken: Machine) -> None:
    broken.prove()
    server.clock.wait(3601)
    assert broken.own("GET", "/repair").status_code == 409
    assert broken.own("PUT", "/unlock", json=question(broken)).status_code == 409
    assert line(server)["repair"] is None
    assert broken.apply().status_code == 403
    assert order(server).json() == {"changed": True}
    assert broken.apply().status_code == 201


def test_order_that_ends_before_the_proof_is_none(server: Any, installed: Machine) -> None:
    assert order(server, seconds=60).is_success
    assert installed.apply().json()["state"] == "challenged"
    server.clock.wait(61)
    assert installed.prove().status_code == 403


def test_another_tpm_never_gets_the_order(server: Any, broken: Machine, another: Another) -> None:
    stranger = another(tpm=Tpm("two"), serial=broken.serial, mac=broken.mac)
    assert stranger.apply().status_code == 403
    liar = another()
    liar.apply()
    liar.tpm = Tpm("two")
    assert liar.prove().status_code == 403
    assert liar.own("GET", "/repair").status_code == 409
    assert line(server)["repair"] is not None


def test_who_has_proven_nothing_or_runs_something_else_gets_nothing(server: Any, broken: Machine) -> None:
    assert broken.own("GET", "/repair").status_code == 409
    assert broken.own("PUT", "/unlock", json=question(broken)).status_code == 409
    assert broken.report("repaired", **DONE).status_code == 409
    assert broken.prove({**broken.predicted["installer"], "11": "00" * 32}).status_code == 403
    assert broken.own("GET", "/repair").status_code == 409
    assert line(server)["repair"] is not None


def test_it_gets_nothing_but_that(broken: Machine) -> None:
    broken.prove()
    for method, path in (("GET", "/installation"), ("GET", "/keeping"), ("GET", "/wipe"), ("GET", "/nonce")):
        assert broken.own(method, path).status_code == 409
    assert broken.escrow().status_code == 409
    assert broken.report("written").status_code == 409
    assert broken.report("wiped").status_code == 409


def test_failure_and_silence_leave_the_order(server: Any, broken: Machine) -> None:
    broken.prove()
    assert broken.report("failed").is_success
    assert line(server)["repair"] is not None
    order(server, seconds=7 * 24 * 3600)
    broken.apply()
    broken.prove()
    server.clock.wait(14_401)
    ageing.sweep(server.service)
    assert line(server)["enrolment"]["state"] == "failed"
    assert line(server)["repair"] is not None


def test_second_try_ends_the_first(broken: Machine, another: Another) -> None:
    broken.prove()
    again = another()
    again.apply()
    assert again.prove().json() == {"state": "repairing"}
    assert broken.state() == "failed"


@pytest.mark.parametrize("missing", DONE)
def test_it_is_done_only_with_evidence(server: Any, broken: Machine, missing: str) -> None:
    broken.prove()
    assert broken.report("repaired", **{key: each for key, each in DONE.items() if key != missing}).status_code == 422
    assert server.last()["action"] == "report refused"
    assert (broken.state(), line(server)["repair"] is not None) == ("repairing", True)


def test_what_cannot_be_repaired(server: Any, machine: Machine) -> None:
    assert order(server, "nobody").status_code == 404
    assert order(server).status_code == 409, "it was never installed"
    machine.advance("installed")
    for wrong in ({"seconds": 0}, {"seconds": 8 * 24 * 3600}, {"reason": ""}, {"other": "key"}):
        assert order(server, **wrong).status_code == 422
    assert server.admin.put("/admin/v1/hosts/one/wipe", json={"reason": "sold"}).is_success
    assert order(server).status_code == 409


def test_order_goes_with_the_machine(server: Any, broken: Machine) -> None:
    broken.prove()
    assert server.admin.post("/admin/v1/hosts/one/forget", json={"reason": "sold"}).is_success
    assert line(server)["repair"] is None
    assert broken.state() == "refused"


def test_wiping_comes_first(server: Any, installed: Machine) -> None:
    assert order(server).is_success
    assert server.admin.put("/admin/v1/hosts/one/wipe", json={"reason": "sold"}).is_success
    installed.apply()
    assert installed.prove().json() == {"state": "wiping"}
