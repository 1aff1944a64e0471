# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The side of the admins."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from enrolment import CHAIN, INSTALLED, INSTALLER, MANIFEST, PEM, Machine, Tpm, sign

RELEASE = {"manifest_sha256": MANIFEST, "pcrs": {"installer": INSTALLER, "installed": INSTALLED}}


def test_the_same_again_changes_nothing(server: Any) -> None:
    before = len(server.log())
    assert server.put_host().json() == {"changed": False}
    assert server.admin.put("/admin/v1/releases/server/1.0", json=RELEASE).json() == {"changed": False}
    assert len(server.log()) == before


@pytest.mark.parametrize("pcrs", [{}, {"24": "11" * 32}, {"04": "11" * 32}, {"4": "11"}, {"x": "11" * 32}])
@pytest.mark.parametrize("when", ["installer", "installed"])
def test_a_release_has_to_say_what_it_measures(server: Any, when: str, pcrs: dict[str, str]) -> None:
    body = {**RELEASE, "pcrs": {**RELEASE["pcrs"], when: pcrs}}  # type: ignore[dict-item]
    assert server.admin.put("/admin/v1/releases/server/2.0", json=body).status_code == 422


def test_a_release_that_is_gone_installs_nothing_more(server: Any, machine: Machine) -> None:
    proof = machine.proof(machine.apply().json()["challenge"])
    server.admin.put("/admin/v1/releases/server/1.0", json={**RELEASE, "manifest_sha256": "00" * 32})
    assert machine.own("POST", "/proof", json=proof).status_code == 403
    assert "another manifest" in server.last()["detail"]["reason"]


@pytest.mark.parametrize("state", ["challenged", "proven", "installing", "escrowed", "written"])
def test_an_admin_may_refuse_at_any_time(server: Any, machine: Machine, state: str) -> None:
    machine.advance(state)
    answer = server.admin.post(f"/admin/v1/enrolments/{machine.id}/refuse", json={"reason": "stolen"})
    assert answer.json() == {"state": "refused"}
    assert server.last()["detail"]["reason"] == "stolen"
    assert machine.state() == "refused"
    again = server.admin.post(f"/admin/v1/enrolments/{machine.id}/refuse", json={"reason": "stolen"})
    assert again.status_code == 409


@pytest.mark.parametrize("reason", ["", None])
def test_a_refusal_has_a_reason(server: Any, machine: Machine, reason: Any) -> None:
    machine.apply()
    answer = server.admin.post(f"/admin/v1/enrolments/{machine.id}/refuse", json={"reason": reason})
    assert answer.status_code == 422


def test_a_certificate_is_of_the_requests_key_and_names(server: Any, machine: Machine) -> None:
    machine.advance("proven")
    request = machine.request()
    machine.own("PUT", "/requests/hosts", content=request, headers=PEM)

    def put(chain: str | bytes, name: str = "hosts") -> int:
        answer = server.admin.put(f"/admin/v1/certificates/one/{name}", content=chain, headers=CHAIN)
        return int(answer.status_code)

    assert put(sign(request, key=ec.generate_private_key(ec.SECP256R1()).public_key())) == 409
    assert put(sign(request, names=["two.example"])) == 409
    assert put("nonsense") == 422
    assert put(b"\xff") == 422
    assert put(sign(request), "other") == 404
    assert machine.own("GET", "/certificates/hosts").status_code == 202
    chain = sign(request)
    assert (put(chain), put(chain)) == (204, 204)
    assert [each["action"] for each in server.log()].count("certificate put") == 1
    assert server.admin.get("/admin/v1/requests").json() == []


def test_what_is_not_there_is_not_found(server: Any) -> None:
    paths = ["machines/nobody", "machines/..%2fx", "machines/UPPER", "escrows/nobody", "enrolments"]
    assert [server.admin.get(f"/admin/v1/{path}").status_code for path in paths] == [404] * len(paths)
    for verb, body in (("approve", {"host": "one"}), ("refuse", {"reason": "x"})):
        assert server.admin.post(f"/admin/v1/enrolments/{'0' * 32}/{verb}", json=body).status_code == 404
    assert server.admin.post("/v1/enrolments", json={}).status_code == 404


def test_figures_for_prometheus(server: Any, machine: Machine) -> None:
    machine.advance("installed")
    Machine(server, tpm=Tpm("stranger"), serial="S9", mac="52:54:00:00:00:09").apply()
    answer = server.admin.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'enrolment_enrolments{state="installed"} 1.0',
        'enrolment_enrolments{state="quarantined"} 1.0',
        'enrolment_enrolments{state="failed"} 0.0',
        "enrolment_hosts 1.0",
        "enrolment_hosts_installed 1.0",
        "enrolment_escrows 1.0",
        "enrolment_audit_intact 1.0",
    ):
        assert f"\n{line}\n" in answer.text


def test_hardware_profile_of_a_machine_is_shown(server: Any, machine: Machine) -> None:
    machine.advance("installing")
    Machine(
        server, tpm=Tpm("stranger"), serial="S9", mac="52:54:00:00:00:09", hardware_profile="generic_server"
    ).apply()
    fleet = server.admin.get("/admin/v1/machines").json()
    assert fleet["hosts"][0]["enrolment"]["hardware_profile"] == "example_r1"
    assert [each["hardware_profile"] for each in fleet["others"]] == ["generic_server"]
    assert "<td>generic_server</td>" in server.admin.get("/").text


def test_installer_that_knows_no_hardware_profiles_is_taken(server: Any, machine: Machine) -> None:
    """One of an earlier release, and a machine that is none."""
    application = machine.application()
    del application["hardware"]["hardware_profile"]
    assert machine.ask("POST", "/v1/enrolments", json=application).status_code == 201
    machine.hardware_profile = None
    machine.advance("proven")
    shown = server.admin.get("/admin/v1/machines/one").json()["enrolments"]
    assert [each["hardware_profile"] for each in shown] == [None, None]


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_shows_the_fleet_and_runs_nothing(server: Any, machine: Machine) -> None:
    machine.advance("installing")
    bad = "<script>alert(1)</script><img src=x onerror=y>\"'"
    Machine(server, tpm=Tpm("stranger"), serial=bad, mac="52:54:00:00:00:09").apply()
    answer = server.admin.get("/")
    assert "installing" in answer.text
    assert "doing partition 50" not in answer.text
    assert re.search(r"partition\s+50 %", answer.text)
    page = _Page(answer.text)
    assert not {"script", "img", "form", "iframe", "a"} & {tag for tag, __ in page.tags}
    assert not [name for __, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    (style,) = [attributes["href"] for tag, attributes in page.tags if tag == "link"]
    assert server.admin.get(style).headers["content-type"].startswith("text/css")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'")
    assert "unsafe" not in policy


def test_the_page_of_an_empty_fleet(server: Any, machine: Machine) -> None:
    assert "awaited" in server.admin.get("/").text
