# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two gateways of the example site that share an address: who has it, and what becomes of a client's tunnel.

VRRP, IKE, certificates and rulesets are those that the site gives these hosts. ESP runs in user space, which has no
policies that begin a tunnel with the first packet: the client begins by itself instead, at first and when it has lost
the gateway. It asks after one second of silence, and is patient for less than two: what it would be on a machine is in
role strongswan.
"""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import rendering
from certificates import Authority
from ipsec import Daemon, started_by_itself, wait_for
from lab import SHARED, Lab, lab

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import Views

EXAMPLE = Path(__file__).resolve().parents[2] / "inventories/example_site/example.site.yml"
CLIENT, GATEWAYS = "paris-files1", ("paris-gw1", "paris-gw2")
OWN = {"paris-gw1": ("192.0.2.11", "2001:db8:1::11"), "paris-gw2": ("192.0.2.12", "2001:db8:1::12")}
PAIR = ("192.0.2.10", "2001:db8:1::10")
OUTSIDER = ("192.0.2.40", "2001:db8:1::40")
# An address behind the gateways, which both have here.
BEHIND = "10.80.1.5"
USERS = {"ipsec": 200, "keepalived": 201}
SETTINGS = "retransmit_timeout = 0.3\n  retransmit_tries = 2"
HURRY = {"__strongswan_liveness": 1}
INTERVAL = 0.1  # seconds between two packets that are counted
VRRP = 112
# linux/in.h, linux/in6.h: send from an address that is another's.
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75


def views() -> Views:
    return Views(load(EXAMPLE).plan)


def load_rules(made: Lab, name: str, variables: dict[str, Any]) -> None:
    """The ruleset of a host. What the tunnel carries appears in its namespace, too, and is no clear text here."""
    host = next(each for each in variables["firewall"]["firewall_rulesets"] if each["name"] == "host")
    within = [("input", 'iifname "ipsec0" accept'), ("output", 'oifname "ipsec0" accept')]
    raw = [{"chain": chain, "rule": rule, "comment": "what the tunnel carries"} for chain, rule in within]
    host = {**host, "tunnelled_ipv4": [], "tunnelled_ipv6": [], "raw": raw}
    rules = rendering.render("firewall", firewall_rulesets=[host])["etc/nftables.d/host.nft"]
    made.run("nft", "-f", "-", namespace=name, stdin=rules)


class Gateway:
    """One of the two, with all its daemons."""

    def __init__(self, made: Lab, name: str, variables: dict[str, Any], root: Authority, identity: str) -> None:
        self.name = name
        self._lab = made
        self._variables = variables
        self._root = root
        self._own = root.issue(identity)
        self.charon = Daemon(made, name, role="gateway", settings=SETTINGS)
        self._keepalived: subprocess.Popen[bytes] | None = None
        self._directory = made.directory / f"{name}-pair"

    def load_rules(self) -> None:
        load_rules(self._lab, self.name, self._variables)

    def start_charon(self) -> None:
        if (self.charon.directory / "pid").exists():
            self.charon.restart()
        else:
            self.charon.start()
        wait_for(self._has_tun, "no TUN interface")
        self._lab.run("ip", "-netns", self.name, "address", "replace", f"{BEHIND}/32", "dev", "lo")
        self._lab.run("ip", "-netns", self.name, "route", "replace", "10.69.0.0/16", "dev", "ipsec0")
        connections = [
            each for each in self._variables["strongswan"]["strongswan_connections"] if each["name"] == CLIENT
        ]
        self.charon.configure(
            connections,
            own=self._own,
            authorities={"site.pem": self._root.pem},
            revocations=[self._root.revocations()],
            change=started_by_itself,
            **HURRY,
        )

    def start_keepalived(self) -> None:
        """As its unit does, whose paths are others here."""
        rendering.lay_down("gateway_pair", self._directory, **self._variables["gateway_pair"])
        unit = next(self._directory.rglob("20-gateway_pair.conf")).read_text()
        command = re.findall(r"^ExecStart=(/.+)", unit, re.MULTILINE)[0]
        (self._directory / "run").mkdir(exist_ok=True)
        (self._directory / "run").chmod(0o777)
        place = f"{SHARED}/{self._directory.name}"
        command = command.replace("/run/keepalived", f"{place}/run")
        capabilities = re.findall(r"^AmbientCapabilities=(.+)", unit, re.MULTILINE)[0].lower().replace("cap_", "+")
        rights = ",".join(["-all", *capabilities.split()])
        user = USERS["keepalived"]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
        become += [f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set={rights}"]
        arguments = ["--log-console", "--use-file", f"{place}/etc/keepalived/keepalived.conf"]
        with (self._directory / "log").open("ab") as log:
            argv = self._lab.argv([*become, *command.split(), *arguments], self.name)
            self._keepalived = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        """As a power cut does: nothing says farewell."""
        self._link("down")
        self.charon.stop()
        self._kill_keepalived()
        # A machine that starts anew has no addresses but its own.
        for address in PAIR:
            self._lab.run("ip", "-netns", self.name, "address", "del", address, "dev", "outer", check=False)

    def revive(self) -> None:
        self._link("up")
        self._lab.add_address(self.name, "outer", f"{OWN[self.name][1]}/64")
        self.start_charon()
        self.start_keepalived()

    def stop_keepalived(self) -> None:
        """In order: it says farewell, and takes the address with it."""
        assert self._keepalived is not None
        self._lab.run("kill", "-TERM", (self._directory / "run/pid").read_text().strip())
        self._keepalived.wait(10)
        self._keepalived = None

    def stop(self) -> None:
        self.charon.stop()
        self._kill_keepalived()

    def has(self, address: str) -> bool:
        found = self._lab.run("ip", "-netns", self.name, "-oneline", "address", "show", "dev", "outer").stdout
        return f" {address}/" in found

    def log(self) -> str:
        return (self._directory / "log").read_text()

    def _has_tun(self) -> bool:
        return self._lab.run("ip", "-netns", self.name, "link", "show", "ipsec0", check=False).returncode == 0

    def _link(self, state: str) -> None:
        self._lab.run("ip", "-netns", self.name, "link", "set", "dev", "outer", state)

    def _kill_keepalived(self) -> None:
        if self._keepalived is not None:
            pids = [(self._directory / "run" / name).read_text().strip() for name in ("vrrp.pid", "pid")]
            self._lab.run("kill", "-KILL", *reversed(pids), check=False)
            self._keepalived.wait()
            self._keepalived = None


class Echo(threading.Thread):
    """What stands behind a gateway, and answers."""

    def __init__(self, made: Lab, namespace: str) -> None:
        super().__init__(daemon=True)
        self.socket = made.socket(namespace, socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((BEHIND, 7))

    def run(self) -> None:
        while True:
            try:
                packet, sender = self.socket.recvfrom(100)
                self.socket.sendto(packet, sender)
            except OSError:
                return


class Counter(threading.Thread):
    """A client that asks what stands behind, again and again, and counts what is answered."""

    def __init__(self, made: Lab, inner: str) -> None:
        super().__init__(daemon=True)
        self._socket = made.socket(CLIENT, socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((inner, 7))
        self._socket.setblocking(False)
        self._end = threading.Event()
        self.sent = 0
        self.answered: set[int] = set()

    def run(self) -> None:
        while not self._end.wait(INTERVAL):
            with suppress(OSError):  # no way there for now, which is as good as a packet that is lost
                self._socket.sendto(struct.pack(">I", self.sent), (BEHIND, 7))
            self.sent += 1
            self._take()

    def stop(self) -> None:
        self._end.set()
        self.join()
        time.sleep(INTERVAL)
        self._take()

    def _take(self) -> None:
        try:
            while True:
                self.answered.add(struct.unpack(">I", self._socket.recv(100))[0])
        except OSError:
            return

    def lost(self, first: int, last: int | None = None) -> int:
        """How many were not answered, from one on, up to another."""
        return len(set(range(first, self.sent if last is None else last)) - self.answered)

    def answers_from_now(self) -> bool:
        before = self.sent
        wait_for(lambda: self.sent > before + 3, "the counter stands still")
        return bool(self.answered & set(range(before, self.sent)))


class Network:
    """Both gateways, a client and an outsider on one wire."""

    def __init__(self, made: Lab, stack: ExitStack) -> None:
        self.lab = made
        made.add_users(USERS)
        made.add_namespace("wire")
        made.run("ip", "-netns", "wire", "link", "add", "bridge", "type", "bridge")
        made.run("ip", "-netns", "wire", "link", "set", "bridge", "up")
        for name in (*GATEWAYS, CLIENT, "outsider"):
            made.add_namespace(name)
            made.add_link((name, "outer"), ("wire", name))
            made.run("ip", "-netns", "wire", "link", "set", name, "master", "bridge")
        for name, addresses in {**OWN, CLIENT: ("192.0.2.23", "2001:db8:1::17"), "outsider": OUTSIDER}.items():
            made.add_address(name, "outer", f"{addresses[0]}/26", f"{addresses[1]}/64")
        root, found = Authority.root("Root"), views()
        identity = found.variables(CLIENT)["strongswan"]["strongswan_connections"][0]["remote_identity"]
        self.gateways = {name: Gateway(made, name, dict(found.variables(name)), root, identity) for name in GATEWAYS}
        # Which keeps the client to the address that it knows, whatever else a gateway says it has.
        load_rules(made, CLIENT, dict(found.variables(CLIENT)))
        self.client = Daemon(made, CLIENT, role="client", settings=SETTINGS)
        self._connections = found.variables(CLIENT)["strongswan"]["strongswan_connections"]
        self._root = root
        self.inner = next(
            child["local"][0].partition("/")[0] for child in self._connections[0]["children"] if child["name"] == "high"
        )
        for gateway in self.gateways.values():
            stack.callback(gateway.stop)
            gateway.load_rules()
            gateway.start_charon()
            gateway.start_keepalived()
            echo = Echo(made, gateway.name)
            stack.callback(echo.socket.close)
            echo.start()
        stack.callback(self.client.stop)

    def connect(self) -> None:
        """Start the client, and wait for its tunnel."""
        self.client.start()
        self.lab.add_address(CLIENT, "ipsec0", f"{self.inner}/32")
        self.lab.run("ip", "-netns", CLIENT, "route", "add", "10.80.0.0/16", "dev", "ipsec0")
        (identity,) = {each["local_identity"] for each in self._connections}
        self.client.configure(
            self._connections,
            own=self._root.issue(identity),
            authorities={"site.pem": self._root.pem},
            revocations=[self._root.revocations()],
            change=started_by_itself,
            **HURRY,
        )

    def claim(self, namespace: str, source: str, destination: str, *, hops: int = 255, user: int = 0) -> None:
        """Say in somebody's name that the address is his."""
        version6 = ":" in source
        level, freely, ttl = (
            (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, socket.IPV6_UNICAST_HOPS)
            if version6
            else (socket.IPPROTO_IP, _IP_TRANSPARENT, socket.IP_TTL)
        )
        family = socket.AF_INET6 if version6 else socket.AF_INET
        with self.lab.socket(namespace, family, socket.SOCK_RAW, VRRP, user=user) as sender:
            sender.setsockopt(level, freely, 1)
            sender.setsockopt(level, ttl, hops)
            sender.bind((source, 0))
            sender.sendto(_message(source, destination), (destination, 0))
            time.sleep(0.2)

    def active(self) -> Gateway:
        """The one that has the address, when it is settled."""
        wait_for(lambda: self._holders()[0] == self._holders()[1] and len(self._holders()[0]) == 1, "nobody has it")
        return self.gateways[self._holders()[0][0]]

    def other(self, gateway: Gateway) -> Gateway:
        return next(each for each in self.gateways.values() if each is not gateway)

    def _holders(self) -> list[list[str]]:
        return [[name for name, each in self.gateways.items() if each.has(address)] for address in PAIR]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with ExitStack() as stack:
        made = stack.enter_context(lab(tmp_path_factory.mktemp("pair") / "shared"))
        made.add_tun_device()
        yield Network(made, stack)


@pytest.fixture(scope="module")
def counter(network: Network) -> Iterator[Counter]:
    """A client whose tunnel is up."""
    network.connect()
    made = Counter(network.lab, network.inner)
    made.start()
    wait_for(made.answers_from_now, "no tunnel")
    yield made
    made.stop()


def test_preferred_gateway_has_the_address(network: Network) -> None:
    assert network.active().name == "paris-gw1"


def test_tunnel_comes_back_when_a_gateway_is_lost_and_nothing_flaps(
    network: Network, counter: Counter, record_property: Callable[[str, object], None]
) -> None:
    lost = network.active()
    heir = network.other(lost)
    first = counter.sent
    cut = time.monotonic()
    lost.kill()
    wait_for(lambda: all(heir.has(address) for address in PAIR), "nobody takes the address")
    moved = time.monotonic() - cut
    wait_for(counter.answers_from_now, "the tunnel does not come back", seconds=20)
    missing = counter.lost(first)
    record_property("seconds until the address moved", round(moved, 1))
    record_property("packets lost, of 10 a second", missing)
    assert moved < 4.5
    assert missing * INTERVAL < 12
    back = counter.sent
    lost.revive()
    wait_for(lambda: "Entering BACKUP STATE" in lost.log().rpartition("Starting Keepalived")[2], "it does not return")
    time.sleep(4)  # longer than it takes the one that is preferred to claim the address
    assert network.active() is heir
    last = counter.sent - 3  # those may be on their way
    assert counter.lost(back, last) <= 2


def test_tunnel_follows_the_address_there_and_back(network: Network, counter: Counter) -> None:
    """Both daemons go on, and what the client had with the first is still there when the address returns to it."""
    first = network.active()
    for gateway in (first, network.other(first)):
        wait_for(counter.answers_from_now, "no tunnel", seconds=15)
        established = gateway.charon.associations().count("ESTABLISHED")
        assert established == 1
        gateway.stop_keepalived()
        wait_for(lambda gateway=gateway: network.active() is not gateway, "the address stays")  # type: ignore[misc]
        wait_for(counter.answers_from_now, "the tunnel does not follow", seconds=15)
        gateway.start_keepalived()
    assert network.active() is first


def test_gateway_that_gave_the_address_up_forgets_its_clients(
    network: Network, counter: Counter, record_property: Callable[[str, object], None]
) -> None:
    """Or it would answer them by what they no longer have. It looks for another way to each of them first, for 28 s,
    which no setting changes; and no client has its tunnel again before 31 s."""
    active = network.active()
    wait_for(counter.answers_from_now, "no tunnel", seconds=15)
    begin = time.monotonic()
    active.stop_keepalived()
    wait_for(lambda: f"{CLIENT}:" not in active.charon.associations(), "it remembers", seconds=31)
    record_property("seconds until it forgot", round(time.monotonic() - begin, 1))
    assert f"{CLIENT}:" in network.other(active).charon.associations()
    active.start_keepalived()


def test_daemon_that_stays_away_costs_the_address(network: Network) -> None:
    active = network.active()
    active.charon.stop()
    wait_for(lambda: network.other(active).has(PAIR[0]), "the address stays", seconds=12)
    wait_for(lambda: not any(active.has(address) for address in PAIR), "both have it")
    assert "Entering FAULT STATE" in active.log()
    active.start_charon()


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_forged_messages_change_nothing(network: Network, family: int) -> None:
    """Somebody else says that the address is his, or says it in the name of the other gateway from beyond a router."""
    active = network.active()
    other = network.other(active)
    target, peer, outsider = OWN[active.name][family], OWN[other.name][family], OUTSIDER[family]
    begin = len(active.log())
    for source, hops in ((outsider, 255), (peer, 254)):
        network.claim("outsider", source, target, hops=hops)
        network.lab.run("nft", "flush", "ruleset", namespace=active.name)
        network.claim("outsider", source, target, hops=hops)
        active.load_rules()
        assert "STATE" not in active.log()[begin:], (source, hops)
    assert network.active() is active
    # It would have been believed, had the right one sent it.
    network.claim(other.name, peer, target, user=USERS["keepalived"])
    wait_for(lambda: "Entering BACKUP STATE" in active.log()[begin:], "nothing can be forged: the test tests nothing")


def _message(source: str, destination: str) -> bytes:
    """That who sends it has the address, with the highest priority there is (RFC 5798)."""
    version = 6 if ":" in source else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    ends = [socket.inet_pton(family, each) for each in (source, destination, PAIR[version == 6])]
    body = struct.pack(">BBBBHH", 0x31, 1, 255, 1, 100, 0) + ends[2]
    lengths = struct.pack(">II", len(body), VRRP) if version == 6 else struct.pack(">BBH", 0, VRRP, len(body))
    words = b"".join([ends[0], ends[1], lengths, body])
    total = sum(struct.unpack(f">{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return body[:6] + struct.pack(">H", ~total & 0xFFFF) + body[8:]
