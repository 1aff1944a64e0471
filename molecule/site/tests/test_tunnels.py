# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tunnels come up by themselves, with what only a kernel's IPsec has: ESN, replay windows, XFRM interfaces."""

from __future__ import annotations

import re
from typing import Any

import pytest
from three import HOSTS, TUNNELS
from wire import is_esp


@pytest.fixture(scope="module", autouse=True)
def up(ask: Any, eventually: Any) -> None:
    """Nobody started anything: clocks and logs want their server, and that is what brings the first tunnel up."""
    for name in ("client", "collector"):
        eventually(lambda name=name: "ESTABLISHED" in ask(name, "swanctl --list-sas"), f"{name}: connected", 120)


def test_no_unit_failed(ask: Any) -> None:
    assert {
        name: ask(name, "systemctl list-units --failed --no-legend --plain --no-pager") for name in HOSTS
    } == dict.fromkeys(HOSTS, "")


def test_states_are_tunnels_with_esn_and_replay_window(sas: Any) -> None:
    """D8, D11."""
    states = sas("client")
    assert len(states) >= 2
    for state in states:
        assert "mode tunnel" in state["text"]
        assert re.search(r"flag [a-z -]*esn", state["text"]), state
        assert "rfc4106(gcm(aes))" in state["text"]
        assert "encap type espinudp sport 4500 dport 4500" in state["text"]
    # An outgoing state has no window to keep (RFC 4303, section 3.4.3).
    assert {
        bool(re.search(r"replay_window [1-9]", state["text"])) for state in states if "192.0.2.2 dst" in state["ends"]
    } == {True}


def test_missing_tunnel_is_begun(ask: Any, eventually: Any) -> None:
    """The daemon itself does nothing about it, as after a gateway that refused it for a while."""
    ask("collector", "swanctl --terminate --ike collector --child admin")
    assert "admin: #" not in ask("collector", "swanctl --list-sas")
    eventually(lambda: "admin: #" in ask("collector", "swanctl --list-sas"), "begun again", 180)
    assert ask("collector", "systemctl --failed --no-legend") == ""


def test_namespace_of_a_tunnel_holds_no_keys(ask: Any, inside: Any) -> None:
    """D13."""
    assert ask("client", "ip xfrm state") != ""
    for name in HOSTS:
        for tunnel in TUNNELS:
            assert inside(name, tunnel, "ip xfrm state") == ""
            assert inside(name, tunnel, "ip xfrm policy") == ""
            (link,) = inside(name, tunnel, "ip --json --details link show type xfrm")
            assert link["ifname"] == tunnel


def test_replayed_packet_is_counted_and_not_delivered(ask: Any, inside: Any, sas: Any, wire: Any) -> None:
    """D8."""

    def state() -> str:
        return "\n".join(each["text"] for each in sas("collector") if "src 192.0.2.2 " in each["ends"])

    def replays() -> int:
        return sum(int(number) for number in re.findall(r"replay (\d+) failed", state()))

    def delivered() -> int:
        (link,) = inside("collector", "high", "ip --json --statistics link show high")
        return int(link["stats64"]["rx"]["packets"])

    target = "10.69.1.20"
    command = f"bash -c 'echo first > /dev/udp/{target}/443'"
    inside("client", "high", command)
    mark = wire.mark()
    inside("client", "high", command)
    before, counted = delivered(), replays()
    frames = [frame for frame in wire.since(mark) if is_esp(frame) and frame.dst == "52:54:00:aa:00:20"]
    assert frames
    for frame in frames:
        for _again in range(5):
            wire.send(bytes(frame))
    assert delivered() == before
    assert replays() >= counted + 5


def test_host_does_not_reach_into_a_tunnel(ask: Any, inside: Any, watch: Any, seen: Any) -> None:
    watch("collector", "high")
    for protocol in ("tcp", "udp"):
        ask("client", f"bash -c 'timeout 2 bash -c \"echo x > /dev/{protocol}/10.69.1.20/443\"; true'")
        ask("client", f"bash -c 'timeout 2 bash -c \"echo x > /dev/{protocol}/fd00:69:0:1::14/443\"; true'")
    assert seen("collector", "high", "arrived") == set()
    inside("client", "high", "bash -c 'echo x > /dev/udp/10.69.1.20/443'")
    assert seen("collector", "high", "arrived") == {("10.69.1.30", "10.69.1.20", "udp", 443)}


def test_member_does_not_reach_the_outer_network(inside: Any, ask: Any, watch: Any, seen: Any) -> None:
    watch("gateway", None)
    for address in ("192.0.2.2", "2001:db8:1::2"):
        inside("client", "high", f"bash -c 'timeout 2 bash -c \"echo x > /dev/udp/{address}/443\"; true'")
    assert {packet for packet in seen("gateway", None, "arrived") if packet[3] == 443} == set()
    ask("client", "bash -c 'timeout 2 bash -c \"echo x > /dev/udp/192.0.2.2/4500\"; true'")  # the way is there


def test_service_runs_in_the_namespace_of_its_tunnel(ask: Any) -> None:
    for unit, tunnel in (
        ("rsyslog", "logs_time"),
        ("chrony", "logs_time"),
        ("sshd@admin", "admin"),
        ("sshd@audit", "audit"),
    ):
        pid = ask("client", f"systemctl show --property=MainPID --value {unit}.service")
        assert ask("client", f"ip netns identify {pid}") == tunnel
