# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tunnels outlive what happens to machines. Losses are counted and printed: pytest -rP shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

TARGET, PORT = "10.69.1.20", 443
COUNTER = """add table inet count {
  counter got { }
  chain in { type filter hook input priority 100; udp dport 443 counter name got; }
}"""
PER_SECOND = 5


@pytest.fixture
def stream(ask: Any, inside: Any) -> Iterator[Callable[[], tuple[int, int]]]:
    """Datagrams from the client to the collector, five a second; gives how many were sent and how many arrived."""
    inside("collector", "high", f"nft '{COUNTER}'")
    script = (
        f"n=0; while echo $((n+=1)) > /run/sent; do echo x > /dev/udp/{TARGET}/{PORT}; sleep {1 / PER_SECOND}; done"
    )
    ask("client", f"systemd-run --unit=stream --property=NetworkNamespacePath=/run/netns/high bash -c '{script}'")

    def count() -> tuple[int, int]:
        listed = inside("collector", "high", "nft --json list counter inet count got")["nftables"]
        (arrived,) = [entry["counter"]["packets"] for entry in listed if "counter" in entry]
        return int(ask("client", "cat /run/sent")), int(arrived)

    yield count
    ask("client", "systemctl stop stream.service")
    inside("collector", "high", "nft delete table inet count")


@contextmanager
def losses(stream: Callable[[], tuple[int, int]], what: str) -> Iterator[None]:
    """Print how many datagrams did not arrive until they do again."""
    _flows(stream, 60)
    sent, arrived = stream()
    start = time.monotonic()
    yield
    seconds = _flows(stream, 180) - start
    after = stream()
    lost = (after[0] - sent) - (after[1] - arrived)
    print(f"{what}: {lost} of {after[0] - sent} datagrams lost, flowing again after {seconds:.0f} s")


def _flows(stream: Callable[[], tuple[int, int]], seconds: float) -> float:
    """When datagrams arrive; the moment of it."""
    deadline = time.monotonic() + seconds
    arrived = stream()[1]
    while (now := stream()[1]) < arrived + PER_SECOND:
        assert time.monotonic() < deadline, f"nothing arrives for {seconds} s"
        arrived = min(arrived, now)
        time.sleep(0.5)
    return time.monotonic()


def test_killed_daemon_of_a_client(ask: Any, stream: Any) -> None:
    with losses(stream, "kill -9 of the client's charon"):
        ask("client", "systemctl kill --signal=KILL strongswan.service")
        time.sleep(2)


def test_killed_daemon_of_the_gateway(ask: Any, stream: Any) -> None:
    with losses(stream, "kill -9 of the gateway's charon"):
        ask("gateway", "systemctl kill --signal=KILL strongswan.service")
        time.sleep(2)


def test_gateway_that_forgot_everything(ask: Any, stream: Any) -> None:
    """As after a reboot: no states, no connections, another SPI."""
    with losses(stream, "gateway restarted, states forgotten"):
        for command in (
            "ip link set outer down",
            "systemctl kill --signal=KILL strongswan.service",
            "sh -c 'sleep 2; ip xfrm state flush; ip xfrm policy flush'",
            "systemctl restart strongswan.service",
            "ip link set outer up",
            "networkctl reconfigure outer",
        ):
            ask("gateway", command)


def test_address_of_a_client_changes(ask: Any, stream: Any) -> None:
    """MOBIKE (RFC 4555)."""
    with losses(stream, "new address of the client"):
        ask("client", "sh -c 'ip address add 192.0.2.31/24 dev outer; ip address del 192.0.2.30/24 dev outer'")
    assert "192.0.2.31" in ask("gateway", "swanctl --list-sas --ike client")
    ask("client", "sh -c 'ip address add 192.0.2.30/24 dev outer; ip address del 192.0.2.31/24 dev outer'")
