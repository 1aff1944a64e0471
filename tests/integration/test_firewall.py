# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rulesets of role firewall let through: packets, compared with a model that knows no nftables.

A host with the ruleset stands between two others. Every cell of the table is a packet that is sent and looked for.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import rendering
from lab import Lab, lab

OUTSIDE = {"ipv4": ("192.0.2.1", "192.0.2.9"), "ipv6": ("2001:db8::1", "2001:db8::9")}
HOST = {"ipv4": "192.0.2.2", "ipv6": "2001:db8::2"}
INSIDE = {"ipv4": "198.51.100.2", "ipv6": "2001:db8:1::2"}
# An address beyond the wire that belongs in a tunnel.
TUNNELLED = {"ipv4": "10.9.0.1", "ipv6": "fd09::1"}
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
# Of both the machine that runs the test and the SDK.
USERS = {"root": 0, "daemon": 1, "nobody": 65534}
PORTS = (22, 443, 500, 4500, 8000, 8005, 8006)
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
IKE, ESP, OLD_IKE = bytes(4) + bytes(17) + b"\x20", b"\1\2\3\4" + bytes(18), bytes(4) + bytes(17) + b"\x10"


def rule(family: str, protocol: str, **matches: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {
        "ports": [],
        "source_ports": [],
        "source": None,
        "destination": None,
        "user": None,
        "interface": None,
    }
    return {"comment": f"{protocol} test", "family": family, "protocol": protocol, **nothing, **matches}


def ruleset(*, ipv6: bool) -> dict[str, Any]:
    """Rules of every kind that a site has."""
    rules: dict[str, list[dict[str, Any]]] = {"input": [], "forward": [], "output": []}
    sets = []
    for family, kind in (("ipv4", "ipv4_addr"), ("ipv6", "ipv6_addr")):
        peers = f"peers-{family}"
        sets.append({"name": peers, "type": kind, "elements": [OUTSIDE[family][0]]})
        rules["input"] += [
            rule(family, "tcp", ports=[22], source=peers),
            rule(family, "udp", ports=[4500]),
            rule(family, "tcp", ports=["8000-8005"], interface="eth0"),
            rule(family, "udp", ports=[443], interface="eth1"),
        ]
        rules["forward"] += [
            rule(family, "tcp", ports=[443], source=peers, interface="eth0"),
            rule(family, "udp", ports=[8000, 8005]),
        ]
        rules["output"] += [
            rule(family, "udp", ports=[4500], source_ports=[4500], user="daemon"),
            rule(family, "esp", ports=[4500], source_ports=[4500]),
            rule(family, "tcp", ports=[443], destination=peers, user="nobody"),
            rule(family, "tcp", ports=[22]),
            rule(family, "udp", ports=["8000-8005"], interface="eth1"),
            rule(family, "udp", ports=[500], user="root"),
        ]
    return {
        "name": "host",
        "ipv6": ipv6,
        "tunnelled_ipv4": ["10.9.0.0/16"],
        "tunnelled_ipv6": ["fd09::/16"],
        "sets": sets,
        "raw": [{"chain": "input", "rule": "udp dport 8006 accept", "comment": "by hand"}],
        **rules,
    }


@dataclass(frozen=True)
class Cell:
    """A packet."""

    direction: str
    family: str
    protocol: str
    source: str
    destination: str
    port: int
    source_port: int
    user: str
    payload: bytes

    @property
    def interface(self) -> str:
        beyond = self.source if self.direction != "output" else self.destination
        return "eth1" if beyond == INSIDE[self.family] else "eth0"


def passes(rules: dict[str, Any], cell: Cell) -> bool:
    """What the contract of the role says about a packet."""
    if cell.family == "ipv6" and not rules["ipv6"]:
        return False
    networks = [ipaddress.ip_network(network) for network in rules[f"tunnelled_{cell.family}"]]
    for address in (cell.source, cell.destination):
        if any(ipaddress.ip_address(address) in network for network in networks):
            return False
    ike = cell.protocol == "udp" and cell.port == 4500 and cell.payload[:4] == bytes(4)
    if cell.direction == "input" and ike and cell.payload[21] != 0x20:
        return False
    if cell.direction == "input" and cell.protocol == "udp" and cell.port == 8006:
        return True
    return any(_matches(rules, each, cell) for each in rules[cell.direction])


def _matches(rules: dict[str, Any], each: dict[str, Any], cell: Cell) -> bool:
    members = {entry["name"]: entry["elements"] for entry in rules["sets"]}
    esp = cell.protocol == "udp" and cell.payload[:4] != bytes(4)
    return all(
        (
            each["family"] == cell.family,
            each["protocol"] == cell.protocol or (each["protocol"] == "esp" and esp),
            _within(each["ports"], cell.port),
            _within(each["source_ports"], cell.source_port),
            each["source"] is None or cell.source in members[each["source"]],
            each["destination"] is None or cell.destination in members[each["destination"]],
            each["interface"] in (None, cell.interface),
            each["user"] in (None, cell.user),
        )
    )


def _within(ports: Sequence[int | str], port: int) -> bool:
    ranges = [str(each).partition("-")[::2] for each in ports]
    return not ports or any(int(first) <= port <= int(last or first) for first, last in ranges)


def table() -> Iterator[Cell]:
    """All packets that are tried."""
    for family, protocol, port in itertools.product(FAMILIES, ("tcp", "udp"), PORTS):
        payloads = (IKE, ESP, OLD_IKE) if (protocol, port) == ("udp", 4500) else (IKE,)
        for payload in payloads:
            for source in (*OUTSIDE[family], TUNNELLED[family], INSIDE[family]):
                yield Cell("input", family, protocol, source, HOST[family], port, 0, "root", payload)
            for source in (*OUTSIDE[family], TUNNELLED[family]):
                yield Cell("forward", family, protocol, source, INSIDE[family], port, 0, "root", payload)
            for destination, user in itertools.product((*OUTSIDE[family], TUNNELLED[family], INSIDE[family]), USERS):
                for source_port in {0, 4500} if payload != OLD_IKE and port == 4500 and protocol == "udp" else {0}:
                    yield Cell("output", family, protocol, HOST[family], destination, port, source_port, user, payload)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("firewall") / "shared") as made:
        for name in ("outside", "host", "inside"):
            made.add_namespace(name)
        made.add_link(("outside", "eth0"), ("host", "eth0"))
        made.add_link(("inside", "eth0"), ("host", "eth1"))
        made.add_address("outside", "eth0", *(f"{each}/24" for each in OUTSIDE["ipv4"]), "10.9.0.1/32")
        made.add_address("outside", "eth0", *(f"{each}/64" for each in OUTSIDE["ipv6"]), "fd09::1/128")
        made.add_address("host", "eth0", "192.0.2.2/24", "2001:db8::2/64")
        made.add_address("host", "eth1", "198.51.100.1/24", "2001:db8:1::1/64")
        made.add_address("inside", "eth0", "198.51.100.2/24", "2001:db8:1::2/64")
        for name, gateways in (
            ("outside", ("192.0.2.2", "2001:db8::2")),
            ("inside", ("198.51.100.1", "2001:db8:1::1")),
            ("host", ("192.0.2.1", "2001:db8::1")),
        ):
            for gateway in gateways:
                made.run("ip", "-netns", name, "route", "add", "default", "via", gateway)
        forwarding = "echo 1 | tee /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
        made.run("sh", "-c", forwarding, namespace="host")
        yield made


def load(made: Lab, rules: dict[str, Any], *, check: bool = True) -> bool:
    """Load a ruleset as the unit of a machine does; whether it was taken."""
    rendered = rendering.render("firewall", firewall_rulesets=[rules], firewall_log_rate="10/minute")
    path = made.directory / "host.nft"
    path.write_text(rendered["etc/nftables.d/host.nft"])
    return made.run("nft", "-f", "/run/lab/host.nft", namespace="host", check=check).returncode == 0


def where(address: str) -> str:
    if address in INSIDE.values():
        return "inside"
    return "host" if address in HOST.values() else "outside"


def arrived(made: Lab, cells: Sequence[Cell]) -> dict[Cell, bool]:
    """Send them all, and look which arrive; for TCP, whether a connection comes about."""
    listeners: dict[tuple[str, str, str, int], socket.socket] = {}
    for cell in cells:
        place = (where(cell.destination), cell.family, cell.protocol, cell.port)
        if place not in listeners:
            kind = socket.SOCK_STREAM if cell.protocol == "tcp" else socket.SOCK_DGRAM
            listener = made.socket(place[0], FAMILIES[cell.family], kind)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if cell.family == "ipv6":
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Unlike the wildcard, leaves the port to the senders of the same namespace.
            listener.bind((cell.destination if place[0] == "host" else "", cell.port))
            listener.setblocking(False)
            if cell.protocol == "tcp":
                listener.listen(64)
            listeners[place] = listener
    results = dict.fromkeys(cells, False)
    connecting: dict[socket.socket, Cell] = {}
    for number, cell in enumerate(cells):
        kind = socket.SOCK_STREAM if cell.protocol == "tcp" else socket.SOCK_DGRAM
        sender = made.socket(where(cell.source), FAMILIES[cell.family], kind, user=USERS[cell.user])
        sender.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sender.bind((cell.source, cell.source_port))
        if cell.protocol == "tcp":
            sender.connect_ex((cell.destination, cell.port))
            connecting[sender] = cell
            continue
        with sender:
            try:
                sender.sendto(cell.payload + struct.pack(">I", number), (cell.destination, cell.port))
            except OSError:  # EPERM, when the packet is dropped here
                continue
    time.sleep(0.3)
    for (_namespace, _family, protocol, _port), listener in listeners.items():
        for packet in received(listener) if protocol == "udp" else ():
            results[cells[struct.unpack(">I", packet[-4:])[0]]] = True
    poll = select.poll()
    for sender in connecting:
        poll.register(sender, select.POLLOUT)
    ready = {descriptor for descriptor, _event in poll.poll(300)}
    for sender, cell in connecting.items():
        if sender.fileno() in ready:
            results[cell] = sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        sender.close()
    for listener in listeners.values():
        listener.close()
    return results


@pytest.mark.parametrize("ipv6", [True, False], ids=["with IPv6", "without IPv6"])
def test_packets_pass_as_the_rules_say_and_no_others(network: Lab, ipv6: bool) -> None:
    rules = ruleset(ipv6=ipv6)
    load(network, rules)
    cells = list(dict.fromkeys(table()))
    found = arrived(network, cells)
    expected = {cell: passes(rules, cell) for cell in cells}
    assert len(cells) >= 200
    assert sum(expected.values()) > 30
    assert [cell for cell in cells if found[cell] != expected[cell]] == []


def answered(made: Lab, source: str, target: str, message: int) -> bool:
    """Whether a message of ICMP gets to the other end's raw sockets; an echo request, whether it is answered."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if ":" in target else socket.IPPROTO_ICMP
    marker = struct.pack(">d", time.monotonic())
    with (
        made.socket(where(source), family, socket.SOCK_RAW, protocol) as sender,
        made.socket(where(target), family, socket.SOCK_RAW, protocol) as receiver,
    ):
        body = struct.pack(">BBHHH", message, 0, 0, 7, 1) + marker
        if family == socket.AF_INET:
            body = body[:2] + struct.pack(">H", _checksum(body)) + body[4:]
        receiver.settimeout(0.3)
        sender.bind((source, 0))
        try:
            sender.sendto(body, (target, 0))
            while True:
                packet = receiver.recv(200)
                packet = packet if family == socket.AF_INET6 else packet[20:]
                if packet[0] == message and packet.endswith(marker):
                    return True
        except (TimeoutError, PermissionError):
            return False


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - (total + (total >> 16)) % 0x10000


@pytest.mark.parametrize(
    ("family", "message", "expected"),
    [
        ("ipv4", 8, True),  # echo request
        ("ipv4", 13, False),  # timestamp request
        ("ipv4", 17, False),  # address mask request
        ("ipv4", 5, False),  # redirect
        ("ipv6", 128, True),  # echo request
        ("ipv6", 137, False),  # redirect
        ("ipv6", 139, False),  # node information query
    ],
)
def test_only_messages_that_a_path_needs_pass(network: Lab, family: str, message: int, expected: bool) -> None:
    load(network, ruleset(ipv6=True))
    peer, host = OUTSIDE[family][0], HOST[family]
    assert answered(network, peer, host, message) is expected
    assert answered(network, host, peer, message) is expected
    # Not even these go in clear to where a tunnel leads, nor through.
    assert not answered(network, host, TUNNELLED[family], message)
    assert not answered(network, TUNNELLED[family], host, message)
    assert not answered(network, peer, INSIDE[family], message)


def test_a_process_that_may_not_send_learns_it_at_once(network: Lab) -> None:
    load(network, ruleset(ipv6=True))
    for destination in (OUTSIDE["ipv4"][0], TUNNELLED["ipv4"]):
        with network.socket("host", socket.AF_INET, socket.SOCK_STREAM) as sender:
            sender.settimeout(5)
            start = time.monotonic()
            with pytest.raises(ConnectionRefusedError):
                sender.connect((destination, 8000))
            assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "broken",
    [
        {"raw": [{"chain": "input", "rule": "tcp dport 22 acept", "comment": "misspelt"}]},
        {"input": [rule("ipv4", "tcp", source="no-such-set")]},
        {"output": [rule("ipv4", "tcp", user="no-such-user")]},
        {"sets": [{"name": "bad", "type": "ipv4_addr", "elements": ["2001:db8::1"]}]},
    ],
    ids=["syntax", "set", "user", "element"],
)
def test_ruleset_that_does_not_load_leaves_the_old_one_in_force(network: Lab, broken: dict[str, Any]) -> None:
    load(network, ruleset(ipv6=True))
    before = network.run("nft", "--stateless", "list", "ruleset", namespace="host").stdout
    assert not load(network, {**ruleset(ipv6=True), **broken}, check=False)
    assert network.run("nft", "--stateless", "list", "ruleset", namespace="host").stdout == before


def test_reloading_opens_and_closes_nothing(network: Lab) -> None:
    """All the while packets come that may pass, and packets that may not: each set arrives whole, or not at all."""
    rules = ruleset(ipv6=False)
    load(network, rules)
    stop = threading.Event()
    sent = {8006: 0, 8005: 0}  # what a raw rule allows, and what no rule does

    def flood() -> None:
        while not stop.is_set():
            for port, sender in senders.items():
                sender.sendto(b"x", (HOST["ipv4"], port))
                sent[port] += 1

    with ExitStack() as sockets:
        senders: dict[int, socket.socket] = {}
        listeners: dict[int, socket.socket] = {}
        for port in sent:
            senders[port] = sockets.enter_context(network.socket("outside", socket.AF_INET, socket.SOCK_DGRAM))
            senders[port].bind((OUTSIDE["ipv4"][1], 0))
            listeners[port] = sockets.enter_context(network.socket("host", socket.AF_INET, socket.SOCK_DGRAM))
            listeners[port].setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 28)
            listeners[port].bind((HOST["ipv4"], port))
            listeners[port].setblocking(False)
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for _attempt in range(10):
                load(network, rules)
        finally:
            stop.set()
            thread.join()
        arrived = {port: sum(1 for _packet in received(listener)) for port, listener in listeners.items()}
    assert sent[8006] > 1000
    assert arrived == {8006: sent[8006], 8005: 0}


def received(listener: socket.socket) -> Iterator[bytes]:
    """What has come so far."""
    while True:
        try:
            yield listener.recv(2000)
        except BlockingIOError:
            return


def test_the_ruleset_before_all_others_lets_nothing_through(network: Lab) -> None:
    """What is in force until that of the machine is loaded, or if it cannot be."""
    path = rendering.ROLES / "firewall/files/root/etc/nftables.conf"
    network.run("nft", "-f", "-", namespace="host", stdin=path.read_text())
    cells = list(dict.fromkeys(table()))
    assert not any(arrived(network, cells).values())
    assert not answered(network, OUTSIDE["ipv4"][0], HOST["ipv4"], 8)
    assert not answered(network, HOST["ipv4"], OUTSIDE["ipv4"][0], 8)


def test_counters_name_what_was_dropped(network: Lab) -> None:
    load(network, ruleset(ipv6=True))
    for _attempt in range(3):
        with network.socket("host", socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(PermissionError):
            sender.sendto(b"in clear", (TUNNELLED["ipv4"], 9))
    counted = network.run("nft", "--json", "list", "counter", "inet", "filter", "output_clear", namespace="host").stdout
    assert json.loads(counted)["nftables"][1]["counter"]["packets"] == 3


def test_a_set_of_thousands(network: Lab) -> None:
    """Of a gateway with many clients; neighbours and repetitions are no matter."""
    many = [str(ipaddress.ip_address("100.64.0.0") + 2 * number) for number in range(20_000)]
    peers = {"name": "many", "type": "ipv4_addr", "elements": [*many, "100.64.0.0/24", OUTSIDE["ipv4"][0]]}
    rules = {**ruleset(ipv6=False), "sets": [peers], "forward": [], "output": []}
    rules["input"] = [rule("ipv4", "tcp", ports=[22], source="many")]
    load(network, rules)
    cells = [Cell("input", "ipv4", "tcp", source, HOST["ipv4"], 22, 0, "root", b"") for source in OUTSIDE["ipv4"]]
    assert list(arrived(network, cells).values()) == [True, False]
