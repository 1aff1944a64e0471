# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stranger on the wire sees, and what he reaches."""

from __future__ import annotations

import ipaddress
import struct
import time
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS, IPv6
from scapy.layers.l2 import ARP, Ether
from three import HOSTS
from wire import IPV4, IPV6, MAC, is_esp

MACS = {"gateway": "52:54:00:aa:00:02", "collector": "52:54:00:aa:00:20", "client": "52:54:00:aa:00:30"}
ADDRESSES = {"gateway": "192.0.2.2", "collector": "192.0.2.20", "client": "192.0.2.30"}
ADDRESSES6 = {"gateway": "2001:db8:1::2", "collector": "2001:db8:1::14", "client": "2001:db8:1::1e"}
USUAL_UDP = (19, 53, 67, 68, 69, 111, 123, 137, 161, 162, 389, 500, 514, 520, 546, 623, 1194, 1701, 1812, 1900, 2514)
USUAL_UDP += (3478, 4460, 5353, 5355, 11211, 33434, 51820)
# What a neighbour has to be told (RFC 826, 4861, 3810).
NEIGHBOURS = (ARP, ICMPv6ND_NS, ICMPv6ND_NA, ICMPv6ND_RS, ICMPv6MLReport2)
PER_SECOND = 1500  # an emulated card takes no more
CONTROL = 7777
SEEN = """add table inet scan {
  set ports { type inet_service; flags dynamic; size 65535; }
  chain before {
    type filter hook prerouting priority -400;
    ip saddr 192.0.2.99 tcp flags syn add @ports { tcp dport }
  }
}"""


def _clear(frames: list[Any]) -> list[str]:
    """Frames that are neither of a neighbour nor of IPsec."""
    return [
        frame.summary()
        for frame in frames
        if not any(each in frame for each in NEIGHBOURS)
        and not (UDP in frame and frame[UDP].sport == frame[UDP].dport == 4500)
    ]


def _chatter(inside: Any) -> None:
    """Two machines have something to say to a third."""
    script = " ".join(
        f"(echo x >/dev/{protocol}/{address}/443) 2>/dev/null &"
        for protocol in ("tcp", "udp")
        for address in ("10.69.1.20", "fd00:69:0:1::14")
    )
    for name in ("client", "gateway"):
        inside(name, "high", f"bash -c '{script} sleep 1'")


def _syns(wire: Any, name: str, ports: set[int]) -> None:
    """The ports of both ends add up to a constant, and so do their checksums: one frame is the pattern of all."""
    pattern = Ether(src=MAC, dst=MACS[name]) / IP(src=IPV4, dst=ADDRESSES[name]) / TCP(sport=65534, dport=1, flags="S")
    frame = bytearray(bytes(pattern))
    start = time.monotonic()
    for number, port in enumerate(sorted(ports)):
        struct.pack_into(">HH", frame, 34, 65535 - port or 65535, port)
        wire.send(bytes(frame))
        time.sleep(max(0.0, start + number / PER_SECOND - time.monotonic()))


def test_only_ipsec_is_on_the_wire(inside: Any, wire: Any) -> None:
    mark = wire.mark()
    _chatter(inside)
    time.sleep(3)
    frames = wire.since(mark)
    assert any(map(is_esp, frames))
    assert _clear(frames) == []


@pytest.mark.parametrize("name", ["gateway", "client"])
def test_scan_of_all_tcp_ports_finds_nothing(ask: Any, wire: Any, eventually: Any, name: str) -> None:
    ask(name, f"nft '{SEEN}'")
    ask(name, f"nft insert rule inet filter input tcp dport {CONTROL} accept")
    try:
        mark = wire.mark()
        missing = set(range(1, 65536))
        for _round in range(5):
            _syns(wire, name, missing)
            listed = ask(name, "nft --json list set inet scan ports")["nftables"]
            (ports,) = [set(entry["set"].get("elem", [])) for entry in listed if "set" in entry]
            missing -= ports
            if not missing:
                break
        assert missing == set()
        answers = [frame for frame in wire.since(mark) if IP in frame and frame[IP].dst == IPV4]
        # The scan finds what there is to find.
        assert {frame[TCP].sport for frame in answers if TCP in frame} == {CONTROL}
        assert [frame.summary() for frame in answers if TCP not in frame] == []
    finally:
        ask(name, "nft delete table inet scan")
        ask(name, "systemctl reload nftables.service")


@pytest.mark.parametrize("name", ["gateway", "client"])
def test_scan_of_usual_ports_finds_nothing(wire: Any, name: str) -> None:
    ends = Ether(src=MAC, dst=MACS[name])
    mark = wire.mark()
    for port in USUAL_UDP:
        wire.send(bytes(ends / IP(src=IPV4, dst=ADDRESSES[name]) / UDP(sport=40000, dport=port) / bytes(32)))
        wire.send(bytes(ends / IPv6(src=IPV6, dst=ADDRESSES6[name]) / UDP(sport=40000, dport=port) / bytes(32)))
    for port in (*range(1, 1025), 2514, 4460, 8080):
        wire.send(bytes(ends / IPv6(src=IPV6, dst=ADDRESSES6[name]) / TCP(sport=40000, dport=port, flags="S")))
        time.sleep(1 / PER_SECOND)
    time.sleep(3)
    answers = [frame for frame in wire.since(mark) if UDP in frame or TCP in frame or frame.dst == MAC]
    assert [
        frame.summary() for frame in answers if not any(each in frame for each in NEIGHBOURS) and frame.dst == MAC
    ] == []


def test_nothing_in_clear_while_the_gateway_is_away(
    ask: Any, inside: Any, wire: Any, sas: Any, eventually: Any
) -> None:
    """D11: the peer dies; what wants to be sent waits or is refused, and the tunnel comes back by itself."""
    pools = [ipaddress.ip_network(each) for each in ("10.64.0.0/10", "fd00::/16")]
    ask("gateway", "ip link set outer down")
    try:
        mark = wire.mark()
        deadline = time.monotonic() + 75  # longer than a peer may be silent
        while time.monotonic() < deadline:
            _chatter(inside)
            time.sleep(5)
        frames = wire.since(mark)
        assert _clear(frames) == []
        for frame in frames:
            layer = frame.getlayer(IP) or frame.getlayer(IPv6)
            for address in (layer.src, layer.dst) if layer else ():
                assert not any(ipaddress.ip_address(address) in pool for pool in pools), frame.summary()
    finally:
        ask("gateway", "networkctl reconfigure outer; ip link set outer up")
    eventually(lambda: _connected(ask), "connected again", 180)


def _connected(ask: Any) -> bool:
    return all("INSTALLED" in ask(name, "swanctl --list-sas") for name in HOSTS if name != "gateway")
