# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From when on a machine has to show its certificate, and what a token alone is good for then.

That TLS vouches for what is shown here in a header: tests/integration/test_provisioning_server.py.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from enrolment import CHAIN, PEM, Machine, first, sign


def certify(server: Any, machine: Machine) -> None:
    """Have the site sign what the machine asks for."""
    request = machine.request()
    assert machine.own("PUT", "/requests/hosts", content=request, headers=PEM).is_success
    assert server.admin.put("/admin/v1/certificates/one/hosts", content=sign(request), headers=CHAIN).is_success


@pytest.fixture
def certified(server: Any, machine: Machine) -> Machine:
    """A machine that has fetched its certificate."""
    machine.advance("installing")
    certify(server, machine)
    assert machine.fetch().status_code == 200
    return machine


def test_certificate_is_asked_for_when_it_was_fetched_and_no_earlier(server: Any, machine: Machine) -> None:
    machine.advance("installing")
    certify(server, machine)
    assert machine.report("download").status_code == 204, "it is signed, and the machine cannot have it"
    assert machine.own("GET", "/certificates/hosts").status_code == 200
    given = server.last()
    assert (given["action"], given["detail"]["name"], given["host"]) == ("certificate handed out", "hosts", "one")
    assert machine.report("download").status_code == 403


def test_fetching_is_done_again_when_the_answer_was_lost(server: Any, machine: Machine) -> None:
    machine.advance("installing")
    certify(server, machine)
    assert machine.own("GET", "/certificates/hosts").status_code == 200
    before = server.last()
    assert machine.fetch().status_code == 200
    assert server.last() == before, "it is handed out once"
    assert machine.escrow().status_code == 200


def test_machine_that_shows_its_certificate_goes_on_to_the_end(server: Any, certified: Machine) -> None:
    assert certified.report("partition").status_code == 204
    assert certified.escrow().status_code == 200
    assert certified.written().status_code == 204
    assert certified.written().status_code == 204
    server.start()  # it is the database that remembers
    certified.certificate = ""  # the installed machine has its token and its TPM
    assert certified.attest().json() == {"state": "installed"}
    assert certified.own("GET", "/nonce").status_code == 409
    assert certified.state() == "installed"


TOKEN_ALONE: dict[str, Callable[[Machine], Any]] = {
    "status": lambda m: m.own("GET", ""),
    "installation": lambda m: m.own("GET", "/installation"),
    "requests": lambda m: m.own("PUT", "/requests/hosts", content=m.request(), headers=PEM),
    "reports": lambda m: m.report("partition"),
    "failed": lambda m: m.report("failed"),
    "escrow": lambda m: m.escrow(),
    "written": lambda m: m.report("written"),
    "nonce": lambda m: m.own("GET", "/nonce"),
    "attestation": lambda m: m.own("POST", "/attestation", json={"nonce": "AA=="}),
}


@pytest.mark.parametrize("name", TOKEN_ALONE)
def test_token_alone_is_refused_and_changes_nothing(server: Any, certified: Machine, name: str) -> None:
    own, certified.certificate = certified.certificate, ""
    answer = TOKEN_ALONE[name](certified)
    assert (answer.status_code, answer.json()) == (403, {"type": "about:blank", "title": "refused", "status": 403})
    line = server.last()
    assert (line["action"], line["host"], line["detail"]) == ("wrong certificate", "one", {"reason": "none was shown"})
    certified.certificate = own
    assert certified.state() == "installing"


def test_token_alone_fails_nobody_who_waits_for_its_first_boot(server: Any, certified: Machine) -> None:
    assert certified.escrow().is_success
    assert certified.written().is_success
    own, certified.certificate = certified.certificate, ""
    assert certified.report("failed").status_code == 403
    assert certified.report("written").status_code == 403
    assert certified.state() == "written"
    certified.certificate = own
    assert certified.report("failed").status_code == 204


def test_another_certificate_is_refused(server: Any, certified: Machine) -> None:
    """Though it has the same names, and is of the same authority."""
    certified.certificate = first(sign(certified.request()))
    assert certified.report("partition").status_code == 403
    line = server.last()
    assert line["action"] == "wrong certificate"
    assert line["detail"]["reason"].startswith("it is none that was handed out: ")


def test_certificate_counts_when_it_was_handed_out_and_stays_good(server: Any, machine: Machine) -> None:
    """The site may answer a request twice."""
    machine.advance("installing")
    request = machine.request()
    assert machine.own("PUT", "/requests/hosts", content=request, headers=PEM).is_success
    for _time in range(2):
        chain = sign(request)
        assert server.admin.put("/admin/v1/certificates/one/hosts", content=chain, headers=CHAIN).is_success
        machine.own("GET", "/certificates/hosts")
        machine.certificate = machine.certificate or first(chain)
        assert machine.report("partition").status_code == 204
    chain = sign(request)
    assert server.admin.put("/admin/v1/certificates/one/hosts", content=chain, headers=CHAIN).is_success
    machine.certificate = first(chain)
    assert machine.report("partition").status_code == 403
    assert machine.fetch().is_success
    assert machine.report("partition").status_code == 204


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nothing",
        "%",
        "%ff%fe",
        quote("-----BEGIN CERTIFICATE-----\n\u00e9\n-----END CERTIFICATE-----\n"),
        quote("-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"),
        quote("-----BEGIN CERTIFICATE-----\n" + base64.b64encode(bytes(9)).decode() + "\n-----END CERTIFICATE-----\n"),
        "A" * 30_000,
    ],
)
def test_what_is_no_certificate_is_refused(server: Any, certified: Machine, header: str) -> None:
    assert certified.own("GET", "", headers={"X-Client-Certificate": header}).status_code == 403


def test_certificate_of_an_earlier_try_is_worth_nothing_to_the_next(server: Any, certified: Machine) -> None:
    again = Machine(server)
    again.advance("installing")
    assert again.report("partition").status_code == 204, "it has none yet"
    certify(server, again)
    assert again.fetch().status_code == 200
    again.certificate = certified.certificate
    assert again.report("partition").status_code == 403


def test_host_without_certificates_needs_none(server: Any, machine: Machine) -> None:
    assert server.put_host(certificates=[]).is_success
    machine.advance("installed")
