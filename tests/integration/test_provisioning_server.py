# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole provisioning server as Ansible makes it: every unit under its confinement, and a machine's way through it.

The machine is firmware that asks by DHCP, a client of HTTPS, and a software TPM; it shares no more with the server than
an Ethernet segment, over which virtual machines would come, too.
"""

from __future__ import annotations

import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import dhcp
import httpx
import pytest
from dhcp import Segment
from endorsement import Ends
from enrolment import CHAIN, MANIFEST, PEM, TOKENS, Machine, age_file, expectation, sign
from lab import within
from provisioning_server import ADDRESS, UNITS, ProvisioningServer, provisioning_server
from relay import relay
from releases import write_release
from tpm_machines import INSTALLED, INSTALLER, PREDICTED, ByInstaller, Tpm, authorities, machines

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.enrolment import PROVEN, Enrolment
from ansible_collections.vauban.fleet.plugins.module_utils._install.provisioning import Provisioning
from ansible_collections.vauban.fleet.plugins.module_utils._install.wire import Wire
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement

NAME = "provision.example.org"
RELEASE = "/releases/gateway/0.1.0"
FIRMWARE = "52:54:00:00:00:01"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("provision")


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, directory: Path) -> Iterator[Ends]:
    """Machines whose TPMs a manufacturer certifies: one that the site trusts, and another."""
    with machines(sandbox, directory, {"one": "ca", "thief": "another"}) as started:
        yield started


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, both: Ends, directory: Path) -> Iterator[ProvisioningServer]:
    installers = [{"name": "gateway", "product": "gateway", "version": "0.1.0"}]
    trusted = [each.decode() for each in authorities(directory / "ca")]
    settings = {"installers": installers, "enrolment_ek_authorities": trusted}
    with provisioning_server(directory / "server", sandbox=sandbox, name=NAME, **settings) as started:
        started.publish(write_release(directory / "release", "gateway", "0.1.0", core_size=20_000_000))
        started.put("releases/server/1.0", {"manifest_sha256": MANIFEST, "pcrs": PREDICTED})
        yield started


@dataclass
class Port:
    """Where a machine is plugged in: an interface ``eth0`` in a namespace of its own."""

    server: ProvisioningServer
    namespace: Path
    segment: Segment
    identity: Path | None = None  # certificate and key that it shows

    def request(self, method: str, path: str, **keywords: Any) -> httpx.Response:
        """By TLS to the server, of which the machine knows address and name."""
        trust = ssl.create_default_context(cafile=str(self.server.authority))
        if self.identity is not None:
            trust.load_cert_chain(self.identity)
        headers = {"Host": NAME, **keywords.pop("headers", {})}

        def ask() -> httpx.Response:
            with httpx.Client(verify=trust, base_url=f"https://{ADDRESS}", timeout=30) as client:
                names = {"sni_hostname": NAME}
                return client.request(method, path, headers=headers, extensions=names, **keywords)

        return within(self.namespace, ask)


@pytest.fixture(scope="module")
def port(server: ProvisioningServer) -> Iterator[Port]:
    """A machine's own network, on the segment."""
    server.machine("ip", "netns", "add", "machine")
    namespace = server.machine.root / "run/netns/machine"
    with relay(namespace, "eth0", *server.segment):
        segment = within(namespace, lambda: Segment(dhcp.socket.socket, "eth0"))
        yield Port(server, namespace, segment)
        segment.close()


@pytest.fixture(scope="module")
def boot(server: ProvisioningServer, port: Port) -> dhcp.Answer:
    """The machine is switched on, and takes the address that it is offered."""
    firmware = dhcp.http(FIRMWARE)
    (offer,) = port.segment.discover(firmware)
    answer = port.segment.request(firmware, offer)
    assert answer.kind == dhcp.ACK
    server.machine("ip", "-netns", "machine", "address", "add", f"{answer.address}/24", "dev", "eth0")
    return answer


@pytest.fixture
def machine(port: Port, boot: dhcp.Answer, tpms: dict[str, Tpm], server: ProvisioningServer) -> Machine:
    """It has booted the installer."""
    tpms["one"].boot(INSTALLER)
    return Machine(port, tpms["one"], predicted=PREDICTED)


@pytest.fixture(scope="module")
def tpms(both: Ends) -> dict[str, Tpm]:
    return {name: Tpm(both, name) for name in ("one", "thief")}


def test_firmware_fetches_the_installer(server: ProvisioningServer, port: Port, boot: dhcp.Answer) -> None:
    url = f"http://{ADDRESS}{RELEASE}/gateway_0.1.0_installer.efi"
    assert (boot.boot, boot.options[60]) == (url, b"HTTPClient")
    content = within(port.namespace, lambda: urllib.request.urlopen(url, timeout=30).read())
    assert content == (server.machine.root / "srv/vauban" / RELEASE[1:] / "gateway_0.1.0_installer.efi").read_bytes()


def test_machine_downloads_a_release_by_tls(server: ProvisioningServer, port: Port, boot: dhcp.Answer) -> None:
    answer = port.request("GET", f"{RELEASE}/core.erofs")
    assert answer.status_code == 200
    assert answer.content == (server.machine.root / "srv/vauban" / RELEASE[1:] / "core.erofs").read_bytes()


def test_machine_becomes_the_host_that_its_certified_tpm_and_serial_number_name(
    server: ProvisioningServer, port: Port, machine: Machine, boot: dhcp.Answer, tpms: dict[str, Tpm], tmp_path: Path
) -> None:
    """From the first request to the quote after the first boot; with a certificate of the site, and by its key, in
    between."""
    server.put("hosts/one", expectation(admit="serial", ek_sha256=None, ek_certificate=True))
    machine.advance("installing")
    request = machine.request()
    assert machine.own("PUT", "/requests/hosts", content=request, headers=PEM).status_code == 202
    answer = server.admin.put("/admin/v1/certificates/one/hosts", content=sign(request), headers=CHAIN)
    assert answer.status_code == 204, answer.text
    assert machine.fetch().text.startswith("-----BEGIN CERTIFICATE-----")
    # What somebody says who has the token, and the certificate, and not its key.
    assert machine.escrow().status_code == 403
    (tmp_path / "identity.pem").write_bytes(machine.identity())
    port.identity = tmp_path / "identity.pem"
    assert machine.escrow().status_code == 200
    assert machine.written().status_code == 204
    port.identity = None
    assert machine.report("failed").status_code == 403
    tpms["one"].boot(INSTALLED)
    assert machine.attest().status_code == 200
    (seen,) = server.admin.get("/admin/v1/machines/one").json()["enrolments"]
    assert seen["state"] == "installed"
    log = server.admin.get("/admin/v1/audit").json()
    assert log["intact"]
    refused = [each["detail"] for each in log["records"] if each["action"] == "wrong certificate"]
    assert refused == [{"reason": "none was shown"}] * 2
    # nginx passed on who asked.
    actors = {each["actor"] for each in log["records"] if each["action"] in ("proven", "installed")}
    assert actors == {f"machine {boot.address}"}


class Reaching(Wire):
    """The installer's way to the server, whose name no DNS knows here."""

    def _connection(self) -> HTTPSConnection:
        connection = super()._connection()
        connection._create_connection = lambda _name, *more: socket.create_connection((ADDRESS, 443), *more)  # type: ignore[attr-defined]
        return connection


def test_installer_shows_its_certificate_once_it_has_one(
    server: ProvisioningServer, port: Port, boot: dhcp.Answer, both: Ends, tpms: dict[str, Tpm], tmp_path: Path
) -> None:
    """Its own code, and a key that it made, up to the last report before the machine restarts."""
    server.put("hosts/one", expectation(admit="serial", ek_sha256=None, ek_certificate=True, reinstall=True))
    tpms["one"].boot(INSTALLER)
    wire, token_alone = (Reaching(f"https://{NAME}", server.authority, sleep=lambda _pause: None) for __ in range(2))
    enrolment, thief = Enrolment(wire, print), Enrolment(token_alone, print)

    def site_signs(_pause: float) -> None:
        for each in server.admin.get("/admin/v1/requests").json():
            path = f"/admin/v1/certificates/{each['host']}/{each['name']}"
            assert server.admin.put(path, content=sign(each["request"]), headers=CHAIN).is_success

    wire.sleep = site_signs
    installer = Provisioning.__new__(Provisioning)
    values = {"_wire": wire, "_enrolment": enrolment, "_keys": tmp_path / "keys", "_chains": {}}

    def install() -> None:
        enrolment.present(Machine(port).release, {"dmi": {"product_serial": "S1"}}, ByInstaller(both, "one"))
        assert enrolment.prove() == PROVEN
        for name, value in {**values, "_wanted": enrolment.installation()}.items():
            setattr(installer, name, value)
        enrolment.report("download", 5, "fetching", {})
        installer._request_certificates()
        header = {"tokens": TOKENS, "key_slots": ["1", "2"]}
        installer.escrow({"recovery_key": age_file(), **header})
        thief.id, thief.token = enrolment.id, enrolment.token
        with pytest.raises(FleetError, match="refuses this machine"):
            thief.report("failed", 0, "never mind", {})
        evidence = {"receipt": installer._receipt, "manifest_sha256": MANIFEST, **header}
        enrolment.report("written", 100, "done", evidence)

    within(port.namespace, install)
    enrolments = server.admin.get("/admin/v1/machines/one").json()["enrolments"]
    assert {each["id"]: each["state"] for each in enrolments}[enrolment.id] == "written"


def test_other_tpm_with_the_serial_number_of_the_host_is_refused(machine: Machine, tpms: dict[str, Tpm]) -> None:
    machine.tpm = tpms["thief"]
    assert machine.apply().status_code == 403


def test_machines_do_not_reach_what_is_for_admins(port: Port, boot: dhcp.Answer) -> None:
    for path in ("/admin/v1/machines", "/metrics", "/", "/v1/../admin/v1/machines"):
        assert port.request("GET", path).status_code == 404
    with pytest.raises(urllib.error.HTTPError, match="404"):
        within(port.namespace, lambda: urllib.request.urlopen(f"http://{ADDRESS}/v1/enrolments", timeout=30))


def test_units_run_under_their_confinement(server: ProvisioningServer, machine: Machine, boot: dhcp.Answer) -> None:
    """After all of the above: what TPMs sign is checked by C libraries through cffi, without executable memory."""
    machine.apply()
    limits = _confinement.limits()
    for unit in UNITS:
        shown = server.machine("systemctl", "show", "--property=MemoryDenyWriteExecute,NRestarts,MainPID", unit)
        values = dict(line.split("=", 1) for line in shown.split())
        assert (values["MemoryDenyWriteExecute"], values["NRestarts"]) == ("yes", "0"), unit
        status = dict(re.findall(r"(\w+):\t(.*)", server.machine("cat", f"/proc/{values['MainPID']}/status")))
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), unit
        assert status["Uid"].split()[0] != "0", unit
        done = server.machine.ask(*_confinement.exposure_check(unit, limits[unit], "--no-pager"))
        assert done.returncode == 0, done.stdout + done.stderr
    pid = server.machine("systemctl", "show", "--value", "--property=MainPID", "vauban-enrolment-machines.service")
    assert "tpm2_pytss" in server.machine("cat", f"/proc/{pid.strip()}/maps")
    assert not re.search(r"Traceback|Operation not permitted|audit.*SECCOMP|verifier failed", server.journal(*UNITS))


def test_server_starts_all_of_it_when_it_boots(server: ProvisioningServer) -> None:
    wanted = server.machine("systemctl", "list-dependencies", "--plain", "multi-user.target")
    for unit in (*UNITS[:3], "vauban-enrolment-admin.socket", "vauban-enrolment-machines.socket"):
        assert unit in wanted
