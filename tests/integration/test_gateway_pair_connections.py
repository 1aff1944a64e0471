# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connections by which a gateway that waits for its turn is reached: with the other of its pair, and other places.

Connections, identities in certificates and rulesets outside are those that the example site gives these hosts. ESP runs
in user space, which knows neither interfaces of tunnels nor priorities, so nothing is sent through them: it is shown
which tunnels come up, by themselves, for which addresses.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rendering
from certificates import Authority
from ipsec import USER, Daemon, started_by_itself, wait_for
from lab import Lab, lab

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import Views

EXAMPLE = Path(__file__).resolve().parents[2] / "inventories/example_site/example.site.yml"
PAIR = ("paris-gw1", "paris-gw2")
CONNECTION = "paris-gw1@paris-gw2"
BEYOND = "lyon-gw1"
# The preferred gateway of each place has the shared address, as nobody moves it here.
SHARED = {"paris-gw1": "paris", "lyon-gw1": "lyon"}
# Which is patient for 13 s as delivered.
SETTINGS = "retransmit_timeout = 0.3\n  retransmit_tries = 3"
HURRY = {"__strongswan_liveness": 1}
Children = dict[str, tuple[list[str], list[str]]]


class Gateways:
    """Gateways of the example site on one wire, without the daemon that moves addresses."""

    def __init__(self, made: Lab) -> None:
        self._lab = made
        self.plan = load(EXAMPLE).plan
        self._views = Views(self.plan)
        self._root = Authority.root("Root")
        self._own = {}
        self.daemons: dict[str, Daemon] = {}
        made.add_users({"ipsec": USER, "keepalived": USER + 1})
        made.add_namespace("wire")
        made.run("ip", "-netns", "wire", "link", "add", "bridge", "type", "bridge")
        made.run("ip", "-netns", "wire", "link", "set", "bridge", "up")
        for name in (*PAIR, BEYOND):
            made.add_namespace(name)
            made.add_link((name, "outer"), ("wire", name))
            made.run("ip", "-netns", "wire", "link", "set", name, "master", "bridge")
            addresses = self.plan.gateway_own(name)
            if name in SHARED:
                addresses = [*addresses, *self.plan.gateway_addresses(SHARED[name])]
            made.add_address(name, "outer", *(f"{address}/{(24, 32)[address.version == 6]}" for address in addresses))
            identities = (self.plan.fqdn(name), self.plan.gateway_identity(self.plan.gateways[name]))
            self._own[name] = self._root.issue(identities[0], also=identities[1:])
            rulesets = self._views.variables(name)["firewall"]["firewall_rulesets"]
            rules = rendering.render("firewall", firewall_rulesets=rulesets)["etc/nftables.d/host.nft"]
            made.run("nft", "-f", "-", namespace=name, stdin=rules)
            self.daemons[name] = Daemon(made, name, role="gateway", settings=SETTINGS)
        made.add_tun_device()

    def start(self, name: str) -> None:
        """From nothing, or after it was killed."""
        daemon = self.daemons[name]
        if (daemon.directory / "pid").exists():
            daemon.restart()
        else:
            daemon.start()
        self.configure(name)

    def configure(self, name: str) -> None:
        self.daemons[name].configure(
            self.connections(name),
            own=self._own[name],
            authorities={"site.pem": self._root.pem},
            revocations=[self._root.revocations()],
            change=started_by_itself,
            **HURRY,
        )

    def connections(self, name: str) -> list[dict[str, Any]]:
        """All but those of clients, which are not here."""
        found = self._views.variables(name)["strongswan"]["strongswan_connections"]
        return [each for each in found if "@" in each["name"] or each["initiator"]]

    def wanted(self, name: str, connection: str) -> Children:
        """The children of a connection, with the addresses of both ends."""
        (found,) = (each for each in self.connections(name) if each["name"] == connection)
        return {child["name"]: (sorted(child["local"]), sorted(child["remote"])) for child in found["children"]}

    def up(self, name: str, connection: str) -> Children:
        """Those that are there."""
        found: Children = {}
        parts = re.split(r"(?m)^(?=\S)", self.daemons[name].associations())
        for part in (each for each in parts if each.startswith(f"{connection}: ")):
            for child in re.split(r"(?m)^  (?=\S+: #)", part)[1:]:
                local, remote = (re.findall(rf"^    {end} +(.+)$", child, re.MULTILINE) for end in ("local", "remote"))
                if ", INSTALLED, " in child:
                    found[child.partition(":")[0]] = (sorted(local[-1].split()), sorted(remote[-1].split()))
        return found

    def complete(self, *names: str, connection: str = CONNECTION) -> bool:
        return all(self.up(name, connection) == self.wanted(name, connection) for name in names)

    def stop(self) -> None:
        for daemon in self.daemons.values():
            daemon.stop()


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    with lab(tmp_path_factory.mktemp("gateways") / "shared") as made:
        found = Gateways(made)
        yield found
        found.stop()


@pytest.mark.parametrize("order", [PAIR, PAIR[::-1]], ids=["first", "second"])
def test_pair_connects_in_either_order(gateways: Gateways, order: tuple[str, str]) -> None:
    gateways.stop()
    for name in order:
        gateways.start(name)
        time.sleep(1)  # the first one asks in vain meanwhile
    wait_for(lambda: gateways.complete(*PAIR), "the pair is not connected", seconds=20)
    for name in PAIR:
        assert len(gateways.up(name, CONNECTION)) == 2 * len(gateways.plan.site.tunnels)


def test_pair_connects_when_both_start_at_once(gateways: Gateways) -> None:
    gateways.stop()
    threads = [threading.Thread(target=gateways.start, args=(name,)) for name in PAIR]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: gateways.complete(*PAIR), "the pair is not connected", seconds=20)
    # If both begin, either one of the two goes or both stay, which does no harm; but none is made over and over.
    wait_for(lambda: _quiet(gateways, seconds=4), "the connection is made over and over", seconds=30)
    assert gateways.complete(*PAIR)
    for name in PAIR:
        assert established(gateways, name) in (1, 2)


def _quiet(gateways: Gateways, *, seconds: float) -> bool:
    """Whether for a time neither of the pair makes the connection anew."""
    for name in PAIR:
        gateways.daemons[name].log()
    time.sleep(seconds)
    made = [re.findall(r"IKE_SA .* established", gateways.daemons[name].log()) for name in PAIR]
    return not any(f"{CONNECTION}[" in line for lines in made for line in lines)


@pytest.mark.parametrize("killed", PAIR)
def test_pair_connects_again_when_a_daemon_is_killed(gateways: Gateways, killed: str) -> None:
    for name in PAIR:
        if not gateways.up(name, CONNECTION):
            gateways.start(name)
    wait_for(lambda: gateways.complete(*PAIR), "the pair is not connected", seconds=20)
    gateways.start(killed)
    wait_for(lambda: gateways.complete(*PAIR), "the pair is not connected again", seconds=20)
    # What the other one had with the daemon that was killed is gone, too.
    wait_for(lambda: established(gateways, PAIR[0]) == established(gateways, PAIR[1]), "they disagree", seconds=20)


def test_waiting_gateway_is_connected_to_another_place(gateways: Gateways) -> None:
    """While the connection of the two places, which begins at the shared address, does not come up on it."""
    waiting, visit, places = PAIR[1], f"{PAIR[1]}@lyon", "lyon-paris"
    # A daemon without connections refuses who comes; on a machine nobody reaches it until it has them (ipsec_gateway).
    for name in (BEYOND, *PAIR):
        gateways.start(name)
    wait_for(lambda: gateways.complete(waiting, BEYOND, connection=visit), "it is not connected", seconds=20)
    wait_for(lambda: gateways.complete(PAIR[0], BEYOND, connection=f"{PAIR[0]}@lyon"), "nor the other", seconds=20)
    wait_for(lambda: gateways.complete(PAIR[0], BEYOND, connection=places), "the places are not", seconds=20)
    assert not gateways.up(waiting, places)
    everywhere = gateways.up(waiting, visit)
    assert set(everywhere) == set(gateways.plan.site.tunnels)
    # It is reached there from both sides, by the same addresses, and nothing else of its place comes along.
    for tunnel, (local, remote) in everywhere.items():
        assert gateways.up(BEYOND, visit)[tunnel] == (remote, local)
        assert all(each.endswith(("/32", "/128")) for each in local)


def established(gateways: Gateways, name: str) -> int:
    """How often the pair is connected."""
    return len(re.findall(rf"^{CONNECTION}: #\d+, ESTABLISHED", gateways.daemons[name].associations(), re.MULTILINE))
