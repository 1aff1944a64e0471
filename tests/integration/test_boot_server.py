# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role boot_server: dnsmasq, Kea and nginx of Debian 13 as systemd runs them, confined, and machines that they answer.

The tree is the SDK's own, with what the role and role confinement lay down. It takes packages dnsmasq-base,
kea-dhcp4-server and nginx.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import boot_files
import dhcp
import pytest
import rendering
from booted import Booted, booted
from certificates import P256, Authority, ec_key, pem
from cryptography import x509
from dhcp import Machine, Segment
from enrolment import IKE
from hosts import wait_for
from lab import Lab
from playing import ansible_playbook
from releases import write_release
from sdk import unpacked

from ansible_collections.vauban.fleet.plugins.module_utils import _release_store
from ansible_collections.vauban.fleet.plugins.plugin_utils import _boot_server, _confinement

from .conftest import play_roles

KEA = "kea-dhcp4-server.service"
UNITS = ("boot-dhcp.service", "nginx.service")
# What answers DHCP, by the value of boot_server_dhcp_server.
ANSWERING = {"dnsmasq": "boot-dhcp.service", "kea": KEA}
DNSMASQ_FILE, KEA_FILE = "etc/vauban/boot_server/dnsmasq.conf", "etc/kea/vauban/kea-dhcp4.conf"
KEA_ENVIRONMENT = f"etc/systemd/system/{KEA}.d/kea-dhcp4.conf"
PASSWORD, PASSWORD_FILE = "leases-of-Paris", "etc/kea/vauban/lease-database-password"
NAME, ADDRESS = "boot.example.org", "10.9.0.1"
KNOWN, DONE, STRANGER = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:99"
INSTALLER = "/releases/gateway/0.1.0/gateway_0.1.0_installer.efi"
CORE = "/releases/gateway/0.1.0/core.erofs"
URL = f"http://{ADDRESS}{INSTALLER}"
OTHER_URL = f"http://{ADDRESS}/releases/server/0.2.0/server_0.2.0_installer.efi"
SOCKET = "run/vauban-enrolment/machines.sock"
TOKEN = "b7f1e0c9-secret-token"
TFTP_FILE = bytes(range(256)) * 10
NETWORK = {"network": "10.9.0.0/22", "first": "10.9.0.100", "last": "10.9.3.250", "router": "10.9.0.254", "dns": []}
VARIABLES: dict[str, Any] = {
    "boot_server_mode": "dhcp",
    "boot_server_name": NAME,
    "boot_server_address": ADDRESS,
    "boot_server_interfaces": ["lan"],
    "boot_server_networks": [NETWORK],
    "boot_server_installers": [
        {"name": "gateway", "product": "gateway", "version": "0.1.0", "pxe": "ipxe.efi"},
        {"name": "server", "product": "server", "version": "0.2.0", "pxe": "small.efi"},
    ],
    "boot_server_default": "gateway",
    "boot_server_hosts": [
        {"name": "paris-srv1", "macs": [KNOWN], "address": "10.9.0.9", "installer": "server"},
        {"name": "paris-srv2", "macs": [DONE.upper()], "installer": ""},
    ],
}


def lay_down(tree: Path, **changes: Any) -> None:
    """What the role lays down for these variables."""
    boot_files.lay_down(tree, **{**VARIABLES, **changes})


@pytest.fixture(scope="session")
def tree() -> Path:
    """The unpacked SDK, with both servers in it."""
    return unpacked()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.root("Example Root", ec_key(P256))


@pytest.fixture(scope="module")
def server(tree: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A boot server with an interface ``lan``; its segment, and others, are namespaces of its own."""
    directory = tmp_path_factory.mktemp("boot")
    files = directory / "files"
    lay_down(files)
    for each in _confinement.image_dropins():
        if each.name in (*UNITS, KEA):
            dropin = files / f"usr/lib/systemd/system/{each.name}.d/50-confinement.conf"
            dropin.parent.mkdir(parents=True, exist_ok=True)
            dropin.write_text("\n".join(["[Service]", *each.lines, ""]))
    issuing = authority.issuing("Example Issuing", ec_key(P256))
    certificate = issuing.issue(NAME, ec_key(P256))
    with booted("boot", (files, tree), directory / "machine") as made:
        made("systemd-tmpfiles", "--create", "vauban-boot_server.conf")
        made.write("/var/lib/vauban/https/certificate.pem", (certificate.pem + issuing.pem).decode())
        made.write("/var/lib/vauban/https/key.pem", pem(certificate.key).decode(), mode="0640", owner="root:www-data")
        for name in ("switch", "client", "other"):
            made("ip", "netns", "add", name)
        made("ip", "-netns", "switch", "link", "add", "bridge", "type", "bridge")
        made("ip", "-netns", "switch", "link", "set", "bridge", "up")
        for name, end in (("", "lan"), ("client", "eth0"), ("other", "eth0")):
            port = f"to-{name or 'server'}"
            made("ip", "-netns", "switch", "link", "add", port, "type", "veth", "peer", "name", f"p-{port}")
            made("ip", "-netns", "switch", "link", "set", port, "master", "bridge", "up")
            made("ip", "-netns", "switch", "link", "set", f"p-{port}", "netns", name or "1", "name", end)
            within = ["-netns", name] if name else []
            made("ip", *within, "link", "set", end, "up")
        made("ip", "address", "add", f"{ADDRESS}/22", "dev", "lan")
        made("ip", "-netns", "client", "address", "add", "10.9.0.50/22", "dev", "eth0")
        made("ip", "-netns", "other", "address", "add", "10.9.0.2/22", "dev", "eth0")
        (made.root / "srv/vauban/tftp/ipxe.efi").write_bytes(TFTP_FILE)
        store = _release_store.Store(made.root / "srv/vauban/releases")
        source = write_release(directory / "release", "gateway", "0.1.0", core_size=3_000_000)
        store.publish(_release_store.read(source), source)
        made("systemctl", "start", *UNITS)
        wait_for_ports(made)
        yield made


class Service(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """In the place of the enrolment service: remembers what it is asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: str) -> None:
        super().__init__(path, _Handler)
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def address_string(self) -> str:
        return "local"

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers, body))
        answer = b'{"state": "quarantined"}'
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PUT = do_GET


@pytest.fixture
def service(server: Booted) -> Iterator[Service]:
    """A service at the socket, whose directory and owner are as role enrolment makes them."""
    path = server.root / SOCKET
    server("install", "-d", "-m", "0755", str(Path("/", SOCKET).parent))
    made = Service(str(path))
    server("chown", "root:www-data", f"/{SOCKET}")
    server("chmod", "0660", f"/{SOCKET}")
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()
    path.unlink()


@pytest.fixture(scope="module")
def network(server: Booted, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The namespaces of the server."""
    return Lab(tmp_path_factory.mktemp("network"), server.pid)


@pytest.fixture
def segment(network: Lab) -> Iterator[Segment]:
    """Where machines are."""
    made = Segment(lambda *arguments: network.socket("client", *arguments), "eth0")
    yield made
    made.close()


def configure(server: Booted, directory: Path, *, wait: bool = True, **changes: Any) -> None:
    """Let dnsmasq and Kea follow other variables."""
    shutil.rmtree(directory / "other", ignore_errors=True)
    lay_down(directory / "other", **changes)
    server("systemctl", "reset-failed")
    server("systemctl", "stop", KEA)
    for path in (DNSMASQ_FILE, KEA_FILE, KEA_ENVIRONMENT):
        if (directory / "other" / path).exists():
            server.write(f"/{path}", (directory / "other" / path).read_text())
        else:
            server("rm", "-f", f"/{path}")
    server("systemctl", "daemon-reload")
    server("systemctl", "restart", "boot-dhcp.service")
    server("systemctl", "start", KEA)
    if wait:
        wait_for_ports(server)


def wait_for_ports(server: Booted) -> None:
    """TFTP comes last of what dnsmasq opens, a packet socket last of what Kea does."""
    sockets = Path(f"/proc/{server.pid}/net/udp")
    wait_for(lambda: ":0045 " in sockets.read_text(), "dnsmasq listens")
    if server.state(KEA) == "active":
        # packet(7): the fifth column is the interface, 0 before the socket is bound. Then Kea throws away what came.
        packets = Path(f"/proc/{server.pid}/net/packet")
        wait_for(lambda: any(line.split()[4] != "0" for line in packets.read_text().splitlines()[1:]), "Kea listens")
        time.sleep(0.3)
    listening = Path(f"/proc/{server.pid}/net/tcp")
    wait_for(lambda: ":01BB " in listening.read_text(), "nginx listens")


@pytest.fixture(scope="module", params=ANSWERING)
def answering(
    server: Booted, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The DHCP server that answers, as boot_server_dhcp_server names it."""
    configure(server, tmp_path_factory.mktemp("answering"), boot_server_dhcp_server=request.param)
    yield request.param
    configure(server, tmp_path_factory.mktemp("answering"))


class Told(NamedTuple):
    """What a machine is to be told."""

    machine: Machine
    boot: str
    next_server: str | None = None


CASES = {
    "HTTP": Told(dhcp.http(STRANGER), URL),
    "HTTP, by MAC": Told(dhcp.http(KNOWN), OTHER_URL),
    "HTTP, nothing by MAC": Told(dhcp.http(DONE), ""),
    "PXE": Told(dhcp.pxe(STRANGER), "ipxe.efi", ADDRESS),
    "PXE, the other number": Told(dhcp.pxe(STRANGER, dhcp.PXE_BC), "ipxe.efi", ADDRESS),
    "PXE, by MAC": Told(dhcp.pxe(KNOWN), "small.efi", ADDRESS),
    "PXE, nothing by MAC": Told(dhcp.pxe(DONE), ""),
    "PXE of a BIOS": Told(dhcp.pxe(STRANGER, 0), ""),
    "iPXE": Told(dhcp.ipxe(STRANGER), URL),
    "iPXE, by MAC": Told(dhcp.ipxe(KNOWN), OTHER_URL),
    "no firmware": Told(Machine(STRANGER), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_machine_is_told_what_to_boot(answering: str, segment: Segment, case: str) -> None:
    told = CASES[case]
    (offer,) = segment.discover(told.machine)
    answer = segment.request(told.machine, offer)
    assert (offer.kind, answer.kind) == (dhcp.OFFER, dhcp.ACK)
    for each in (offer, answer):
        assert each.boot == told.boot
        assert each.server == ADDRESS
        # Without this class firmware takes no URL; and who does not boot by HTTP must not be confused by it.
        by_http = told.machine.kind == "HTTPClient" and told.boot
        assert each.options.get(60) == (b"HTTPClient" if by_http else None)
        assert told.next_server in (None, each.next_server)
        assert each.options[3] == socket.inet_aton("10.9.0.254")
        assert 6 not in each.options
    assert (answer.address == "10.9.0.9") == (told.machine.mac == KNOWN)


def test_known_machines_only(server: Booted, answering: str, segment: Segment, tmp_path: Path) -> None:
    configure(server, tmp_path, boot_server_dhcp_server=answering, boot_server_known_only=True)
    assert segment.discover(dhcp.http(KNOWN))
    assert segment.discover(dhcp.http(DONE))
    assert segment.discover(dhcp.http(STRANGER), within=0.5) == []
    assert segment.remember(dhcp.http(STRANGER), "10.9.0.111", within=0.5) is None
    configure(server, tmp_path, boot_server_dhcp_server=answering)
    assert segment.discover(dhcp.http(STRANGER))


def test_rack_is_switched_on_at_once(server: Booted, answering: str, segment: Segment) -> None:
    """300 machines within a second, none of which asks twice."""
    machines = [dhcp.http(f"52:54:00:01:{number >> 8:02x}:{number & 255:02x}") for number in range(300)]
    used = cpu_seconds(server, ANSWERING[answering])
    got = dhcp.power_on(segment, machines, over=1.0, within=5)
    assert len(got) == 300
    assert {answer.kind for answer in got.values()} == {dhcp.ACK}
    assert len({answer.address for answer in got.values()}) == 300
    assert {answer.boot for answer in got.values()} == {URL}
    assert cpu_seconds(server, ANSWERING[answering]) - used < 5


def test_machines_keep_their_addresses_when_the_server_starts_again(
    server: Booted, answering: str, segment: Segment, tmp_path: Path
) -> None:
    """dnsmasq forgets leases. A machine that comes back with its address keeps it; a new one gets another."""
    machines = [dhcp.http(f"52:54:00:02:00:{number:02x}") for number in range(20)]
    first = dhcp.power_on(segment, machines, over=0.2, within=3)
    configure(server, tmp_path, boot_server_dhcp_server=answering)
    for machine in machines[:10]:
        answer = segment.remember(machine, first[machine.mac].address)
        assert answer is not None
        assert (answer.kind, answer.address) == (dhcp.ACK, first[machine.mac].address)
    again = dhcp.power_on(segment, machines[10:], over=0.1, within=3)
    assert {mac: answer.address for mac, answer in again.items()} == {
        machine.mac: first[machine.mac].address for machine in machines[10:]
    }


def test_machine_from_elsewhere_learns_at_once_that_its_address_is_none_of_here(
    answering: str, segment: Segment
) -> None:
    answer = segment.remember(dhcp.http(STRANGER), "198.51.100.7")
    assert answer is not None
    assert answer.kind == dhcp.NAK


def test_only_named_interfaces_are_answered_and_may_come_late(
    server: Booted, answering: str, network: Lab, segment: Segment, tmp_path: Path
) -> None:
    late = {"network": "10.8.0.0/24", "first": "10.8.0.100", "last": "10.8.0.200"}
    changes = {"boot_server_interfaces": ["late"], "boot_server_networks": [late, NETWORK], "boot_server_hosts": []}
    configure(server, tmp_path / "late", wait=False, boot_server_dhcp_server=answering, **changes)
    server("ip", "link", "add", "late", "type", "veth", "peer", "name", "eth9", "netns", "client")
    server("ip", "address", "add", "10.8.0.1/24", "dev", "late")
    for words in (["link", "set", "late", "up"], ["-netns", "client", "link", "set", "eth9", "up"]):
        server("ip", *words)
    there = Segment(lambda *arguments: network.socket("client", *arguments), "eth9")
    try:
        wait_for(lambda: bool(there.discover(dhcp.http(STRANGER), within=0.3)), "an answer on the new interface")
        assert segment.discover(dhcp.http(STRANGER), within=0.5) == []
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            fetch_by_tftp(network, "ipxe.efi")
    finally:
        there.close()
        server("ip", "link", "delete", "late")
        configure(server, tmp_path, boot_server_dhcp_server=answering)


def main_process(server: Booted, unit: str) -> str:
    return server("systemctl", "show", "--value", "--property=MainPID", unit).strip()


def cpu_seconds(server: Booted, unit: str) -> float:
    fields = server("cat", f"/proc/{main_process(server, unit)}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_mode_none_answers_nobody(server: Booted, network: Lab, segment: Segment, tmp_path: Path) -> None:
    configure(server, tmp_path, boot_server_mode="none")
    for case in ("HTTP", "PXE", "no firmware"):
        assert segment.discover(CASES[case].machine, within=0.3) == []
    assert ":0043 " not in Path(f"/proc/{server.pid}/net/udp").read_text()
    assert fetch_by_tftp(network, "ipxe.efi") == TFTP_FILE
    configure(server, tmp_path)


def fetch_by_tftp(network: Lab, name: str) -> bytes:
    return dhcp.tftp(lambda *arguments: network.socket("client", *arguments), ADDRESS, name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "../releases/gateway/0.1.0/manifest.json", "none"])
def test_tftp_gives_away_nothing_else(server: Booted, network: Lab, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        fetch_by_tftp(network, name)


class Response(NamedTuple):
    """An answer by HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes


def fetch(
    network: Lab,
    path: str,
    trust: ssl.SSLContext | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
    name: str = NAME,
    **headers: str,
) -> Response:
    """Ask the server, from where machines are; by HTTPS if told what to trust. The path goes out as it is written."""
    connection = http.client.HTTPConnection(ADDRESS, timeout=10)
    port = 443 if trust else 80
    plain = network.inside("client", lambda: socket.create_connection((ADDRESS, port), timeout=10))
    connection.sock = trust.wrap_socket(plain, server_hostname=name) if trust else plain
    try:
        every = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body=body, headers={"Host": name, **every})
        answer = connection.getresponse()
        found = {key.lower(): value for key, value in answer.getheaders()}
        return Response(answer.status, found, answer.read())
    finally:
        connection.close()


def trusting(authority: Authority) -> ssl.SSLContext:
    """A client that believes this authority and no other."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    return context


@pytest.fixture(scope="module")
def trust(authority: Authority) -> ssl.SSLContext:
    return trusting(authority)


def test_installer_comes_by_http_whole_and_in_ranges(server: Booted, network: Lab) -> None:
    """Firmware asks for the size first, and for what is missing after an interruption."""
    wanted = (server.root / "srv/vauban" / INSTALLER[1:]).read_bytes()
    whole = fetch(network, INSTALLER)
    assert (whole.status, whole.body) == (200, wanted)
    assert whole.headers["content-type"] == "application/efi"
    head = fetch(network, INSTALLER, method="HEAD")
    assert (head.status, head.body, int(head.headers["content-length"])) == (200, b"", len(wanted))
    parts = b""
    while len(parts) < len(wanted):
        part = fetch(network, INSTALLER, Range=f"bytes={len(parts)}-{len(parts) + 29_999}")
        assert part.status == 206
        parts += part.body
    assert parts == wanted


@pytest.mark.parametrize(
    "path",
    [CORE, "/releases/gateway/0.1.0/manifest.json", "/releases/gateway/0.1.0/gateway_0.1.0.efi", "/v1/enrolments"],
)
def test_nothing_else_comes_in_clear(server: Booted, network: Lab, service: Service, path: str) -> None:
    assert fetch(network, path).status == 404
    assert service.asked == []


def test_releases_come_by_https(server: Booted, network: Lab, trust: ssl.SSLContext) -> None:
    place = server.root / "srv/vauban/releases/gateway/0.1.0"
    names = [path.name for path in place.iterdir()]
    assert {"core.erofs", "manifest.json", "manifest.json.p7s"} <= set(names)
    for name in names:
        answer = fetch(network, f"/releases/gateway/0.1.0/{name}", trust)
        assert (answer.status, answer.body) == (200, (place / name).read_bytes()), name


def test_configurations_of_hosts_come_by_https_and_by_their_hash(
    server: Booted, network: Lab, trust: ssl.SSLContext
) -> None:
    path = f"/configurations/{'5e' * 32}"
    server.write(f"/srv/vauban{path}", "of a host")
    assert (fetch(network, path, trust).status, fetch(network, path, trust).body) == (200, b"of a host")
    assert fetch(network, path).status == 404


def test_certificate_is_believed_for_the_authority_of_the_site_alone(
    server: Booted, network: Lab, authority: Authority, trust: ssl.SSLContext
) -> None:
    assert fetch(network, CORE, trust).status == 200
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        fetch(network, CORE, trust, name="other.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed certificate|unable to get"):
        fetch(network, CORE, trusting(Authority.root("Example Root", ec_key(P256))))


def test_older_tls_is_refused(server: Booted, network: Lab, authority: Authority) -> None:
    old = trusting(authority)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        fetch(network, CORE, old)


OUTSIDE = [
    "/",
    "/releases",
    "/releases/",
    "/releases/gateway/",
    "/releases/gateway/0.1.0",
    "/releases/gateway/0.1.0/",
    "/releases/.incoming/x",
    "/releases/gateway/.hidden/core.erofs",
    "/releases/gateway/0.1.0/.hidden",
    "/releases/gateway/0.1.0/../../../../../etc/passwd",
    "/releases/gateway/0.1.0/%2e%2e/%2e%2e/%2e%2e/tftp/ipxe.efi",
    "/releases/gateway/0.1.0/..%2f..%2f..%2ftftp%2fipxe.efi",
    "/releases/gateway/../../tftp/ipxe.efi",
    "/releases/gateway/0.1.0/passwd",
    "/configurations/",
    "/configurations/.new",
    "/configurations/short",
    "/tftp/ipxe.efi",
    "/etc/passwd",
    "//etc/passwd",
    "/admin/v1/machines",
    "/admin/",
    "/metrics",
    "/v1",
    "/v1/../admin/v1/machines",
    "/v1/%2e%2e/admin/v1/machines",
    "/v1/..%2fadmin%2fv1%2fmachines",
    "/v1/enrolments/../../admin/v1/machines",
    "/V1/enrolments",
]


@pytest.fixture
def baits(server: Booted) -> None:
    """What would come if a path got through."""
    for path in ("gateway/.hidden/core.erofs", "gateway/0.1.0/.hidden", ".incoming/x"):
        server.write(f"/srv/vauban/releases/{path}", "secret")
    for path in (".new", "short"):
        server.write(f"/srv/vauban/configurations/{path}", "secret")
    server("ln", "-sfn", "/etc/passwd", "/srv/vauban/releases/gateway/0.1.0/passwd")
    server("chown", "-h", "www-data", "/srv/vauban/releases/gateway/0.1.0/passwd")


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_lead_nowhere_else(
    server: Booted, baits: None, network: Lab, service: Service, trust: ssl.SSLContext, path: str
) -> None:
    for context in (trust, None):
        answer = fetch(network, path, context)
        assert answer.status in (400, 403, 404), path
        assert b"root:" not in answer.body
    assert service.asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
def test_files_are_only_read(server: Booted, network: Lab, trust: ssl.SSLContext, method: str) -> None:
    assert fetch(network, CORE, trust, method=method, body=b"x").status in (403, 405)
    assert fetch(network, INSTALLER, method=method, body=b"x").status in (403, 405)


def test_requests_of_machines_reach_the_service(
    server: Booted, network: Lab, service: Service, trust: ssl.SSLContext
) -> None:
    body = json.dumps({"hardware": "x" * 100_000}).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "X_Real_IP": "192.0.2.66", "Content_Type": "application/json"}
    answer = fetch(network, "/v1/enrolments?wait=1", trust, method="POST", body=body, **headers)
    assert (answer.status, json.loads(answer.body)) == (201, {"state": "quarantined"})
    ((method, path, got, content),) = service.asked
    assert (method, path, content) == ("POST", "/v1/enrolments?wait=1", body)
    assert got["authorization"] == f"Bearer {TOKEN}"
    # It learns who asked, and believes nobody's word for it.
    assert got["x-real-ip"] == "10.9.0.50"
    assert (got["x-forwarded-proto"], got["host"]) == ("https", NAME)


@pytest.mark.parametrize("path", ["/v1/enrolments/1/reports", "/v1/backups/1/0"])
def test_service_learns_which_certificate_the_client_has_the_key_of(
    server: Booted, network: Lab, service: Service, authority: Authority, tmp_path: Path, path: str
) -> None:
    """As TLS says, and not as the client does. The certificate is for IPsec, of an authority that nginx never saw."""
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(IKE)])
    own = Authority.root("Site", ec_key(P256)).issue("one.example", ec_key(P256), usage=usage)
    foreign = Authority.root("Site", ec_key(P256)).issue("two.example", ec_key(P256))
    (tmp_path / "own.pem").write_bytes(own.pem + pem(own.key))
    proving, claiming = trusting(authority), trusting(authority)
    proving.load_cert_chain(tmp_path / "own.pem")
    claim = quote(foreign.pem.decode())
    for context in (proving, claiming):
        answer = fetch(network, path, context, method="PUT", body=b"x", X_Client_Certificate=claim)
        assert answer.status == 201, answer.body
    with_key, without = (asked[2] for asked in service.asked)
    assert unquote(with_key["x-client-certificate"]).encode() == own.pem
    assert "x-client-certificate" not in without


@pytest.mark.parametrize(
    ("path", "passed"),
    [
        ("/v1/enrolments/1/../2", "/v1/enrolments/2"),
        ("/x/../v1/enrolments", "/v1/enrolments"),
        ("/v1/%252e%252e/admin", "/v1/%252e%252e/admin"),
    ],
)
def test_service_gets_the_path_that_was_checked(
    server: Booted, network: Lab, service: Service, trust: ssl.SSLContext, path: str, passed: str
) -> None:
    assert fetch(network, path, trust).status == 201
    assert [asked[1] for asked in service.asked] == [passed]


def test_bodies_have_a_limit(server: Booted, network: Lab, service: Service, trust: ssl.SSLContext) -> None:
    limit = 128 * 1024
    assert fetch(network, "/v1/enrolments", trust, method="POST", body=b"x" * limit).status == 201
    # It need not be sent to be refused.
    claimed = fetch(network, "/v1/enrolments", trust, method="POST", Content_Length=str(limit + 1))
    assert (claimed.status, claimed.headers["content-type"]) == (413, "application/problem+json")
    assert json.loads(claimed.body)["status"] == 413
    assert len(service.asked) == 1


def test_pieces_of_backups_are_larger_and_come_more_often(
    server: Booted, network: Lab, service: Service, trust: ssl.SSLContext
) -> None:
    time.sleep(1)  # what others asked is forgotten
    path, limit = "/v1/backups/0123/0", 1 << 20
    for _often in range(60):
        assert fetch(network, path, trust, method="PUT", body=b"x" * 1000).status == 201
    assert fetch(network, path, trust, method="PUT", body=b"x" * limit).status == 201
    assert [(asked[0], asked[1], len(asked[3])) for asked in service.asked][-2:] == [
        ("PUT", path, 1000),
        ("PUT", path, limit),
    ]
    claimed = fetch(network, path, trust, method="PUT", Content_Length=str(limit + 1))
    assert (claimed.status, claimed.headers["content-type"]) == (413, "application/problem+json")
    assert len(service.asked) == 61


def test_requests_have_a_rate(server: Booted, network: Lab, service: Service, trust: ssl.SSLContext) -> None:
    time.sleep(1)  # what others asked is forgotten
    answers = [fetch(network, "/v1/enrolments", trust) for _attempt in range(80)]
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {201, 429}
    assert [answer.status for answer in answers[:40]] == [201] * 40
    assert len(service.asked) == 80 - len(refused)
    assert json.loads(refused[0].body)["title"] == "Too Many Requests"
    # Files are another matter.
    assert fetch(network, CORE, trust).status == 200
    server("systemctl", "restart", "nginx.service")  # so that the next test begins with nothing counted
    wait_for_ports(server)


def test_service_that_is_down_is_a_passing_reason(server: Booted, network: Lab, trust: ssl.SSLContext) -> None:
    answer = fetch(network, "/v1/enrolments", trust)
    assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")


def test_log_says_who_asked_and_keeps_secrets(
    server: Booted, network: Lab, service: Service, trust: ssl.SSLContext
) -> None:
    fetch(network, f"/v1/enrolments/7?token={TOKEN}", trust, Authorization=f"Bearer {TOKEN}")
    shown = ["journalctl", "--no-pager", "--output=cat"]
    wait_for(lambda: "/v1/enrolments/7" in server(*shown), "the request in the journal")
    printed = server(*shown)
    assert re.search(r'10\.9\.0\.50 TLSv1\.3 "GET /v1/enrolments/7" 201', printed)
    assert TOKEN not in printed


@pytest.mark.parametrize("unit", [*UNITS, KEA])
def test_exposure_is_within_the_limit(server: Booted, unit: str) -> None:
    limits = _confinement.limits()
    assert limits[unit] <= (2.0 if unit == KEA else 1.8)
    done = server.ask(*_confinement.exposure_check(unit, limits[unit], "--no-pager"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("unit", "user"), [("boot-dhcp.service", "boot-dhcp"), ("nginx.service", "www-data")])
def test_runs_as_its_user_and_may_listen_at_low_ports_and_nothing_more(server: Booted, unit: str, user: str) -> None:
    assert_confined(server, unit, user, 1 << 10)


def test_kea_runs_as_its_user_and_may_use_a_packet_socket_besides(server: Booted, kea: None) -> None:
    assert_confined(server, KEA, "_kea", 1 << 10 | 1 << 13)


def assert_confined(server: Booted, unit: str, user: str, capabilities: int) -> None:
    number = server("id", "-u", user).strip()
    assert number != "0"
    group = server("systemctl", "show", "--value", "--property=ControlGroup", unit).strip()
    processes = server("cat", f"/sys/fs/cgroup{group}/cgroup.procs").split()
    assert main_process(server, unit) in processes
    for process in processes:
        status = dict(re.findall(r"(\w+):\t(.*)", server("cat", f"/proc/{process}/status")))
        assert status["Uid"].split() == [number] * 4
        assert {int(status[kind], 16) for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {capabilities}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_programs_and_systemd_read_what_is_laid_down_without_a_word(server: Booted, tree: Path, tmp_path: Path) -> None:
    for mode in ("dhcp", "proxy", "none"):
        lay_down(tmp_path / mode, boot_server_mode=mode)
        text = (tmp_path / mode / "etc/vauban/boot_server/dnsmasq.conf").read_text()
        server.write("/run/test.conf", text)
        assert "syntax check OK" in server.ask("dnsmasq", "--test", "--conf-file=/run/test.conf").stderr
        server.write("/run/test.conf", f"{text}\nno-such-option\n")
        assert server.ask("dnsmasq", "--test", "--conf-file=/run/test.conf").returncode != 0
    done = server.ask("nginx", "-t", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    done = server.ask("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *UNITS)
    assert (done.returncode, done.stderr) == (0, "")
    for unit in UNITS:
        server("systemctl", "restart", unit)
    wait_for_ports(server)
    for unit in UNITS:
        invocation = server("systemctl", "show", "--value", "--property=InvocationID", unit).strip()
        printed = server("journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={invocation}")
        assert not re.search("warn|alert|emerg|fail|missing", printed), printed
        assert unit == "nginx.service" or "started, version" in printed  # nginx has nothing to say


def test_web_server_takes_a_new_certificate_without_a_pause(
    server: Booted, network: Lab, authority: Authority, trust: ssl.SSLContext
) -> None:
    before = server("pidof", "nginx").split()
    server("systemctl", "reload", "nginx.service")
    wait_for(lambda: not set(server("pidof", "nginx").split()) >= set(before), "other workers")
    assert fetch(network, CORE, trust).status == 200


def test_packet_filter_needs_no_more_than_these_rules(
    server: Booted, answering: str, network: Lab, trust: ssl.SSLContext
) -> None:
    """Role firewall with the rules of the filter: machines boot, and nothing else passes."""
    rules = {"name": "host", "ipv6": False, "tunnelled_ipv4": [], "tunnelled_ipv6": [], "sets": [], "raw": []}
    rulesets = [{**rules, **_boot_server.rules("dhcp", ["lan"], server=answering), "forward": []}]
    rendered = rendering.render("firewall", firewall_rulesets=rulesets, firewall_log_rate="10/minute")
    server.write("/run/test.nft", rendered["etc/nftables.d/host.nft"])
    segment = Segment(lambda *arguments: network.socket("client", *arguments), "eth0")
    server("nft", "-f", "/run/test.nft")
    try:
        machine = dhcp.http(STRANGER)
        (offer,) = segment.discover(machine)
        assert segment.request(machine, offer).kind == dhcp.ACK
        assert fetch_by_tftp(network, "ipxe.efi") == TFTP_FILE
        assert fetch(network, INSTALLER).status == 200
        assert fetch(network, CORE, trust).status == 200
        # Nothing answers at this port; what passes would be refused at once, and not lost.
        with network.socket("client", socket.AF_INET, socket.SOCK_STREAM) as stranger:
            stranger.settimeout(0.5)
            with pytest.raises(TimeoutError):
                stranger.connect((ADDRESS, 22))
    finally:
        segment.close()
        server("nft", "flush", "ruleset")


@pytest.fixture
def kea(server: Booted, tmp_path: Path) -> Iterator[None]:
    """Kea answers."""
    configure(server, tmp_path / "kea", boot_server_dhcp_server="kea")
    yield
    configure(server, tmp_path / "dnsmasq")


def test_kea_takes_another_configuration_and_keeps_leases(
    server: Booted, kea: None, segment: Segment, tmp_path: Path
) -> None:
    """A reload, one with a file that Kea refuses, a kill, and a start."""
    machine = dhcp.http("52:54:00:03:00:01")
    first = segment.request(machine, segment.discover(machine)[0])
    process = main_process(server, KEA)
    lay_down(tmp_path / "other", boot_server_dhcp_server="kea", boot_server_default="server")
    text = (tmp_path / "other" / KEA_FILE).read_text()
    server.write(f"/{KEA_FILE}", text)
    server("systemctl", "reload", KEA)
    wait_for(lambda: OTHER_URL in [offer.boot for offer in segment.discover(machine)], "the other configuration")
    assert main_process(server, KEA) == process
    assert segment.discover(machine)[0].address == first.address
    server.write(f"/{KEA_FILE}", text.replace('"subnet4"', '"subnet44"'))
    assert server.ask("systemctl", "reload", KEA).returncode != 0
    assert segment.discover(machine)[0].boot == OTHER_URL
    server.write(f"/{KEA_FILE}", text)
    server("systemctl", "kill", "--signal=KILL", KEA)
    wait_for(lambda: main_process(server, KEA) not in ("0", process) and server.state(KEA) == "active", "another start")
    wait_for_ports(server)
    answer = segment.remember(machine, first.address)
    assert answer is not None
    assert (answer.kind, answer.address) == (dhcp.ACK, first.address)
    # Nobody else gets what is lent, though this server never saw it.
    others = [dhcp.http(f"52:54:00:03:01:{number:02x}") for number in range(20)]
    assert first.address not in {each.address for each in dhcp.power_on(segment, others, over=0.2, within=3).values()}


def test_cards_of_a_host_get_its_address_one_at_a_time(server: Booted, segment: Segment, tmp_path: Path) -> None:
    """What names itself differently on the same card, as firmware and system do, is the same machine to Kea."""
    host = {"name": "paris-srv3", "macs": [KNOWN, DONE], "address": "10.9.0.19"}
    configure(server, tmp_path, boot_server_dhcp_server="kea", boot_server_hosts=[host])
    named = Machine(KNOWN, options={61: b"\xff" + bytes(range(12))})
    for machine in (dhcp.http(KNOWN), named):
        assert segment.request(machine, segment.discover(machine)[0]).address == "10.9.0.19"
    assert segment.discover(dhcp.http(DONE))[0].address != "10.9.0.19"
    configure(server, tmp_path)


def startup_of_postgresql(listener: socket.socket) -> dict[str, str]:
    """What a client of PostgreSQL says of itself; then it is told that the server goes down (protocol 3.0).

    TLS is refused, and a password asked for in clear. A client that goes away then has said nothing.
    """
    client, _address = listener.accept()
    with client, client.makefile("rb") as stream:
        client.settimeout(5)
        while True:
            length, kind = struct.unpack(">II", stream.read(8).ljust(8, b"\0"))
            if kind not in (80877103, 80877104):
                break
            client.sendall(b"N")
        if not length:
            return {}
        words = stream.read(length - 8).rstrip(b"\0").decode().split("\0")
        client.sendall(b"R" + struct.pack(">II", 8, 3))
        _type, length = struct.unpack(">cI", stream.read(5))
        password = stream.read(length - 4).rstrip(b"\0").decode()
        fields = b"SFATAL\0C57P03\0Mgoing down\0\0"
        client.sendall(b"E" + struct.pack(">I", 4 + len(fields)) + fields)
        return {**dict(zip(words[::2], words[1::2], strict=True)), "password": password}


@pytest.mark.parametrize("authority_file", [None, "/etc/kea/vauban/authority.pem"])
def test_kea_signs_in_at_the_database_of_leases(
    server: Booted, network: Lab, authority: Authority, tmp_path: Path, authority_file: str | None
) -> None:
    """What it would have to trust without TLS it gives no name nor password if an authority is named."""
    described = {"type": "postgresql", "host": "10.9.0.50", "port": 15432, "name": "leases", "user": "kea"}
    if authority_file is not None:
        described["authority"] = authority_file
        server.write(authority_file, authority.pem.decode())
    server.write(f"/{PASSWORD_FILE}", json.dumps(PASSWORD), mode="0640", owner="root:_kea")
    with network.socket("client", socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("10.9.0.50", 15432))
        listener.listen()
        listener.settimeout(30)
        changes = {"boot_server_dhcp_server": "kea", "boot_server_lease_database": described}
        configure(server, tmp_path / "kea", wait=False, **changes)
        told = startup_of_postgresql(listener)
    if authority_file is None:
        assert (told["user"], told["database"], told["password"]) == ("kea", "leases", PASSWORD)
    else:
        assert told == {}
    assert PASSWORD not in server("journalctl", "--no-pager", f"--unit={KEA}")
    configure(server, tmp_path / "dnsmasq")


@pytest.fixture(scope="module")
def played(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The role, applied to the tree twice."""
    directory = tmp_path_factory.mktemp("role")
    printed = []
    for _attempt in range(2):
        done = play_roles(directory, tree, "boot_server", **VARIABLES)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    return directory / "layer/upper", printed[0], printed[1]


def test_role_lays_down_what_was_tested_and_is_idempotent(played: tuple[Path, str, str], tmp_path: Path) -> None:
    layer, first, second = played
    assert not re.search(r"changed=0\b", first)
    assert re.search(r"changed=0\b.*failed=0\b", second)
    lay_down(tmp_path / "expected")
    expected = [path for path in (tmp_path / "expected").rglob("*") if path.is_file()]
    assert len(expected) > 5
    for path in expected:
        place = layer / path.relative_to(tmp_path / "expected")
        assert place.read_bytes() == path.read_bytes(), place
    assert re.search("^boot-dhcp:x:203:203:", (layer / "etc/passwd").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boot_server_default": "none-such"}, "boot_server_default: no installer none-such"),
        ({"boot_server_mode": "both"}, "value of boot_server_mode must be one of"),
        ({"boot_server_networks": []}, "boot_server_networks: needed in mode dhcp"),
        (
            {"boot_server_mode": "proxy", "boot_server_dhcp_server": "kea"},
            "boot_server_dhcp_server: Kea knows no ProxyDHCP",
        ),
        ({"boot_server_lease_database_password": "it's"}, "boot_server_lease_database_password: has a space, an"),
    ],
)
def test_role_names_a_wrong_variable(tree: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    done = play_roles(tmp_path, tree, "boot_server", **{**VARIABLES, **changes})
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not (tmp_path / "layer/upper/etc/vauban/boot_server/dnsmasq.conf").exists()


def play_on(machine: Booted, directory: Path, *, fails: bool = False, **variables: Any) -> str:
    """Apply the role to a running machine, and say what ansible-playbook printed."""
    host = {
        "ansible_connection": "entered",
        "ansible_host": machine.pid,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    every = {**host, **VARIABLES, "boot_server_packages": [], "boot_server_kea_packages": [], **variables}
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"boot": every}}}))
    roles = ["vauban.fleet.boot_server"]
    (directory / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": roles}]))
    plugins = str(Path(dhcp.__file__).parent / "connection")
    words = ("-i", "hosts.json", "play.json", "--diff")
    done = ansible_playbook(directory, *words, ANSIBLE_CONNECTION_PLUGINS=plugins)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr + machine.journal()
    return done.stdout + done.stderr


def test_role_makes_a_boot_server_of_a_running_debian(tree: Path, authority: Authority, tmp_path: Path) -> None:
    """Everything but the installation of packages; handlers put into force what changed, and nothing else."""
    source = write_release(tmp_path / "release", "gateway", "0.1.0")
    (tmp_path / "ipxe").write_bytes(TFTP_FILE)
    files = {
        "boot_server_releases": [str(source)],
        "boot_server_tftp_files": [{"name": "ipxe.efi", "src": str(tmp_path / "ipxe")}],
    }
    certificate = authority.issue(NAME, ec_key(P256))
    with booted("debian", (tree,), tmp_path / "machine") as machine:
        machine("ip", "link", "add", "lan", "type", "veth", "peer", "name", "wire")
        machine("install", "-d", "-m", "0750", "-g", "www-data", "/var/lib/vauban/https")
        machine.write("/var/lib/vauban/https/certificate.pem", certificate.pem.decode())
        machine.write(
            "/var/lib/vauban/https/key.pem", pem(certificate.key).decode(), mode="0640", owner="root:www-data"
        )
        play_on(machine, tmp_path, **files)
        assert [machine.state(unit) for unit in UNITS] == ["active", "active"]
        assert (machine.root / "srv/vauban/tftp/ipxe.efi").read_bytes() == TFTP_FILE
        fetched = machine(
            "python3", "-c", f"import urllib.request as r; print(len(r.urlopen('http://127.0.0.1{INSTALLER}').read()))"
        )
        assert int(fetched) == (source / "gateway_0.1.0_installer.efi").stat().st_size
        before = [main_process(machine, unit) for unit in UNITS]
        assert re.search(r"changed=0\b", play_on(machine, tmp_path, **files))
        assert [main_process(machine, unit) for unit in UNITS] == before
        play_on(machine, tmp_path, **files, boot_server_default="")
        after = [main_process(machine, unit) for unit in UNITS]
        assert after[0] not in ("0", before[0])
        assert after[1] == before[1]  # it may be sending
        assert "tag:!own" not in (machine.root / "etc/vauban/boot_server/dnsmasq.conf").read_text()


# What only Kea itself finds out: this address is that of all.
REFUSED: dict[str, Any] = {
    "boot_server_networks": [{"network": "255.255.255.0/24", "first": "255.255.255.1", "last": "255.255.255.9"}],
    "boot_server_hosts": [{"name": "paris-srv1", "macs": [KNOWN], "address": "255.255.255.255"}],
}


def test_role_lets_kea_answer_in_the_place_of_dnsmasq_and_back(tree: Path, tmp_path: Path) -> None:
    with booted("kea", (tree,), tmp_path / "machine") as machine:
        machine("ip", "link", "add", "lan", "type", "veth", "peer", "name", "wire")
        for end in ("lan", "wire"):
            machine("ip", "link", "set", end, "up")
        machine("ip", "address", "add", f"{ADDRESS}/22", "dev", "lan")
        sockets = Path(f"/proc/{machine.pid}/net/udp")
        without = {"boot_server_certificate": ""}
        play_on(machine, tmp_path, **without)
        assert machine.state(KEA) == "inactive"
        given = {**without, "boot_server_dhcp_server": "kea"}
        play_on(machine, tmp_path, **given)
        assert [machine.state(unit) for unit in ANSWERING.values()] == ["active", "active"]
        # The port is that of Kea on one address; dnsmasq would take it on all.
        wait_for(lambda: "0100090A:0043" in sockets.read_text(), "Kea listens")
        assert "00000000:0043" not in sockets.read_text()
        assert re.search(r"changed=0\b", play_on(machine, tmp_path, **given))
        # What Kea refuses takes nobody's place.
        before, process = (machine.root / KEA_FILE).read_bytes(), main_process(machine, KEA)
        said = play_on(machine, tmp_path, fails=True, **given, **REFUSED)
        assert f"/{KEA_FILE}: refused by" in said
        assert "255.255.255.255" in said
        assert ((machine.root / KEA_FILE).read_bytes(), main_process(machine, KEA)) == (before, process)
        assert [path.name for path in (machine.root / KEA_FILE).parent.iterdir()] == ["kea-dhcp4.conf"]
        database = {"type": "mysql", "host": ADDRESS, "name": "leases", "user": "kea"}
        said = play_on(
            machine,
            tmp_path,
            **given,
            boot_server_lease_database=database,
            boot_server_lease_database_password=PASSWORD,
        )
        assert PASSWORD not in said
        assert PASSWORD not in (machine.root / KEA_FILE).read_text()
        secret = machine.root / PASSWORD_FILE
        assert json.loads(secret.read_text()) == PASSWORD
        assert machine("stat", "--format=%a %U %G", f"/{PASSWORD_FILE}").split() == ["640", "root", "_kea"]
        play_on(machine, tmp_path, **without)
        assert [machine.state(unit) for unit in ANSWERING.values()] == ["active", "inactive"]
        assert not secret.exists()
        assert not (machine.root / KEA_FILE).exists()
        wait_for(lambda: "00000000:0043" in sockets.read_text(), "dnsmasq listens")


def test_role_puts_no_password_into_an_image(tree: Path, tmp_path: Path) -> None:
    database = {"type": "postgresql", "host": "leases.example.org", "name": "leases", "user": "kea"}
    changes = {"boot_server_dhcp_server": "kea", "boot_server_lease_database": database}
    password = {"boot_server_lease_database_password": PASSWORD}
    done = play_roles(tmp_path, tree, "boot_server", "confinement", **{**VARIABLES, **changes, **password})
    assert done.returncode == 0, done.stdout + done.stderr
    layer = tmp_path / "layer/upper"
    assert "leases.example.org" in (layer / KEA_FILE).read_text()
    assert not (layer / PASSWORD_FILE).exists()
    refused = play_roles(tmp_path, tree, "boot_server", **{**VARIABLES, **changes, **REFUSED})
    assert refused.returncode != 0
    assert f"/{KEA_FILE}: refused by" in refused.stdout


# The other server of the segment stays until the end, so these come last.


@pytest.fixture(scope="module")
def proxy(server: Booted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Mode proxy, beside the DHCP server of a site that knows nothing of booting."""
    directory = tmp_path_factory.mktemp("proxy")
    configure(server, directory, boot_server_mode="proxy")
    options = ["--dhcp-range=10.9.2.1,10.9.2.200,255.255.252.0,1h", "--no-ping", "--leasefile-ro", "--port=0"]
    command = ["ip", "netns", "exec", "other", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", *options]
    sockets = ["ip", "netns", "exec", "other", "cat", "/proc/net/udp"]
    with server.running(*command, "--user=root", "--log-facility=-", log=directory / "log"):
        wait_for(lambda: ":0043 " in server(*sockets), "the other server listens")
        yield
    configure(server, directory)


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith(("HTTP", "iPXE"))])
def test_proxy_adds_the_url_to_an_offer_of_another_server(proxy: None, segment: Segment, case: str) -> None:
    told = CASES[case]
    offers = segment.discover(told.machine, wanted=3, within=0.5)
    addresses = [offer for offer in offers if offer.address != "0.0.0.0"]
    ours = [offer for offer in offers if offer.server == ADDRESS]
    assert [offer.server for offer in addresses] == ["10.9.0.2"]
    assert [offer.boot for offer in ours if offer.boot] == ([told.boot] if told.boot else [])
    assert {offer.options[60] for offer in ours} <= {str(told.machine.kind).encode()}


@pytest.mark.parametrize("case", ["PXE", "PXE, the other number", "PXE, by MAC", "PXE, nothing by MAC"])
def test_proxy_names_the_file_to_firmware_that_asks_it(proxy: None, network: Lab, segment: Segment, case: str) -> None:
    """As firmware goes about it: an address from one server, then a request to the other at port 4011."""
    told = CASES[case]
    offers = segment.discover(told.machine, wanted=3, within=0.5)
    assert [offer.server for offer in offers if offer.address != "0.0.0.0"] == ["10.9.0.2"]
    ours = [offer for offer in offers if offer.server == ADDRESS]
    if not told.boot:
        assert [offer.boot for offer in ours if offer.boot] == []
        return
    assert [offer.options[60] for offer in ours] == [b"PXEClient"]
    with network.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        asking.bind(("10.9.0.50", 68))
        asking.sendto(dhcp.message(told.machine, dhcp.REQUEST, 8, "10.9.0.50"), (ADDRESS, 4011))
        answer = dhcp.parse(*asking.recvfrom(2048))
    assert (answer.kind, answer.boot, answer.next_server) == (dhcp.ACK, told.boot, ADDRESS)


def test_proxy_leaves_machines_that_boot_nothing_to_the_other(proxy: None, segment: Segment) -> None:
    offers = segment.discover(Machine(STRANGER), wanted=2, within=0.5)
    assert [(offer.server, offer.boot) for offer in offers] == [("10.9.0.2", "")]
