# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine's way through the service, and every wrong turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from enrolment import CHAIN, INSTALLER, PEM, Machine, Tpm, sign, text

from vauban_enrolment.verifier import Unable

WAY = ["challenged", "proven", "installing", "escrowed", "written", "installed"]


def test_a_machine_goes_all_the_way(server: Any, machine: Machine) -> None:
    machine.advance("proven")
    installation = machine.own("GET", "/installation").json()
    assert installation["host"] == "one"
    assert installation["class"] == "tpm"
    assert installation["disk"] == {"serial": "DISK1"}
    assert machine.report("partition").status_code == 204
    request = machine.request()
    assert machine.own("PUT", "/requests/hosts", content=request, headers=PEM).status_code == 202
    assert machine.own("GET", "/certificates/hosts").status_code == 202
    (waiting,) = server.admin.get("/admin/v1/requests").json()
    assert (waiting["host"], waiting["name"], waiting["request"]) == ("one", "hosts", request)
    chain = sign(request)
    assert server.admin.put("/admin/v1/certificates/one/hosts", content=chain, headers=CHAIN).status_code == 204
    answer = machine.fetch()
    assert (answer.status_code, answer.text) == (200, chain)
    assert machine.escrow().status_code == 200
    assert machine.written().status_code == 204
    assert machine.attest().json() == {"state": "installed"}
    line = server.admin.get("/admin/v1/machines/one").json()
    assert line["installed"]
    assert line["enrolment"]["state"] == "installed"
    states = [each["action"] for each in server.log(host="one") if each["enrolment"]]
    assert [state for state in states if state in WAY] == WAY


@pytest.mark.parametrize("name", [None, "generic_server"])
def test_a_machine_is_told_the_hardware_profile_of_the_site(server: Any, machine: Machine, name: str | None) -> None:
    assert server.put_host(hardware_profile=name).is_success
    machine.advance("proven")
    assert machine.own("GET", "/installation").json()["hardware_profile"] == name


def test_the_service_restarts_between_every_two_steps(server: Any, machine: Machine) -> None:
    steps = (machine.apply, machine.prove, lambda: machine.report("x"), machine.escrow, machine.written, machine.attest)
    for step, state in zip(steps, WAY, strict=True):
        assert step().is_success
        server.start()
        assert machine.state() == state
    server.log()


# What each state allows; all else is refused with 409 and leaves the state alone.
REQUESTS: dict[str, Callable[[Machine], Any]] = {
    "proof": lambda m: m.own("POST", "/proof", json={"credential": "AA==", **Tpm("one").quote("AA==", INSTALLER)}),
    "installation": lambda m: m.own("GET", "/installation"),
    "escrow": lambda m: m.own("PUT", "/escrow", json=m.escrow_body()),
    "requests": lambda m: m.own("PUT", "/requests/hosts", content=m.request(), headers=PEM),
    "certificates": lambda m: m.own("GET", "/certificates/hosts"),
    "reports": lambda m: m.report("reading"),
    "written": lambda m: m.report("written"),
    "nonce": lambda m: m.own("GET", "/nonce"),
    "attestation": lambda m: m.own("POST", "/attestation", json={"nonce": "AA=="}),
    "keeping": lambda m: m.own("GET", "/keeping"),
    "unlock": lambda m: m.own("GET", "/unlock"),
    "wipe": lambda m: m.own("GET", "/wipe"),
    "wiped": lambda m: m.wiped(discarded="perhaps"),
}
ALLOWED = {
    "quarantined": set(),
    "challenged": {"proof"},
    "proven": {"installation", "requests", "certificates", "reports"},
    "installing": {"installation", "requests", "certificates", "reports", "escrow"},
    "escrowed": {"installation", "requests", "certificates", "reports", "written"},
    "written": {"certificates", "reports", "written", "nonce"},
    "installed": set(),
    "keeping": {"keeping", "unlock", "requests", "certificates", "reports", "escrow"},
    "wiping": {"wipe", "reports", "wiped"},
    "wiped": {"wiped"},
    "refused": set(),
    "failed": set(),
}


def bring(server: Any, machine: Machine, state: str) -> None:
    if state == "quarantined":
        machine.tpm, machine.serial, machine.mac = Tpm("stranger"), "S9", "52:54:00:00:00:09"
        assert machine.apply().json()["challenge"] is None
    elif state == "refused":
        machine.advance("proven")
        body = {"reason": "not ours"}
        assert server.admin.post(f"/admin/v1/enrolments/{machine.id}/refuse", json=body).is_success
    elif state == "keeping":
        assert server.put_host(keep=True).is_success
        machine.advance("challenged")
        assert machine.prove().json() == {"state": "keeping"}
    elif state in ("wiping", "wiped"):
        assert server.admin.put("/admin/v1/hosts/one/wipe", json={"reason": "sold"}).is_success
        machine.advance("challenged")
        assert machine.prove().json() == {"state": "wiping"}
        if state == "wiped":
            assert machine.begin_wipe().is_success
            assert machine.wiped().is_success
    elif state == "failed":
        machine.advance("installing")
        assert machine.report("failed").status_code == 204
    else:
        machine.advance(state)
    assert machine.state() == state


@pytest.mark.parametrize("state", ALLOWED)
def test_what_comes_in_the_wrong_order_is_refused_and_logged(server: Any, machine: Machine, state: str) -> None:
    bring(server, machine, state)
    for name in sorted(set(REQUESTS) - ALLOWED[state]):
        answer = REQUESTS[name](machine)
        assert answer.status_code == 409, name
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == {"type", "title", "status"}
        assert server.last()["action"] == "out of order"
        assert machine.state() == state


@pytest.mark.parametrize("state", ALLOWED)
def test_what_comes_in_order_is_not_called_wrong(server: Any, machine: Machine, state: str) -> None:
    for name in sorted(ALLOWED[state]):
        bring(server, machine, state)
        # Certificates were not requested, and the answers to challenge and report are wrong: other refusals.
        assert REQUESTS[name](machine).status_code != 409, name


def test_a_proof_counts_once(server: Any, machine: Machine) -> None:
    machine.apply()
    proof = machine.proof(machine.own("GET", "").json()["challenge"])
    assert machine.own("POST", "/proof", json=proof).status_code == 200
    assert machine.own("POST", "/proof", json=proof).status_code == 409
    assert machine.state() == "proven"
    again = Machine(server)
    again.apply()
    assert again.own("POST", "/proof", json=proof).status_code == 403
    assert again.state() == "refused"
    assert "credential is wrong" in server.last()["detail"]["reason"]


def test_a_wrong_register_ends_it(server: Any, machine: Machine) -> None:
    machine.apply()
    answer = machine.prove({**INSTALLER, "4": "ff" * 32})
    assert (answer.status_code, answer.json()) == (403, {"type": "about:blank", "title": "refused", "status": 403})
    assert server.last()["detail"]["reason"] == "quote: register 4 has another value"
    assert machine.state() == "refused"


def test_a_foreign_quote_is_refused(server: Any, machine: Machine) -> None:
    machine.apply()
    challenge = machine.own("GET", "").json()["challenge"]
    proof = {**machine.proof(challenge), **Tpm("two").quote(challenge["nonce"], INSTALLER)}
    assert machine.own("POST", "/proof", json=proof).status_code == 403
    assert "not signed" in server.last()["detail"]["reason"]


def test_a_quote_of_fewer_registers_is_refused(server: Any, machine: Machine) -> None:
    machine.apply()
    assert machine.prove({"4": INSTALLER["4"]}).status_code == 403


def test_an_ak_of_another_tpm_fails_the_challenge(server: Any, another: Callable[..., Machine]) -> None:
    machine = another(tpm=Tpm("one", ak=b"AK:two"))
    machine.apply()
    challenge = machine.own("GET", "").json()["challenge"]
    body = machine.proof(challenge)
    # The TPM of the AK is asked: it is not that of the EK.
    body["credential"] = text(Tpm("two").activate(challenge))
    assert machine.own("POST", "/proof", json=body).status_code == 403


@pytest.mark.parametrize("ak", [b"unrestricted", b"AK:crash"])
def test_a_key_that_is_no_attestation_key_is_refused(server: Any, another: Callable[..., Machine], ak: bytes) -> None:
    assert another(tpm=Tpm("one", ak=ak)).apply().status_code == 403
    assert server.last()["action"] == "refused"


def test_an_ended_challenge_is_refused(server: Any, machine: Machine) -> None:
    machine.apply()
    server.clock.wait(121)
    assert machine.prove().status_code == 403
    assert server.last()["detail"]["reason"] == "the challenge has ended"


def test_a_challenge_stays_the_same_until_it_is_answered(server: Any, machine: Machine) -> None:
    first = machine.apply().json()["challenge"]
    assert machine.own("GET", "").json()["challenge"] == first


@pytest.mark.parametrize("token", ["", "x", "\u00e9".encode().decode("latin-1"), "Bearer", "x" * 5000])
def test_a_wrong_token_is_refused(server: Any, machine: Machine, token: str) -> None:
    machine.apply()
    headers = {"Authorization": f"Bearer {token}".encode("latin-1")}
    assert machine.own("GET", "", headers=headers).status_code == 401


def test_a_token_is_good_for_its_own_enrolment_only(server: Any, machine: Machine) -> None:
    machine.apply()
    other = Machine(server)
    other.apply()
    machine.token = other.token
    answer = machine.own("GET", "")
    assert answer.status_code == 401
    assert server.last()["action"] == "wrong token"
    machine.id = "0" * 32
    unknown = machine.own("GET", "")
    assert (unknown.status_code, unknown.content) == (answer.status_code, answer.content)


def test_no_token_is_refused(server: Any, machine: Machine) -> None:
    machine.apply()
    machine.token = ""
    answer = machine.own("GET", "/installation")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_machine_learns_its_host_only_by_proof(server: Any, machine: Machine) -> None:
    assert "one" not in str({**machine.apply().json(), "id": "", "token": "", "challenge": ""})
    assert machine.own("GET", "").json()["host"] is None
    machine.prove()
    assert machine.own("GET", "").json()["host"] == "one"


def test_a_second_try_ends_the_first_once_it_is_proven(server: Any, machine: Machine) -> None:
    machine.advance("escrowed")
    again = Machine(server)
    again.apply()
    assert machine.state() == "escrowed"  # anybody can say that he has this EK
    again.prove()
    assert machine.state() == "failed"
    assert again.state() == "proven"


@pytest.mark.parametrize(
    "changes",
    [
        {"receipt": "00" * 32},
        {"manifest_sha256": "00" * 32},
        {"tokens": ["systemd-recovery"]},
        {"key_slots": ["1", "3"]},
    ],
)
def test_written_needs_the_evidence(server: Any, machine: Machine, changes: dict[str, Any]) -> None:
    machine.advance("escrowed")
    assert machine.written(**changes).status_code == 422
    assert machine.report("written").status_code == 422
    assert machine.state() == "escrowed"
    assert server.last()["action"] == "report refused"
    assert machine.written().status_code == 204
    assert machine.written().status_code == 204  # its answer may have been lost
    assert machine.state() == "written"


def test_other_registers_at_the_first_boot_fail_it(server: Any, machine: Machine) -> None:
    machine.advance("written")
    assert machine.attest(INSTALLER).status_code == 403
    assert machine.state() == "failed"
    assert server.admin.get("/admin/v1/machines/one").json()["installed"] is None


def test_a_first_boot_without_quote_fails_it(server: Any, machine: Machine) -> None:
    machine.advance("written")
    nonce = machine.own("GET", "/nonce").json()["nonce"]
    assert machine.own("POST", "/attestation", json={"nonce": nonce}).status_code == 403
    assert machine.state() == "failed"


def test_only_the_last_nonce_counts_and_once(server: Any, machine: Machine) -> None:
    machine.advance("written")
    assert machine.tpm
    first = machine.own("GET", "/nonce").json()["nonce"]
    old = {"nonce": first, **machine.tpm.quote(first, INSTALLER)}
    machine.own("GET", "/nonce")
    assert machine.own("POST", "/attestation", json=old).status_code == 409
    last = machine.own("GET", "/nonce").json()["nonce"]
    server.clock.wait(121)
    ended = {"nonce": last, **machine.tpm.quote(last, INSTALLER)}
    assert machine.own("POST", "/attestation", json=ended).status_code == 409
    assert machine.attest().status_code == 200


def test_reports_are_bounded(server: Any, machine: Machine) -> None:
    server.start(limits={"reports": 3})
    machine.advance("installing")
    assert [machine.report("x").status_code for __ in range(3)] == [204, 204, 429]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"subject": "two.example"}, "is for CN=two.example"),
        ({"dns": ["one.example", "two.example"]}, "has another subjectAltName"),
        ({"usages": ["1.3.6.1.5.5.7.3.1"]}, "has another extendedKeyUsage"),
    ],
)
def test_requests_ask_for_exactly_what_the_site_gives(
    server: Any, machine: Machine, changes: dict[str, Any], reason: str
) -> None:
    machine.advance("proven")
    answer = machine.own("PUT", "/requests/hosts", content=machine.request(**changes), headers=PEM)
    assert (answer.status_code, answer.json()["title"]) == (422, "refused")
    assert reason in server.last()["detail"]["reason"]
    assert server.admin.get("/admin/v1/requests").json() == []


def test_requests_are_for_p256(server: Any, machine: Machine) -> None:
    machine.advance("proven")
    for curve in (ec.SECP384R1(), ec.BrainpoolP256R1()):
        content = machine.request(curve=curve)
        assert machine.own("PUT", "/requests/hosts", content=content, headers=PEM).status_code == 422
    assert machine.own("PUT", "/requests/other", content=machine.request(), headers=PEM).status_code == 404
    assert machine.own("PUT", "/requests/hosts", content="-----BEGIN", headers=PEM).status_code == 422
    assert machine.own("PUT", "/requests/hosts", content=b"\xff\x00", headers=PEM).status_code == 422


def test_a_request_changes_only_until_it_is_answered(server: Any, machine: Machine) -> None:
    machine.advance("proven")
    machine.own("PUT", "/requests/hosts", content=machine.request(), headers=PEM)
    last = machine.request()
    assert machine.own("PUT", "/requests/hosts", content=last, headers=PEM).status_code == 202
    assert server.admin.put("/admin/v1/certificates/one/hosts", content=sign(last), headers=CHAIN).status_code == 204
    assert machine.own("PUT", "/requests/hosts", content=last, headers=PEM).status_code == 202
    assert machine.own("PUT", "/requests/hosts", content=machine.request(), headers=PEM).status_code == 409


def test_a_server_that_is_not_able_to_judge_refuses_nobody(
    server: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine asks again: its challenge still counts."""

    def unable(*_arguments: Any) -> None:
        raise Unable("no process left")

    with monkeypatch.context() as patch:
        patch.setattr(server.verifier, "check_ak", unable)
        answer = machine.apply()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    proof = machine.proof(machine.apply().json()["challenge"])
    with monkeypatch.context() as patch:
        patch.setattr(server.verifier, "check_quote", unable)
        assert machine.own("POST", "/proof", json=proof).status_code == 503
    assert machine.own("POST", "/proof", json=proof).status_code == 200
    assert "refused" not in {each["action"] for each in server.log()}


@pytest.mark.parametrize("state", ["quarantined", "challenged"])
def test_who_has_proven_nothing_may_only_say_that_it_cannot_go_on(server: Any, machine: Machine, state: str) -> None:
    bring(server, machine, state)
    assert machine.report("reading").status_code == 409
    assert machine.report("failed").status_code == 204
    assert machine.state() == "failed"
