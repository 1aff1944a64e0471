# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tunnels outlive what happens to machines. Losses are counted and printed: pytest -rP shows them."""

from __future__ import annotations

import base64
import re
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
REBOOT = 300  # seconds that an emulated machine may take
# Seconds, as in role strongswan.
DAY, REAUTHENTICATION, IKE, CHILD = 86400, 43200, 14400, 3600
SPREAD = {IKE: 1440, CHILD: 600}
FAST = 450
PATIENCE = {"life": 25, "over": 90}
QUICKENED = (
    "/etc/strongswan.conf",
    "/etc/swanctl/conf.d/00-profiles.conf",
    "/etc/swanctl/conf.d/connections.conf",
)
# The harness has mounts of its own.
OF_SYSTEMD = "nsenter --target=1 --mount"


@pytest.fixture
def stream(ask: Any, inside: Any) -> Iterator[Callable[[], tuple[int, int]]]:
    """Datagrams from the client to the collector, five a second; gives how many were sent and how many arrived."""
    inside("collector", "high", f"nft '{COUNTER}'")
    # Renamed, or a reader finds an empty file.
    script = (
        "n=0; while echo $((n+=1)) > /run/sending && mv /run/sending /run/sent; "
        f"do echo x > /dev/udp/{TARGET}/{PORT}; sleep {1 / PER_SECOND}; done"
    )
    ask("client", "sh -c 'echo 0 > /run/sent'")
    ask("client", f"systemd-run --unit=stream --property=NetworkNamespacePath=/run/netns/high bash -c '{script}'")

    def count() -> tuple[int, int]:
        listed = inside("collector", "high", "nft --json list counter inet count got")["nftables"]
        (arrived,) = [entry["counter"]["packets"] for entry in listed if "counter" in entry]
        return int(ask("client", "cat /run/sent")), int(arrived)

    yield count
    ask("client", "systemctl stop stream.service")
    inside("collector", "high", "nft delete table inet count")


@pytest.fixture
def fast(ask: Any) -> Iterator[None]:
    """Lifetimes as in role strongswan, all divided by the same."""
    for name in ("gateway", "collector", "client"):
        for place in QUICKENED:
            text = re.sub(r"(\w+)_time = (\d+)s", _shorter, ask(name, f"cat {place}"))
            # Old keys are kept for five seconds, and nobody authenticates anew meanwhile. Zero would be for ever.
            text = text.replace("charon-systemd {", "charon-systemd {\ndelete_rekeyed_delay = 1", 1)
            coded = base64.b64encode(text.encode()).decode()
            copy = f"/run/fast{place.replace('/', '-')}"
            ask(name, f"sh -c 'echo {coded} | base64 --decode > {copy}'")
            ask(name, f"{OF_SYSTEMD} mount --bind {copy} {place}")
        ask(name, "systemctl restart strongswan.service")
    yield
    for name in ("gateway", "collector", "client"):
        for place in QUICKENED:
            ask(name, f"{OF_SYSTEMD} umount {place}")
        ask(name, "systemctl restart strongswan.service")


def _shorter(found: re.Match[str]) -> str:
    # Who is told to wait waits for about ten seconds, however short the lifetimes are. By default the moment is chosen
    # at random within the time that is left in the end, which does not become longer here.
    patience = PATIENCE.get(found[1], 0)
    spread = f"\nrand_time = {SPREAD[int(found[2])] // FAST}s" if found[1] == "rekey" else ""
    return f"{found[1]}_time = {int(found[2]) // FAST + patience}s{spread}"


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


def test_restarted_daemon_of_the_gateway(ask: Any, stream: Any, eventually: Any) -> None:
    """It says goodbye. A server that sends nothing of its own is there again, too."""
    with losses(stream, "restart of the gateway's charon"):
        ask("gateway", "systemctl restart strongswan.service")
    for tunnel in ("admin", "audit", "logs_time", "high"):
        eventually(lambda tunnel=tunnel: f"{tunnel}: #" in ask("collector", "swanctl --list-sas"), f"{tunnel} is back")


def test_gateway_reboots(ask: Any, machine: Any, stream: Any, eventually: Any) -> None:
    """Nobody does anything at the other machines."""
    before = ask("gateway", "cat /proc/sys/kernel/random/boot_id")
    with losses(stream, "reboot of the gateway"):
        ask("gateway", "systemctl --no-block reboot")
        eventually(lambda: _boot(machine("gateway")) not in (None, before), "the gateway is up", REBOOT)
    assert ask("gateway", "systemctl --failed --no-legend") == ""


def _boot(host: Any) -> str | None:
    try:
        found = host.run("cat /proc/sys/kernel/random/boot_id")
    except RuntimeError:  # nobody answers
        return None
    return str(found.stdout).strip() if found.rc == 0 else None


def test_address_of_a_client_changes(ask: Any, stream: Any) -> None:
    """MOBIKE (RFC 4555)."""
    with losses(stream, "new address of the client"):
        ask("client", "sh -c 'ip address add 192.0.2.31/24 dev outer; ip address del 192.0.2.30/24 dev outer'")
    assert "192.0.2.31" in ask("gateway", "swanctl --list-sas --ike client")
    ask("client", "sh -c 'ip address add 192.0.2.30/24 dev outer; ip address del 192.0.2.31/24 dev outer'")


def test_a_day_of_rekeying(ask: Any, stream: Any, fast: None) -> None:
    """24 h in little more than three minutes: as many keys of children and of IKE, as many authentications."""
    start = ask("client", "date +%s")
    sent, arrived = stream()
    time.sleep(DAY / FAST)
    after = stream()
    _flows(stream, 60)
    done = ask("client", f"journalctl --unit=strongswan.service --since=@{start} --output=cat")
    children = set(re.findall(r"CHILD_SA high\{(\d+)\} established", done))
    assert len(children) >= DAY // CHILD
    assert len(re.findall(r"IKE_SA client\[\d+\] rekeyed", done)) >= DAY // IKE - DAY // REAUTHENTICATION
    assert len(re.findall(r"IKE_SA client\[\d+\] established", done)) >= DAY // REAUTHENTICATION
    lost = (after[0] - sent) - (after[1] - arrived)
    print(f"a day of rekeying: {lost} of {after[0] - sent} datagrams lost, {len(children)} keys")
    assert lost <= (after[0] - sent) / 10
