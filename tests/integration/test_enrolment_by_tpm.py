# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines with TPMs enrol with the service that judges them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from endorsement import Ends
from enrolment import CHAIN, RECIPIENTS, RELEASE, TOKENS, WIPED_DISK, Machine, age_file, sign
from enrolment_apps import Server, served
from tpm_machines import INSTALLED, INSTALLER, PREDICTED, ByInstaller, Tpm, judging_server, machines

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.enrolment import PROVEN, WIPING, Enrolment
from ansible_collections.vauban.fleet.plugins.module_utils._install.wire import Wire
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of the TPMs, and the manufacturers' authorities."""
    return tmp_path_factory.mktemp("tpm")


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, directory: Path) -> Iterator[Ends]:
    with machines(sandbox, directory, {"one": "ca", "thief": "another"}) as started:
        yield started


@pytest.fixture(scope="module")
def tpms(both: Ends) -> dict[str, Tpm]:
    return {name: Tpm(both, name) for name in ("one", "thief")}


@pytest.fixture
def server(both: Ends, tpms: dict[str, Tpm], directory: Path, tmp_path: Path) -> Iterator[Server]:
    """It knows one host by its EK, and believes the manufacturer of its TPM."""
    with judging_server(both, tpms["one"].sha256, directory / "ca", tmp_path / "enrolment.sqlite") as made:
        yield made


@pytest.fixture
def machine(server: Server, tpms: dict[str, Tpm]) -> Machine:
    """The host's machine, which has booted the installer."""
    tpms["one"].boot(INSTALLER)
    return Machine(server, tpms["one"], predicted=PREDICTED)


def refusal(server: Server) -> str:
    """Why the last enrolment was refused, says the audit log; machines are not told."""
    return str([each for each in server.log() if each["action"] == "refused"][-1]["detail"]["reason"])


def test_machine_is_installed_and_proves_it(machine: Machine, tpms: dict[str, Tpm]) -> None:
    machine.advance("written")
    tpms["one"].boot(INSTALLED)
    assert machine.attest().status_code == 200
    assert machine.state() == "installed"


def test_other_tpm_with_the_serial_of_a_host_is_refused(server: Server, machine: Machine, tpms: dict[str, Tpm]) -> None:
    machine.tpm = tpms["thief"]
    assert machine.apply().status_code == 403
    assert refusal(server) == "another TPM with serial number or MAC address of one"


def test_other_tpm_cannot_answer_the_challenge(machine: Machine, tpms: dict[str, Tpm]) -> None:
    challenge = machine.apply().json()["challenge"]
    with pytest.raises(FleetError, match="it is for another TPM"):
        tpms["thief"].activate(challenge)


def test_changed_installer_gets_nothing(server: Server, machine: Machine, tpms: dict[str, Tpm]) -> None:
    tpms["one"].boot({**INSTALLER, 11: "other parts"})
    machine.apply()
    answer = machine.prove()
    assert (answer.status_code, "11" in answer.text) == (403, False)
    assert machine.own("GET", "/installation").status_code in (403, 409)
    assert "11" in refusal(server)


def test_proof_of_an_enrolment_is_none_for_the_next(server: Server, machine: Machine) -> None:
    proof = machine.proof(machine.apply().json()["challenge"])
    machine.apply()
    assert machine.own("POST", "/proof", json=proof).status_code == 403
    assert refusal(server).startswith("the credential is wrong")


@pytest.fixture
def wire(server: Server, tmp_path: Path) -> Iterator[Wire]:
    """The way to the service."""
    with served(server, tmp_path) as port:
        yield Wire(f"https://localhost:{port}", tmp_path / "site.pem", sleep=lambda _: None)


def test_installer_goes_all_the_way(server: Server, wire: Wire, both: Ends, tpms: dict[str, Tpm]) -> None:
    """Its own code, with the service's and a TPM, until it has a certificate. This way in shows the service none, and
    then is not good enough: tests/integration/test_provisioning_server.py goes on."""
    tpms["one"].boot(INSTALLER)
    enrolment = Enrolment(wire, print)
    enrolment.present(RELEASE, {"dmi": {"product_serial": "S1"}}, ByInstaller(both, "one"))
    assert enrolment.prove() == PROVEN
    wanted = enrolment.installation()
    assert (wanted["host"], wanted["escrow"]) == ("one", {"recipients": RECIPIENTS, "threshold": 1})
    enrolment.report("partition", 10, "everything on /dev/vda is erased", {})
    header = {"tokens": TOKENS, "key_slots": ["1", "2"]}
    enrolment.escrow({"recovery_key": age_file(), **header}, RECIPIENTS)

    request = Machine(server).request().encode()
    signed: list[str] = []

    def site_signs(_seconds: float) -> None:
        asked = server.admin.get("/admin/v1/requests").json()
        assert [(each["host"], each["name"]) for each in asked] == [("one", "hosts")]
        signed.append(sign(asked[0]["request"]))
        answer = server.admin.put("/admin/v1/certificates/one/hosts", content=signed[0], headers=CHAIN)
        assert answer.status_code == 204, answer.text

    wire.sleep = site_signs
    enrolment.request("hosts", request)
    assert enrolment.certificate("hosts").decode().strip() == signed[0].strip()
    with pytest.raises(FleetError, match="refuses this machine") as caught:
        enrolment.report("seal_state", 88, "seal state", {})
    assert "audit log" in str(caught.value.remedy)
    assert (server.last()["action"], server.last()["detail"]) == ("wrong certificate", {"reason": "none was shown"})


@pytest.fixture
def ordered(server: Server, machine: Machine, tpms: dict[str, Tpm]) -> Tpm:
    """The TPM of a machine that was the host, and is to erase its disk; it has booted the installer."""
    machine.advance("written")
    tpms["one"].boot(INSTALLED)
    assert machine.attest().is_success
    assert server.admin.put("/admin/v1/hosts/one/wipe", json={"reason": "sold"}).json() == {"changed": True}
    return tpms["one"]


def test_machine_that_proves_itself_is_told_to_erase_its_disk(
    server: Server, wire: Wire, both: Ends, ordered: Tpm
) -> None:
    ordered.boot(INSTALLER)
    enrolment = Enrolment(wire, print)
    enrolment.present(RELEASE, {"dmi": {"product_serial": "S1"}}, ByInstaller(both, "one"))
    assert enrolment.prove() == WIPING
    assert enrolment.wipe() == {"host": "one", "disk": {"serial": "DISK1"}, "begun": None}
    enrolment.report("wipe", 10, "wipe: the disk", {"disk": WIPED_DISK})
    both.machine("one", "tool", "tpm2_createprimary", "-C", "o", "-c", "left.context", "-Q")
    both.machine("one", "tool", "tpm2_evictcontrol", "-C", "o", "-c", "left.context", "0x81000001", "-Q")
    cleared = both.machine("one", "clear")
    assert (cleared["cleared"], cleared["left"]) == (True, [])
    assert "0x81000001" in cleared["evicted"]
    evidence = {"volumes": ["fleet/state"], "discarded": True, "boot_entries": [], "tpm": cleared}
    enrolment.report("wiped", 100, "the disk is erased", {"disk": WIPED_DISK, **evidence})
    assert server.last()["action"] == "wiped"
    before = (ordered.ek, ordered.ak.public)
    ordered.boot(INSTALLER)
    assert (ordered.ek, ordered.ak.public) == before, "a TPM that is cleared is still the same TPM"


def test_changed_installer_and_other_tpm_are_told_nothing(
    server: Server, machine: Machine, tpms: dict[str, Tpm], ordered: Tpm
) -> None:
    ordered.boot({**INSTALLER, 11: "other parts"})
    machine.apply()
    assert machine.prove().status_code == 403
    assert machine.own("GET", "/wipe").status_code == 409
    machine.tpm = tpms["thief"]
    assert machine.apply().status_code == 403
    assert server.admin.get("/admin/v1/machines/one").json()["wipe"] is not None


def test_tpm_with_a_password_loses_its_keys_one_by_one(both: Ends, tpms: dict[str, Tpm]) -> None:
    """TPM2_Clear needs an authorisation that nobody here has."""
    tpms["thief"].boot(INSTALLER)
    for words in (["-C", "o", "-c", "left.context"], ["-C", "o", "-c", "left.context", "0x81000002"]):
        both.machine("thief", "tool", "tpm2_evictcontrol" if "0x81000002" in words else "tpm2_createprimary", *words)
    both.machine("thief", "tool", "tpm2_changeauth", "-c", "lockout", "secret")
    both.machine("thief", "tool", "tpm2_changeauth", "-c", "platform", "secret")
    cleared = both.machine("thief", "clear")
    assert (cleared["cleared"], cleared["evicted"]) == (False, ["0x81000002"])
    assert all(handle.startswith("0x8101") for handle in cleared["left"]), "only the maker's own"
    assert "tpm:" in cleared["problem"]


def test_installer_with_another_tpm_is_refused(server: Server, wire: Wire, both: Ends) -> None:
    with pytest.raises(FleetError, match="refuses this machine"):
        Enrolment(wire, print).present(RELEASE, {"dmi": {"product_serial": "S1"}}, ByInstaller(both, "thief"))
    assert refusal(server) == "another TPM with serial number or MAC address of one"
