# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is let in as which host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from enrolment import Machine, Tpm

Another = Callable[..., Machine]
FREE = {"ek_sha256": None, "admit": "approval"}


def approve(server: Any, machine: Machine, host: str) -> Any:
    return server.admin.post(f"/admin/v1/enrolments/{machine.id}/approve", json={"host": host})


def test_an_unknown_machine_waits_and_gets_nothing(server: Any, another: Another) -> None:
    machine = another(tpm=Tpm("stranger"), serial="S9", mac="52:54:00:00:00:09")
    answer = machine.apply()
    assert answer.json()["state"] == "quarantined"
    assert answer.json()["challenge"] is None
    for path in ("/installation", "/certificates/hosts", "/nonce"):
        assert machine.own("GET", path).status_code == 409
    (line,) = server.admin.get("/admin/v1/machines").json()["others"]
    assert (line["id"], line["state"], line["serial"]) == (machine.id, "quarantined", "S9")


def test_an_approved_machine_still_proves_itself(server: Any, another: Another) -> None:
    server.put_host("two", **FREE, serial=None, macs=[], certificates=[])
    machine = another(tpm=Tpm("stranger"), serial="S9", mac="52:54:00:00:00:09")
    machine.apply()
    assert approve(server, machine, "two").json() == {"state": "challenged"}
    assert machine.own("GET", "/installation").status_code == 409
    assert machine.prove().json() == {"state": "proven"}
    assert machine.own("GET", "/installation").json()["host"] == "two"
    # And is known from now on.
    again = another(tpm=Tpm("stranger"), serial="S9", mac="52:54:00:00:00:09")
    assert again.apply().json()["state"] == "challenged"


def test_an_approval_is_for_a_host_that_exists_and_once(server: Any, another: Another) -> None:
    server.put_host("two", **FREE, serial=None, macs=[])
    machine = another(tpm=Tpm("stranger"), serial="S9", mac="52:54:00:00:00:09")
    machine.apply()
    assert approve(server, machine, "nobody").status_code == 404
    assert approve(server, machine, "one").status_code == 409  # whose EK is listed, and another
    assert machine.state() == "quarantined"
    assert approve(server, machine, "two").status_code == 200
    assert approve(server, machine, "two").status_code == 409


@pytest.mark.parametrize("what", [{"serial": "S1", "mac": "52:54:00:00:00:09"}, {"serial": "S9"}])
def test_a_second_tpm_with_serial_or_mac_of_a_host_is_refused(server: Any, another: Another, what: Any) -> None:
    assert another(tpm=Tpm("thief"), **what).apply().status_code == 403
    record = server.last()
    assert record["action"] == "refused"
    assert record["detail"]["reason"] == "another TPM with serial number or MAC address of one"


def test_a_host_that_was_approved_is_defended_too(server: Any, another: Another) -> None:
    server.put_host("two", **FREE, serial="S2", macs=[], certificates=[])
    machine = another(tpm=Tpm("two"), serial="S2", mac="52:54:00:00:00:02")
    machine.apply()
    approve(server, machine, "two")
    machine.prove()
    assert another(tpm=Tpm("thief"), serial="S2", mac="52:54:00:00:00:09").apply().status_code == 403


def test_a_known_tpm_in_another_hosts_machine_is_refused(server: Any, another: Another) -> None:
    server.put_host("two", ek_sha256=Tpm("two").sha256, serial="S2", macs=[])
    assert another(tpm=Tpm("one"), serial="S2", mac="52:54:00:00:00:09").apply().status_code == 403
    assert "the TPM of one with serial number or MAC address of two" in str(server.last())


def test_serial_and_mac_of_two_hosts_are_refused(server: Any, another: Another) -> None:
    server.put_host("two", ek_sha256=Tpm("two").sha256, serial="S2", macs=[])
    assert another(tpm=Tpm("stranger"), serial="S2", mac="52:54:00:00:00:01").apply().status_code == 403


def test_a_serial_admits_only_with_a_certificate_and_a_proof(server: Any, another: Another) -> None:
    serial = {"ek_sha256": None, "admit": "serial", "ek_certificate": True, "serial": "S3", "macs": []}
    server.put_host("three", **serial, certificates=[])
    unknown = another(tpm=Tpm("three", certified=False), serial="S3", mac="52:54:00:00:00:09")
    assert unknown.apply().status_code == 403
    machine = another(tpm=Tpm("three"), serial="S3", mac="52:54:00:00:00:09")
    assert machine.apply().json()["state"] == "challenged"
    assert machine.prove().status_code == 200
    # The first that came is the host: a second genuine TPM is not.
    assert another(tpm=Tpm("four"), serial="S3", mac="52:54:00:00:00:09").apply().status_code == 403


def test_a_certificate_of_an_unknown_authority_is_none(server: Any, another: Another) -> None:
    server.put_host(ek_certificate=True)
    server.service.authorities = []
    assert another().apply().status_code == 403
    assert server.last()["detail"]["reason"] == "the EK has no certificate of a known manufacturer"


def test_a_host_without_tpm_has_to_be_declared_and_approved(server: Any, another: Another) -> None:
    none = {"class": "no_tpm", "admit": "approval", "ek_sha256": None}
    server.put_host("plain", **none, serial="S4", macs=[], certificates=[])
    machine = another(tpm=None, serial="S4", mac="52:54:00:00:00:09")
    assert machine.apply().json()["state"] == "quarantined"
    assert approve(server, machine, "plain").json() == {"state": "proven"}
    assert machine.own("GET", "/installation").json()["class"] == "no_tpm"
    assert machine.report("x").status_code == 204
    assert machine.escrow().status_code == 200
    assert machine.written().status_code == 204
    assert machine.attest().json() == {"state": "installed"}
    assert server.last()["detail"]["reason"] == "no TPM: nothing is proven"
    assert {each["class"] for each in server.admin.get("/admin/v1/machines").json()["hosts"]} == {"no_tpm", "tpm"}


def test_a_machine_without_tpm_is_no_host_with_one(server: Any, another: Another) -> None:
    assert another(tpm=None).apply().status_code == 403
    server.put_host("two", **FREE, serial=None, macs=[])
    machine = another(tpm=None, serial="S9", mac="52:54:00:00:00:09")
    machine.apply()
    assert approve(server, machine, "two").status_code == 409


def test_a_machine_with_tpm_is_no_host_without(server: Any, another: Another) -> None:
    server.put_host("plain", **{"class": "no_tpm"}, admit="approval", ek_sha256=None, serial="S4", macs=[])
    assert another(tpm=Tpm("x"), serial="S4", mac="52:54:00:00:00:09").apply().status_code == 403


def test_an_installed_host_stays_so_unless_it_is_said(server: Any, machine: Machine, another: Another) -> None:
    machine.advance("installed")
    assert another().apply().status_code == 403
    assert server.last()["detail"]["reason"] == "one is installed, and reinstall is not set"
    server.put_host(reinstall=True)
    again = another()
    again.advance("installed")
    # Once: it is not installed over and over because the network is first in its boot order.
    assert another().apply().status_code == 403


def test_a_replaced_board_needs_to_be_said(server: Any, machine: Machine, another: Another) -> None:
    machine.advance("installed")
    board = another(tpm=Tpm("new board"))
    assert board.apply().status_code == 403
    server.put_host(ek_sha256=Tpm("new board").sha256, reinstall=True)
    board.advance("installed")
    assert another().apply().status_code == 403  # the old one is nobody


def test_a_forgotten_machine_makes_room(server: Any, another: Another) -> None:
    server.put_host("two", **FREE, serial="S2", macs=[], certificates=[])
    first = another(tpm=Tpm("a"), serial="S2", mac="52:54:00:00:00:09")
    first.apply()
    approve(server, first, "two")
    first.prove()
    assert server.admin.post("/admin/v1/hosts/two/forget", json={"reason": "retired"}).json() == {"changed": True}
    assert server.admin.post("/admin/v1/hosts/two/forget", json={"reason": "retired"}).json() == {"changed": False}
    second = another(tpm=Tpm("b"), serial="S2", mac="52:54:00:00:00:09")
    assert second.apply().json()["state"] == "quarantined"


@pytest.mark.parametrize("change", [{"version": "0.9"}, {"product": "gateway"}, {"manifest_sha256": "00" * 32}])
def test_another_release_is_refused(server: Any, machine: Machine, change: dict[str, str]) -> None:
    machine.release = {**machine.release, **change}
    assert machine.apply().status_code == 403


def test_what_changes_between_challenge_and_proof_counts(server: Any, another: Another) -> None:
    machine = another()
    machine.apply()
    server.put_host(ek_sha256=Tpm("other").sha256)
    assert machine.prove().status_code == 403
    assert machine.state() == "refused"


@pytest.mark.parametrize(
    "changes",
    [
        {"ek_sha256": None},
        {"class": "no_tpm"},
        {"class": "no_tpm", "ek_sha256": None},
        {"admit": "serial", "ek_sha256": None},
        {"admit": "serial", "ek_sha256": None, "ek_certificate": True, "serial": None},
        {"admit": "approval"},
        {"class": "software_tpm", "admit": "serial", "ek_sha256": None, "ek_certificate": True},
        {"class": "hardware"},
        {"recipients": []},
        {"recipients": ["age1qqqqqqqqqqqqqq", "age1qqqqqqqqqqqqqq"]},
        {"recipients": ["AGE-SECRET-KEY-1"]},
        {"threshold": 0},
        {"threshold": 3},
        {"disk": {}},
        {"configuration": {"sha256": "cd" * 32, "url": "http://boot.example/one.tar"}},
        {"macs": ["52:54:00:00:00:01", "52:54:00:00:00:01"]},
        {"password": "x"},
    ],
)
def test_expectations_that_make_no_sense_are_refused(server: Any, changes: dict[str, Any]) -> None:
    assert server.put_host("two", **{"serial": None, "macs": [], **changes}).status_code == 422


@pytest.mark.parametrize(
    "same", [{"serial": "S1"}, {"macs": ["52:54:00:00:00:01"]}, {"ek_sha256": Tpm("one").sha256, "serial": None}]
)
def test_two_hosts_never_have_the_same(server: Any, same: dict[str, Any]) -> None:
    rest = {"serial": None, "macs": [], "ek_sha256": Tpm("two").sha256, "certificates": []}
    answer = server.put_host("two", **{**rest, **same})
    assert answer.status_code == 409
    assert "one has the same" in answer.json()["detail"]


def test_a_machine_that_came_before_its_host_was_known_goes_on(server: Any, another: Another) -> None:
    machine, stranger = (another(tpm=Tpm(name), serial="", mac=f"52:54:00:00:00:{name}") for name in ("08", "09"))
    for each in (machine, stranger):
        assert each.apply().json()["state"] == "quarantined"
    server.put_host("two", ek_sha256=Tpm("08").sha256, serial=None, macs=[], certificates=[])
    assert (machine.state(), stranger.state()) == ("challenged", "quarantined")
    assert machine.prove().json() == {"state": "proven"}


def test_a_machine_that_came_before_its_host_has_to_run_its_release(server: Any, another: Another) -> None:
    machine = another(tpm=Tpm("08"), serial="", mac="52:54:00:00:00:08")
    machine.release = {**machine.release, "version": "0.9"}
    assert machine.apply().json()["state"] == "quarantined"
    server.put_host("two", ek_sha256=Tpm("08").sha256, serial=None, macs=[])
    assert machine.state() == "refused"
