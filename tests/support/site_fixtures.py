# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenarios of a whole site: its plan, its namespaces, its packets, and the wire between its machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wire import Wire

from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import segment_address
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

# Sees packets before any rule, and after all rules have let them in. Other tables are as they were.
PROBE = """
destroy table inet probe
table inet probe {
  set arrived { typeof ip saddr . ip daddr . meta l4proto . th dport; flags dynamic; size 65535; }
  set arrived6 { typeof ip6 saddr . ip6 daddr . meta l4proto . th dport; flags dynamic; size 65535; }
  set accepted { typeof ip saddr . ip daddr . meta l4proto . th dport; flags dynamic; size 65535; }
  set accepted6 { typeof ip6 saddr . ip6 daddr . meta l4proto . th dport; flags dynamic; size 65535; }
  chain before {
    type filter hook prerouting priority -400;
    meta l4proto { tcp, udp } add @arrived { ip saddr . ip daddr . meta l4proto . th dport }
    meta l4proto { tcp, udp } add @arrived6 { ip6 saddr . ip6 daddr . meta l4proto . th dport }
  }
  chain after {
    type filter hook input priority 100;
    ct state != new accept
    meta l4proto { tcp, udp } add @accepted { ip saddr . ip daddr . meta l4proto . th dport }
    meta l4proto { tcp, udp } add @accepted6 { ip6 saddr . ip6 daddr . meta l4proto . th dport }
  }
}
"""
# What speaks without being asked. A message would start rsyslog again through its socket.
SPEAKERS = "syslog.socket rsyslog.service chrony.service"
Ask = Callable[..., Any]
Packet = tuple[str, str, str, int]  # source, destination, protocol, port


@pytest.fixture(scope="session")
def scenario(request: pytest.FixtureRequest) -> Path:
    """Where the scenario keeps what it made."""
    return Path(request.config.getoption("--ansible-inventory")).resolve().parent


@pytest.fixture(scope="session")
def plan(scenario: Path) -> Plan:
    """The site as the model understands it."""
    (path,) = (scenario / "site").glob("*.site.yml")
    return load(path).plan


@pytest.fixture(scope="session")
def wire(scenario: Path) -> Iterator[Wire]:
    """A card on the segment that all machines are on."""
    with Wire(*segment_address(str(scenario / "lan"))) as opened:
        yield opened


@pytest.fixture(scope="session")
def inside(ask: Ask) -> Ask:
    """Gives what a command prints in the namespace of a tunnel, or in that of the host."""

    def run(name: str, tunnel: str | None, command: str) -> Any:
        return ask(name, f"ip netns exec {tunnel} {command}" if tunnel else command)

    return run


@pytest.fixture(scope="session")
def watch(inside: Ask) -> Callable[[str, str | None], None]:
    """Starts to record what reaches a namespace."""

    def start(name: str, tunnel: str | None) -> None:
        inside(name, tunnel, f"nft '{PROBE}'")

    return start


@pytest.fixture(scope="session")
def seen(inside: Ask) -> Callable[..., set[Packet]]:
    """What has reached a namespace since :func:`watch`: all, or what its rules accepted."""

    def read(name: str, tunnel: str | None, kind: str = "accepted") -> set[Packet]:
        found: set[Packet] = set()
        for each in (kind, f"{kind}6"):
            (listed,) = [
                entry["set"]
                for entry in inside(name, tunnel, f"nft --json list set inet probe {each}")["nftables"]
                if "set" in entry
            ]
            for element in listed.get("elem", []):
                source, destination, protocol, port = element["concat"]
                found.add((source, destination, {6: "tcp", 17: "udp"}[protocol], port))
        return found

    return read


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Waits until something is true."""

    def wait(true: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
            time.sleep(1)
        return found

    return wait


@pytest.fixture(scope="session")
def sas(ask: Ask) -> Callable[[str], list[dict[str, str]]]:
    """The kernel's IPsec states of a machine."""

    def read(name: str) -> list[dict[str, str]]:
        return _states(ask(name, "ip -d -s xfrm state"))

    return read


def _states(text: str) -> list[dict[str, str]]:
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("src "):
            blocks.append([])
        blocks[-1].append(line.strip())
    return [{"text": " ".join(block), "ends": block[0]} for block in blocks]
