# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another board or TPM with the disk of a host: never told to install; given a recovery key by who cannot read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from enrolment import INSTALLER, PEM, Machine, Tpm, text

Another = Callable[..., Machine]
NEW = {"ek_sha256": Tpm("new").sha256, "keep": True}
ANSWER = {"credential_blob": text(b"blob"), "secret": text(b"secret"), "recovery_key": "encrypted twice"}


def question(machine: Machine, recipient: str = "age1" + "q" * 58) -> dict[str, Any]:
    assert machine.tpm is not None
    return {"recipient": recipient, **machine.tpm.quote(text(b"a digest"), INSTALLER)}


@pytest.fixture
def new(server: Any, machine: Machine, another: Another) -> Machine:
    """The machine with the new TPM, which has proven itself; that of before was installed."""
    machine.advance("installed")
    server.clock.wait(60)
    assert server.put_host(**NEW).is_success
    made = another(tpm=Tpm("new"))
    made.advance("challenged")
    assert made.prove().json() == {"state": "keeping"}
    return made


def test_it_becomes_the_host_and_the_one_before_is_nobody(server: Any, new: Machine, machine: Machine) -> None:
    assert new.own("GET", "/keeping").json()["host"] == "one"
    assert new.own("PUT", "/requests/hosts", content=new.request(), headers=PEM).status_code == 202
    assert new.escrow().status_code == 200
    assert new.written().status_code == 204
    assert new.attest().json() == {"state": "installed"}
    known = server.admin.get("/admin/v1/machines/one").json()
    assert (known["keep"], known["expectation"]["keep"]) == (False, False), "it counts once"
    assert len(known["escrows"]) == 2
    assert machine.apply().status_code == 403
    assert server.last()["detail"]["reason"] == "another TPM with serial number or MAC address of one"


def test_it_is_never_told_to_install(new: Machine) -> None:
    """As an installer of an earlier release would ask, and then erase the disk."""
    assert new.own("GET", "/installation").status_code == 409
    assert new.report("partition").is_success
    assert new.own("GET", "/installation").status_code == 409
    assert new.state() == "keeping"


def test_recovery_key_goes_through_and_only_to_who_asked(server: Any, new: Machine) -> None:
    assert new.own("GET", "/unlock").status_code == 404
    assert new.own("PUT", "/unlock", json=question(new)).status_code == 202
    assert new.own("GET", "/unlock").status_code == 202
    (asked,) = server.admin.get("/admin/v1/unlocks").json()
    assert (asked["host"], asked["enrolment"], asked["recipient"]) == ("one", new.id, "age1" + "q" * 58)
    assert asked["ek_public"] == text(Tpm("new").ek)
    assert server.admin.put(f"/admin/v1/unlocks/{new.id}", json=ANSWER).status_code == 204
    assert server.last()["action"] == "unlock answered"
    assert new.own("GET", "/unlock").json() == ANSWER
    assert server.admin.get("/admin/v1/unlocks").json() == []
    assert new.own("PUT", "/unlock", json=question(new, "age1" + "p" * 58)).status_code == 202
    assert new.own("GET", "/unlock").status_code == 202, "an answer to another question is none"


def test_nobody_else_asks(server: Any, new: Machine, another: Another) -> None:
    other = another(tpm=Tpm("two"), serial="S2", mac="52:54:00:00:00:02")
    server.put_host("two", ek_sha256=Tpm("two").sha256, serial="S2", macs=[other.mac])
    other.advance("proven")
    assert other.own("PUT", "/unlock", json=question(other)).status_code == 409
    assert other.own("GET", "/keeping").status_code == 409
    new.report("failed")
    assert server.admin.put(f"/admin/v1/unlocks/{new.id}", json=ANSWER).status_code == 404
    assert server.admin.get("/admin/v1/unlocks").json() == []


def test_same_tpm_may_seal_again(server: Any, machine: Machine) -> None:
    """After a change of firmware its disk does not open by itself."""
    machine.advance("installed")
    server.clock.wait(60)
    server.put_host(keep=True)
    machine.advance("challenged")
    assert machine.prove().json() == {"state": "keeping"}


@pytest.mark.parametrize(
    "changes", [{"reinstall": True}, {"class": "no_tpm", "ek_sha256": None, "admit": "approval", "serial": None}]
)
def test_what_cannot_be_kept(server: Any, changes: dict[str, Any]) -> None:
    assert server.put_host(keep=True, **changes).status_code == 422
