#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What many machines that update themselves cost their server: CPU, bytes, failures, beside a plain nginx.

usage: tests/bench/updates.py [--clients N] [--bundle MIB] [--rounds N]

The server is the SDK's tree, booted, as playbook release leaves it: nginx under its confinement, and the journal, which
takes what machines say of themselves. The plain server is a second nginx in the same machine, with the same files and
the same certificate, and the log of accesses that Debian's configuration has. Clients ask both in turn, each from an
address of its own, and each file by a connection of its own, as curl does: first what the channel offers, by all of
them; then manifest, signature and bundle.

CPU time is that of the control groups of nginx and, for ours, of the journal. Not measured: disks and a network.
Clients and servers share the processors, so that the wall time is that of both.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from build import ROOT

sys.path.insert(0, str(ROOT / "build/collections"))
sys.path.insert(0, str(ROOT / "roles/enrolment/files/python"))
sys.path.insert(0, str(ROOT / "tests/support"))

import offering
from booted import Booted
from hosts import wait_for
from lab import within
from offering import NAME
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

OURS, PLAIN = 443, 8443
UNITS = {OURS: ("nginx.service", "systemd-journald.service"), PLAIN: ("plain.service",)}
CHANNEL = "/update/v1/server/stable.p7m"
WORKERS = 8


@dataclass(frozen=True)
class Round:
    """What one round of all clients was.

    :param wall: seconds.
    :param cpu: seconds of the server.
    :param received: bytes of all clients, with headers.
    """

    requests: int
    wall: float
    cpu: float
    received: int
    failures: Counter[str]


class Bench:
    """The machine, and clients that believe its authority."""

    def __init__(self, machine: Booted) -> None:
        self.machine, self.namespace = machine, Path(f"/proc/{machine.pid}/ns/net")
        self.trust = ssl.create_default_context(cafile=str(machine.root / "tmp/authority.pem"))
        self.trust.minimum_version = ssl.TLSVersion.TLSv1_3

    def used(self, port: int) -> float:
        """CPU seconds of a server so far."""
        groups = self.machine.root / "sys/fs/cgroup/system.slice"
        return sum(int((groups / unit / "cpu.stat").read_text().split()[1]) / 1e6 for unit in UNITS[port])

    def get(self, client: int, port: int, path: str) -> int:
        """Bytes of one answer, which has to be whole."""
        agent = f"vauban-update/1 product=server version=0.9 machine={client:032x} since=- trial=no last=ok"
        request = f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
        source = f"127.{1 + client // 62500}.{client // 250 % 250}.{1 + client % 250}"
        buffer, head, received = bytearray(1 << 20), b"", 0
        plain = socket.create_connection(("127.0.0.1", port), timeout=120, source_address=(source, 0))
        with self.trust.wrap_socket(plain, server_hostname=NAME) as made:
            made.sendall(request.encode())
            while count := made.recv_into(buffer):
                if b"\r\n\r\n" not in head:
                    head += bytes(buffer[:count])
                received += count
        lines, _empty, _body = head.partition(b"\r\n\r\n")
        if b" 200 " not in lines.partition(b"\r\n")[0] + b" ":
            raise OSError(lines.partition(b"\r\n")[0].decode() or "no answer")
        length = next(
            int(line.split()[1]) for line in lines.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        if received != len(lines) + 4 + length:
            raise OSError("cut short")
        return received

    def round(self, clients: int, port: int, paths: Sequence[str]) -> Round:
        """Every client asks for every path."""
        failures: Counter[str] = Counter()

        def one(client: int) -> int:
            try:
                return sum(self.get(client, port, path) for path in paths)
            except (OSError, StopIteration) as exc:
                failures[f"{type(exc).__name__}: {exc}"] += 1
                return 0

        def every() -> int:
            with ThreadPoolExecutor(WORKERS) as pool:
                return sum(pool.map(one, range(clients)))

        cpu, begin = self.used(port), time.monotonic()
        received = within(self.namespace, every)
        wall = time.monotonic() - begin
        time.sleep(1)  # the journal writes what it has
        return Round(clients * len(paths), wall, self.used(port) - cpu, received, failures)


def plain_nginx(machine: Booted) -> None:
    """Beside ours: what of Debian's configuration concerns files, sendfile and the log of accesses."""
    text = f"""daemon off; pid /run/plain.pid; error_log stderr; worker_processes auto; user www-data;
events {{ worker_connections 768; }}
http {{ access_log /var/log/plain.log; sendfile on; tcp_nopush on; server {{ listen {PLAIN} ssl; root /srv/vauban;
ssl_certificate /var/lib/vauban/https/certificate.pem; ssl_certificate_key /var/lib/vauban/https/key.pem;
ssl_protocols TLSv1.3; }} }}
"""
    machine.write("/run/plain.conf", text)
    machine.write("/run/systemd/system/plain.service", "[Service]\nExecStart=/usr/sbin/nginx -c /run/plain.conf\n")
    machine("systemctl", "daemon-reload")
    machine("systemctl", "start", "plain.service")
    wait_for(lambda: f":{PLAIN:04X} " in Path(f"/proc/{machine.pid}/net/tcp").read_text(), "the plain server")


def compare(bench: Bench, name: str, clients: int, paths: Sequence[str], rounds: int) -> None:
    """Print what each server gave; the best round of each, which other work on the machine disturbed least."""
    found: dict[int, list[Round]] = {OURS: [], PLAIN: []}
    for _time in range(rounds):
        for port, each in found.items():
            each.append(bench.round(clients, port, paths))
    best = {port: min(each, key=lambda one: one.cpu) for port, each in found.items()}
    for port, label in ((OURS, "ours"), (PLAIN, "plain")):
        one, failures = best[port], sum((each.failures for each in found[port]), Counter[str]())
        fastest = max(each.requests / each.wall for each in found[port])
        print(
            f"{name:9} {label:6} {rounds} x {one.requests} requests, {failures.total()} failures {dict(failures) or ''}"
            f" {1000 * one.cpu / clients:.2f} ms CPU and {one.received / clients:.0f} bytes for a client,"
            f" {one.requests / one.cpu:.0f} requests in a CPU second, {fastest:.0f} in a second",
            flush=True,
        )
    by_cpu = best[PLAIN].cpu / best[OURS].cpu
    by_wall = max(each.requests / each.wall for each in found[OURS]) / max(e.requests / e.wall for e in found[PLAIN])
    print(f"{name:9} requests beside plain nginx: {by_cpu:.2f} in a CPU second, {by_wall:.2f} in a second", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--bundle", type=int, default=8, help="MiB")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        (scratch / "scratch").mkdir()
        with offering.controller(Sandbox(SDK, scratch / "scratch"), scratch / "controller") as controller:
            release = controller.build("1.0")
            code, said = controller.play("release", "-e", "version=1.0")
            assert code == 0, said
            plain_nginx(controller.machine)
            bench = Bench(controller.machine)
            compare(bench, "poll", options.clients, [CHANNEL], options.rounds)
            place = "/releases/server/1.0"
            bundle = json.loads((release / "manifest.json").read_text())["bundle"]["file"]
            (controller.store / place[1:] / bundle).write_bytes(os.urandom(options.bundle << 20))
            paths = [f"{place}/manifest.json", f"{place}/manifest.json.p7s", f"{place}/{bundle}"]
            compare(bench, "download", options.clients, paths, options.rounds)
            begin = time.monotonic()
            code, said = controller.play("status")
            assert code == 0, said
            print(f"status: {time.monotonic() - begin:.1f} s for {options.clients} machines and all of their lines")
    print(f"load after: {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
