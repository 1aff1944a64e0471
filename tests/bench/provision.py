#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a mass power-on costs a provisioning server: CPU seconds by service and phase, lost exchanges, growth.

usage: tests/bench/provision.py [--machines N] [--fetching N] [--reports N] [--release DIRECTORY]

The server is the SDK's tree with roles boot_server, enrolment and confinement, under systemd (tests/support); CPU time
is that of its control groups. Machines are simulated in a network namespace of their own: firmware that asks by DHCP, a
hundred of them a second; then each does what the installer does, all at the same time, each exchange by a connection of
its own from its own address, with a TPM whose signatures are real and whose certificate is of a maker that the server
trusts. Only some (--fetching) fetch the installer by HTTP and the core by HTTPS, since all bytes go over the processors
that the machines run on, too.

Not measured: disks (the server's files lie in memory, so that a transaction waits for none), and a network.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build import ROOT

sys.path.insert(0, str(ROOT / "build/collections"))
sys.path.insert(0, str(ROOT / "roles/enrolment/files/python"))
sys.path.insert(0, str(ROOT / "tests/support"))

import dhcp
from booted import Booted
from endorsement import Manufacturer
from enrolment import CHAIN, INSTALLED, INSTALLER, MANIFEST, PEM, Machine, expectation, first, sign
from hosts import wait_for
from lab import within
from paper_tpm import PaperTpm
from provisioning_server import ProvisioningServer, provisioning_server
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

NAME, ADDRESS = "provision.example.org", "10.10.0.1"
NETWORK = {"network": "10.10.0.0/16", "first": "10.10.1.0", "last": "10.10.250.0"}
UNITS = (
    "boot-dhcp.service", "nginx.service", "vauban-enrolment-machines.service", "vauban-enrolment-admin.service",
    "systemd-journald.service", "plain.service",
)  # fmt: skip
PAUSES = (1, 2, 5, 10, 20, 30)  # of the installer (_install/enrolment.py)
PATIENCE = 600.0
TRANSFERS = 5
# More than one machine a second, and more than two hundred requests: the limits are not what is measured.
LIMITS = {
    "requests_per_minute": 100_000,
    "requests_per_minute_in_all": 1_000_000,
    "applications_per_minute_in_all": 100_000,
    "unproven": 100_000,
}


def services_cpu(machine: Booted) -> dict[str, float]:
    """CPU seconds of each service of a server so far."""
    groups = machine.root / "sys/fs/cgroup/system.slice"
    found = {}
    for unit in UNITS:
        stat = groups / unit / "cpu.stat"
        found[unit] = int(stat.read_text().split()[1]) / 1e6 if stat.exists() else 0.0
    return found


@dataclass
class Bench:
    """The server, the network of the machines, and what was measured."""

    server: ProvisioningServer
    namespace: Path
    exchanges: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0
    last: float = 0.0

    @property
    def machine(self) -> Booted:
        return self.server.machine

    def used(self) -> dict[str, float]:
        """CPU seconds of each service so far."""
        return services_cpu(self.machine)

    @contextmanager
    def phase(self, name: str, times: int, *, sending: bool = False) -> Iterator[None]:
        """Print what it cost, and add it to what a machine costs.

        :param times: how often something was done.
        :param sending: it is about bytes.
        """
        before, begin, exchanges = self.used(), time.monotonic(), self.exchanges.copy()
        yield
        wall, after = time.monotonic() - begin, self.used()
        spent = {unit: after[unit] - before[unit] for unit in UNITS}
        total, new = sum(spent.values()), self.exchanges - exchanges
        parts = [f"{unit.partition('.')[0]} {value:.2f}" for unit, value in spent.items() if value >= 0.01]
        parts += [f"{number} {what}" for what, number in new.items()]
        print(
            f"{name:14}{times:6} x {1000 * total / times:6.1f} ms CPU, {wall:5.1f} s  ({', '.join(parts)})", flush=True
        )
        self.last = total
        if not sending:
            self.cost += total


async def exchange(bench: Bench, machine: Machine, method: str, path: str, body: Any = None, kind: str = "") -> bytes:
    """Ask as the installer does: again, if the server has no time or cannot be reached."""
    content = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
    head += f"Content-Type: {kind or 'application/json'}\r\n" if content else ""
    head += f"Authorization: Bearer {machine.token}\r\n" if machine.token else ""
    request = head.encode() + b"\r\n" + content
    context = _SHOWING.get(machine.serial) or trust(bench)
    end, tries = time.monotonic() + PATIENCE, 0
    while True:
        status, answer = await _once(context, machine.address, request)
        bench.exchanges["exchanges"] += 1
        if 200 <= status < 300:
            return answer
        bench.exchanges[f"answered {status}" if status else "no answer"] += 1
        if status not in (0, 429, 503) or time.monotonic() > end:
            bench.exchanges["lost"] += 1
            raise RuntimeError(f"{method} {path}: {status} {answer[:200]!r}")
        await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
        tries += 1


async def _once(context: ssl.SSLContext, address: str, request: bytes) -> tuple[int, bytes]:
    options: dict[str, Any] = {"ssl": context, "server_hostname": NAME, "local_addr": (address, 0)}
    try:
        reader, writer = await asyncio.open_connection(ADDRESS, 443, **options)
        try:
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(-1), 90)
        finally:
            writer.close()
    except (OSError, TimeoutError):
        return 0, b""
    head, _empty, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


_CONTEXTS: dict[Path, ssl.SSLContext] = {}


def trust(bench: Bench) -> ssl.SSLContext:
    """What the installer trusts."""
    path = bench.server.authority
    if path not in _CONTEXTS:
        _CONTEXTS[path] = ssl.create_default_context(cafile=str(path))
    return _CONTEXTS[path]


# Of machines that have a certificate, by serial number.
_SHOWING: dict[str, ssl.SSLContext] = {}


def showing(bench: Bench, machine: Machine) -> ssl.SSLContext:
    """The same, of a machine that has a certificate, and its key."""
    context = ssl.create_default_context(cafile=str(bench.server.authority))
    with tempfile.NamedTemporaryFile() as file:
        file.write(machine.identity())
        file.flush()
        context.load_cert_chain(file.name)
    return context


# What the machines do.


async def apply(bench: Bench, machine: Machine) -> None:
    answer = json.loads(await exchange(bench, machine, "POST", "/v1/enrolments", machine.application()))
    machine.id, machine.token = answer["id"], answer["token"]
    proof = machine.proof(answer["challenge"], INSTALLER)
    await own(bench, machine, "POST", "proof", proof)
    await own(bench, machine, "GET", "installation")


async def own(bench: Bench, machine: Machine, method: str, path: str, body: Any = None, kind: str = "") -> bytes:
    return await exchange(bench, machine, method, f"/v1/enrolments/{machine.id}/{path}", body, kind)


async def request(bench: Bench, machine: Machine) -> None:
    name = f"{machine.serial}.example"
    await own(bench, machine, "PUT", "requests/hosts", machine.request(subject=name, dns=[name]), PEM["Content-Type"])


async def fetch_certificate(bench: Bench, machine: Machine) -> None:
    machine.certificate = first((await own(bench, machine, "GET", "certificates/hosts")).decode())
    _SHOWING[machine.serial] = showing(bench, machine)


async def escrow(bench: Bench, machine: Machine) -> None:
    await own(bench, machine, "POST", "reports", _report("partition", 5))
    machine.receipt = json.loads(await own(bench, machine, "PUT", "escrow", machine.escrow_body()))["receipt"]


def _report(phase: str, percent: int, **evidence: Any) -> dict[str, Any]:
    return {"phase": phase, "percent": percent, "line": f"doing {phase}", "evidence": evidence}


async def report(bench: Bench, machine: Machine) -> None:
    await own(bench, machine, "POST", "reports", _report("download", 50))


async def finish(bench: Bench, machine: Machine) -> None:
    tokens, slots = ["systemd-recovery", "systemd-tpm2"], ["1", "2"]
    evidence = {"receipt": machine.receipt["sha256"], "manifest_sha256": MANIFEST, "tokens": tokens, "key_slots": slots}
    await own(bench, machine, "POST", "reports", _report("written", 100, **evidence))


async def attest(bench: Bench, machine: Machine) -> None:
    assert machine.tpm is not None
    _SHOWING.pop(machine.serial)  # the installed machine has other uses for its keys
    nonce = json.loads(await own(bench, machine, "GET", "nonce"))["nonce"]
    body = {"nonce": nonce, **machine.tpm.quote(nonce, INSTALLED)}
    assert json.loads(await own(bench, machine, "POST", "attestation", body))["state"] == "installed"


def all_at_once(
    bench: Bench, machines: list[Machine], step: Callable[[Bench, Machine], Awaitable[None]]
) -> list[Machine]:
    """Let all machines take a step; those that could. What others ran into is printed."""

    async def every() -> list[BaseException | None]:
        return await asyncio.gather(*(step(bench, machine) for machine in machines), return_exceptions=True)

    results = within(bench.namespace, lambda: asyncio.run(every()))
    for failure, times in Counter(repr(each) for each in results if each is not None).items():
        print(f"  {times} times: {failure}")
    return [machine for machine, failure in zip(machines, results, strict=True) if failure is None]


def fetch(bench: Bench, addresses: list[str], path: str, *, port: int, tls: bool, size: int) -> float:
    """Let machines fetch a file, as many at the same time as there are processors; bytes per second of all."""

    def one(address: str) -> None:
        plain = socket.create_connection((ADDRESS, port), source_address=(address, 0))
        made = trust(bench).wrap_socket(plain, server_hostname=NAME) if tls else plain
        with made:
            made.sendall(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
            # What is received is not looked at; without TLS the kernel need not even copy it.
            buffer, received = bytearray(1 << 20), 0
            flags = () if tls else (0, socket.MSG_TRUNC)
            while count := made.recv_into(buffer, *flags):
                received += count
            assert received > size, received

    def every() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, addresses))

    begin = time.monotonic()
    within(bench.namespace, every)
    bench.exchanges["fetched"] += len(addresses)
    return size * len(addresses) / (time.monotonic() - begin)


def power_on(bench: Bench, number: int) -> list[str]:
    """The addresses that machines get by DHCP."""
    segment = within(bench.namespace, lambda: dhcp.Segment(socket.socket, "eth0"))
    machines = [dhcp.http(mac(each)) for each in range(number)]
    try:
        got = dhcp.power_on(segment, machines, over=number / 100, within=number / 100 + 20)
    finally:
        segment.close()
    bench.exchanges["no address"] += number - len(got)
    return [got[machine.mac].address for machine in machines if machine.mac in got]


def mac(number: int) -> str:
    return f"52:54:00:0{number >> 16:x}:{number >> 8 & 255:02x}:{number & 255:02x}"


def make_machines(bench: Bench, maker: Manufacturer, addresses: list[str]) -> list[Machine]:
    """One for each address, with a TPM of that maker; none of them has a client of its own."""
    made = []
    for number, address in enumerate(addresses):
        tpm = PaperTpm()
        usage = {"key_encipherment": False, "key_agreement": True}
        tpm.certificate = maker.vouch(tpm.ek_key.public_key(), usage=usage)
        machine = Machine(None, None, f"s{number}", mac(number), address)  # type: ignore[arg-type]
        machine.tpm = tpm  # type: ignore[assignment]
        made.append(machine)
    return made


def declare(bench: Bench, machine: Machine) -> None:
    """Tell the server what is expected, as the controller does."""
    name = f"{machine.serial}.example"
    wanted = expectation(admit="serial", ek_sha256=None, ek_certificate=True, serial=machine.serial, macs=[machine.mac])
    wanted["certificates"] = [{"name": "hosts", "subject": name, "dns": [name]}]
    bench.server.put(f"hosts/{machine.serial}", wanted)


def sign_all(bench: Bench, certificates: dict[str, str]) -> None:
    """Fetch the requests, and answer each; making the certificates is the controller's work, and not counted."""
    for each in bench.server.admin.get("/admin/v1/requests").json():
        if each["host"] not in certificates:
            certificates[each["host"]] = sign(each["request"], [f"{each['host']}.example"])
        path = f"/admin/v1/certificates/{each['host']}/hosts"
        assert bench.server.admin.put(path, content=certificates[each["host"]], headers=CHAIN).status_code == 204


def plain_nginx(bench: Bench) -> None:
    """Beside ours, with the same certificate: a web server as Debian's manual page begins, and sendfile."""
    machine = bench.machine
    text = """daemon off; pid /run/plain.pid; error_log stderr; worker_processes auto;
events { worker_connections 1024; }
http { access_log off; sendfile on; tcp_nopush on; server { listen 8443 ssl; listen 8080; root /srv/vauban;
ssl_certificate /var/lib/vauban/https/certificate.pem; ssl_certificate_key /var/lib/vauban/https/key.pem;
ssl_protocols TLSv1.3; } }
"""
    machine.write("/run/plain.conf", text)
    machine.write("/run/systemd/system/plain.service", "[Service]\nExecStart=/usr/sbin/nginx -c /run/plain.conf\n")
    machine("systemctl", "daemon-reload")
    machine("systemctl", "start", "plain.service")
    wait_for(lambda: ":20FB " in Path(f"/proc/{machine.pid}/net/tcp").read_text(), "the plain server")


def memory(bench: Bench) -> str:
    """Resident memory of the services' main processes, and the size of the database."""
    found = []
    for unit in UNITS[:-1]:
        pid = bench.machine("systemctl", "show", "--value", "--property=MainPID", unit).strip()
        line = next(each for each in bench.machine("cat", f"/proc/{pid}/status").splitlines() if "VmRSS" in each)
        found.append(f"{unit.partition('.')[0]} {int(line.split()[1]) / 1024:.0f} MiB")
    database = (bench.machine.root / "var/lib/enrolment").glob("enrolment.sqlite*")
    found.append(f"database {sum(each.stat().st_size for each in database) / 2**20:.1f} MiB")
    return ", ".join(found)


def run(bench: Bench, maker: Manufacturer, release: Path, options: argparse.Namespace) -> None:
    number, ip = options.machines, ["ip", "-netns", "machines"]
    bench.machine("ip", "netns", "add", "machines")
    bench.machine("ip", "link", "add", "bench", "type", "veth", "peer", "name", "eth0", "netns", "machines")
    bench.machine("ip", "address", "add", f"{ADDRESS}/16", "dev", "bench")
    for words in (["ip", "link", "set", "bench", "up"], [*ip, "link", "set", "eth0", "up"]):
        bench.machine(*words)
    print("before:", memory(bench))
    with bench.phase("DHCP", number):
        addresses = power_on(bench, number)
    lines = "".join(f"address add {address}/16 dev eth0\n" for address in addresses)
    bench.machine(*ip, "-batch", "-", stdin=lines)

    machines = make_machines(bench, maker, addresses)
    with bench.phase("declare", number):
        for machine in machines:
            declare(bench, machine)
    with bench.phase("enrol", number):
        machines = all_at_once(bench, machines, apply)
    log = bench.server.admin.get("/admin/v1/audit", params={"limit": 10_000}).json()["records"]
    for reason, times in Counter(each["detail"]["reason"] for each in log if each["action"] == "refused").items():
        print(f"refused {times} times: {reason}")
    with bench.phase("request", number):
        machines = all_at_once(bench, machines, request)
    certificates: dict[str, str] = {}
    for each in bench.server.admin.get("/admin/v1/requests").json():
        certificates[each["host"]] = sign(each["request"], [f"{each['host']}.example"])
    with bench.phase("sign", number):
        sign_all(bench, certificates)
    with bench.phase("certificate", number):
        machines = all_at_once(bench, machines, fetch_certificate)
    with bench.phase("escrow", number):
        machines = all_at_once(bench, machines, escrow)
    with bench.phase("reports", number * options.reports):
        for _time in range(options.reports):
            machines = all_at_once(bench, machines, report)
    with bench.phase("written", number):
        machines = all_at_once(bench, machines, finish)
    with bench.phase("attest", number):
        machines = all_at_once(bench, machines, attest)
    seen = bench.server.admin.get("/admin/v1/machines", params={"limit": 10_000}).json()["hosts"]
    installed = [each for each in seen if each["enrolment"] and each["enrolment"]["state"] == "installed"]
    print(f"installed: {len(installed)} of {number}")
    print("after:", memory(bench))
    print(f"besides sending bytes: {1000 * bench.cost / number:.0f} ms CPU for each machine; {dict(bench.exchanges)}")
    with bench.phase("audit", 1):
        assert bench.server.admin.get("/admin/v1/audit").json()["intact"]

    transfer(bench, addresses[: options.fetching], json.loads((release / "manifest.json").read_text()))


def transfer(bench: Bench, addresses: list[str], manifest: dict[str, Any]) -> None:
    """Fetch the installer by HTTP and the core by HTTPS, from ours and from a plain server in turn."""
    place = f"/releases/{manifest['product']}/{manifest['version']}"
    plain_nginx(bench)
    for part, tls, own_port, other_port in (("installer", False, 80, 8080), ("core", True, 443, 8443)):
        path, size = f"{place}/{manifest[part]['file']}", manifest[part]["size"]
        rates: dict[int, list[float]] = {own_port: [], other_port: []}
        costs: dict[int, list[float]] = {own_port: [], other_port: []}
        for _time in range(TRANSFERS):
            for port, found in rates.items():
                with bench.phase(f"{part} {port}", len(addresses), sending=True):
                    found.append(fetch(bench, addresses, path, port=port, tls=tls, size=size))
                costs[port].append(bench.last / len(addresses))
        own, other = (max(found) for found in rates.values())
        print(f"{part}: {own / 1e6:.0f} MB/s, plain nginx {other / 1e6:.0f} MB/s, ratio {own / other:.2f}")
        # It depends less on what else the processors do.
        own, other = (1000 * min(found) for found in costs.values())
        print(f"{part}: {own:.1f} ms CPU for each, plain nginx {other:.1f} ms, ratio {other / own:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--fetching", type=int, default=8)
    parser.add_argument("--reports", type=int, default=10)
    parser.add_argument("--release", type=Path, default=ROOT / "build/gateway/current")
    options = parser.parse_args()
    release = options.release.resolve()
    manifest = json.loads((release / "manifest.json").read_text())
    print(f"load before: {os.getloadavg()[0]:.2f}")
    maker = Manufacturer.make("Bench Maker")
    settings: dict[str, Any] = {
        "installers": [{"name": "bench", "product": manifest["product"], "version": manifest["version"]}],
        "boot_server_address": ADDRESS,
        "boot_server_interfaces": ["lan", "bench"],
        "boot_server_networks": [NETWORK],
        "enrolment_ek_authorities": [maker.pem.decode()],
        "enrolment_limits": LIMITS,
    }
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        (scratch / "scratch").mkdir()
        sandbox = Sandbox(SDK, scratch / "scratch")
        with provisioning_server(scratch / "server", sandbox=sandbox, name=NAME, **settings) as server:
            server.publish(release)
            pcrs = {"installer": INSTALLER, "installed": INSTALLED}
            server.put("releases/server/1.0", {"manifest_sha256": MANIFEST, "pcrs": pcrs})
            bench = Bench(server, server.machine.root / "run/netns/machines")
            run(bench, maker, release, options)


if __name__ == "__main__":
    main()
