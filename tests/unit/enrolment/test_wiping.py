# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine is told to erase its disk if it proves that it is the one, and nobody else ever is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from enrolment import WIPED_DISK, Machine, Tpm, age_file

Another = Callable[..., Machine]
NOBODY = {"admit": "approval", "ek_sha256": None, "serial": None, "macs": []}


def order(server: Any, host: str = "one") -> Any:
    return server.admin.put(f"/admin/v1/hosts/{host}/wipe", json={"reason": "sold"})


def retire(server: Any, host: str = "one") -> None:
    """As playbook retire does it: the host has no machine any more, and only the order knows which it was."""
    assert order(server, host).json() == {"changed": True}
    assert server.admin.post(f"/admin/v1/hosts/{host}/forget", json={"reason": "sold"}).is_success
    assert server.put_host(host, **NOBODY).is_success


def line(server: Any, host: str = "one") -> dict[str, Any]:
    return dict(server.admin.get(f"/admin/v1/machines/{host}").json())


@pytest.fixture
def retired(server: Any, machine: Machine) -> Machine:
    """A machine that was a host, and starts the installer again."""
    machine.advance("installed")
    server.clock.wait(60)
    retire(server)
    assert machine.apply().json()["state"] == "challenged"
    return machine


def test_it_is_wiped_once_and_a_stranger_from_then_on(server: Any, retired: Machine) -> None:
    assert retired.prove().json() == {"state": "wiping"}
    wanted = retired.own("GET", "/wipe").json()
    assert wanted == {"host": "one", "disk": {"serial": "DISK1"}, "begun": None}
    assert retired.begin_wipe().status_code == 204
    assert line(server)["wipe"]["begun"]
    assert retired.wiped().status_code == 204
    assert retired.wiped().status_code == 204, "the answer may have been lost"
    (record,) = server.log(host="one")[-1:]
    assert (record["action"], record["detail"]["reason"]) == ("wiped", "doing wiped")
    assert record["detail"]["evidence"]["volumes"] == ["fleet/state"]
    assert (line(server)["wipe"], line(server)["enrolment"]["state"]) == (None, "wiped")
    assert line(server)["escrows"], "what is in escrow stays there"
    assert retired.apply().json()["state"] == "quarantined"
    assert order(server).json() == {"changed": False}, "there is nothing left to erase"


def test_another_tpm_never_gets_the_order(server: Any, retired: Machine, another: Another) -> None:
    stranger = another(tpm=Tpm("two"), serial=retired.serial, mac=retired.mac)
    assert stranger.apply().json()["state"] == "quarantined"
    assert stranger.own("GET", "/wipe").status_code == 409
    liar = another()
    liar.apply()
    liar.tpm = Tpm("two")
    assert liar.prove().status_code == 403
    assert liar.own("GET", "/wipe").status_code == 409
    assert line(server)["wipe"] is not None


def test_who_has_proven_nothing_gets_nothing(server: Any, retired: Machine) -> None:
    assert retired.own("GET", "/wipe").status_code == 409
    assert retired.wiped().status_code == 409
    assert retired.prove({**retired.predicted["installer"], "11": "00" * 32}).status_code == 403
    assert retired.own("GET", "/wipe").status_code == 409
    assert line(server)["wipe"] is not None


def test_without_the_order_an_installed_machine_is_refused(server: Any, machine: Machine) -> None:
    machine.advance("installed")
    assert machine.apply().status_code == 403
    assert server.last()["detail"]["reason"] == "one is installed, and reinstall is not set"


def test_it_gets_nothing_that_is_a_hosts(retired: Machine) -> None:
    retired.prove()
    assert retired.own("GET", "/installation").status_code == 409
    assert retired.escrow().status_code == 409
    assert retired.own("GET", "/nonce").status_code == 409
    assert retired.report("written").status_code == 409


def test_power_cut_after_it_has_begun_leaves_the_order_and_the_disk(retired: Machine) -> None:
    retired.prove()
    assert retired.begin_wipe().is_success
    retired.apply()
    assert retired.prove().json() == {"state": "wiping"}
    assert retired.own("GET", "/wipe").json()["begun"] == WIPED_DISK
    assert retired.begin_wipe(serial="another").status_code == 422
    assert retired.begin_wipe().is_success
    assert retired.wiped().is_success


def test_failure_leaves_the_order(server: Any, retired: Machine) -> None:
    retired.prove()
    assert retired.report("failed").is_success
    assert line(server)["wipe"] is not None
    assert retired.apply().json()["state"] == "challenged"


@pytest.mark.parametrize("changes", [{"disk": {**WIPED_DISK, "size": 1}}, {"tpm": None}, {"volumes": "all"}])
def test_it_is_done_only_with_evidence(server: Any, retired: Machine, changes: dict[str, Any]) -> None:
    retired.prove()
    assert retired.wiped().status_code == 422, "it has not begun"
    retired.begin_wipe()
    assert retired.wiped(**changes).status_code == 422
    assert server.last()["action"] == "report refused"
    assert (retired.state(), line(server)["wipe"] is not None) == ("wiping", True)


def test_order_that_is_withdrawn_is_none(server: Any, retired: Machine) -> None:
    retired.prove()
    path = "/admin/v1/hosts/one/wipe/withdraw"
    assert server.admin.post(path, json={"reason": "kept"}).json() == {"changed": True}
    assert server.admin.post(path, json={"reason": "kept"}).json() == {"changed": False}
    assert retired.own("GET", "/wipe").status_code == 409
    assert retired.apply().json()["state"] == "quarantined"


def test_order_ends_what_its_machine_does_as_a_host(server: Any, machine: Machine) -> None:
    machine.advance("escrowed")
    retire(server)
    assert machine.state() == "refused"
    assert machine.apply().json()["state"] == "challenged"
    assert machine.prove().json() == {"state": "wiping"}


def test_order_reaches_a_machine_that_waits(server: Any, machine: Machine) -> None:
    """Somebody retired the host, and said only later that its disk is to be erased."""
    machine.advance("installed")
    server.admin.post("/admin/v1/hosts/one/forget", json={"reason": "sold"})
    server.put_host(**NOBODY)
    assert machine.apply().json()["state"] == "quarantined"
    assert order(server).json() == {"changed": True}
    assert machine.prove().json() == {"state": "wiping"}


def test_order_comes_before_another_host_of_the_same_machine(server: Any, retired: Machine) -> None:
    """What is on the disk is of the host before, so it goes first."""
    listed = {"ek_sha256": Tpm("one").sha256, "macs": [retired.mac], "serial": retired.serial}
    assert server.put_host("two", **listed).is_success
    retired.apply()
    assert retired.prove().json() == {"state": "wiping"}
    retired.begin_wipe()
    assert retired.wiped().is_success
    retired.advance("proven")
    assert retired.own("GET", "/installation").json()["host"] == "two"


def test_machine_to_be_wiped_cannot_be_approved(server: Any, retired: Machine) -> None:
    answer = server.admin.post(f"/admin/v1/enrolments/{retired.id}/approve", json={"host": "one"})
    assert answer.status_code == 409


def test_any_installer_that_is_known_will_do_and_no_other(server: Any, retired: Machine) -> None:
    """The server may offer another release by now."""
    server.put_host(**{**NOBODY, "version": "2.0"})
    retired.apply()
    assert retired.prove().json() == {"state": "wiping"}
    retired.release = {**retired.release, "version": "0.1"}
    assert retired.apply().status_code == 403


def test_host_without_a_known_tpm_cannot_be_ordered(server: Any) -> None:
    server.put_host("two", **NOBODY)
    answer = order(server, "two")
    assert (answer.status_code, "no TPM is known" in answer.text) == (409, True)
    assert order(server, "three").status_code == 404


def test_silence_ends_it_and_leaves_the_order(server: Any, retired: Machine) -> None:
    retired.prove()
    server.clock.wait(server.service.settings.lifetimes.installation + 1)
    retired.apply()
    states = [each["state"] for each in line(server)["enrolments"]]
    assert states[-2:] == ["failed", "challenged"]
    assert line(server)["wipe"] is not None


def test_second_try_ends_the_first(retired: Machine, another: Another) -> None:
    retired.prove()
    again = another()
    again.advance("challenged")
    assert again.prove().json() == {"state": "wiping"}
    assert retired.state() == "failed"


def test_recovery_key_of_the_time_before_is_not_changed(server: Any, retired: Machine) -> None:
    before = line(server)["escrows"]
    retired.prove()
    assert retired.escrow(retired.escrow_body(recovery_key=age_file())).status_code == 409
    assert line(server)["escrows"] == before
