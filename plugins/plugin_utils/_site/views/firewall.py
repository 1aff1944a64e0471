# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the model means for role ``firewall``: one ruleset for each namespace of a host.

Rules are the same for all hosts that the same rules of the policy concern, so they name no address of the host itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from ipaddress import collapse_addresses, ip_network
from itertools import product
from typing import Any

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.checks.policy import ends, outer_addresses
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import (
    HOST_RULESET,
    OUTER,
    Address,
    RawRule,
    Service,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.shared import Shared

IKE_PORT = 4500
_IKE_USER = "ipsec"
_DHCP_USER = "systemd-network"
_PEERS = "ipsec_peers"
_PAIR_USER = "keepalived"
_PAIR = "gateway_pair"
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}

Elements = dict[int, list[str]]
Rules = dict[str, list[dict[str, Any]]]


class Firewall:
    """Computes rulesets."""

    def __init__(self, plan: Plan, shared: Shared) -> None:
        self._plan = plan
        self._shared = shared
        self._versions = (4, 6) if plan.site.ipv6 else (4,)
        self._elements: dict[tuple[str, str], Elements] = {}

    def rulesets(self, name: str) -> list[dict[str, Any]]:
        """Value of ``firewall_rulesets`` for a host."""
        plan = self._plan
        zones = plan.zones_of.get(name, frozenset())
        gateway = name in plan.gateways
        dhcp = self._asks_dhcp(name)
        paired = name if plan.partner(name) else None
        key = ("firewall", HOST_RULESET, zones, gateway, dhcp, plan.members[name].host.place, paired)
        found = [self._shared.get(key, partial(self._host, name, zones, gateway=gateway, dhcp=dhcp))]
        for tunnel in plan.tunnels_of.get(name, ()):
            make = partial(self._tunnel, tunnel, zones, gateway=gateway)
            found.append(self._shared.get(("firewall", tunnel, zones, gateway), make))
        return found

    def _asks_dhcp(self, name: str) -> bool:
        member = self._plan.members[name]
        parts = member.host.interfaces.items()
        return not parts or any(not self._plan.outer(member, interface, part) for interface, part in parts)

    def _host(self, name: str, zones: frozenset[str], *, gateway: bool, dhcp: bool) -> dict[str, Any]:
        plan = self._plan
        rules: Rules = {"input": [], "forward": [], "output": []}
        sets: dict[str, Elements] = {}
        if plan.tunnels_of.get(name):
            self._ike(rules, sets, plan.members[name].host.place, gateway=gateway)
        self._pair(rules, sets, name)
        if dhcp:
            self._dhcp(rules)
        self._policy(rules, sets, OUTER, zones, forward=False)
        return self._ruleset(HOST_RULESET, rules, sets, zones)

    def _tunnel(self, tunnel: str, zones: frozenset[str], *, gateway: bool) -> dict[str, Any]:
        rules: Rules = {"input": [], "forward": [], "output": []}
        sets: dict[str, Elements] = {}
        self._policy(rules, sets, tunnel, zones, forward=gateway)
        return self._ruleset(tunnel, rules, sets, zones)

    def _ike(self, rules: Rules, sets: dict[str, Elements], place: str, *, gateway: bool) -> None:
        """IKE and ESP in UDP. Peers of a gateway are anywhere; a host speaks to its gateways alone."""
        known = self._plan.gateway_addresses(place)
        elements: Elements = {
            version: [str(address) for address in known if address.version == version] for version in self._versions
        }
        for version in self._versions:
            if not gateway and not elements[version]:
                continue
            peers = None if gateway else f"{_PEERS}{version}"
            if peers:
                sets[_PEERS] = elements
            comment = "IKE and ESP in UDP"
            sources = [] if gateway else [IKE_PORT]
            rules["input"].append(_rule(version, comment, "udp", ports=[IKE_PORT], source_ports=sources, source=peers))
            to_peers = {
                "ports": [] if gateway else [IKE_PORT],
                "source_ports": [IKE_PORT],
                "destination": peers,
            }
            rules["output"] += [
                _rule(version, "IKE", "udp", **to_peers, user=_IKE_USER),
                # The kernel sends it, on behalf of no user.
                _rule(version, "ESP in UDP", "esp", **to_peers),
            ]

    def _pair(self, rules: Rules, sets: dict[str, Elements], name: str) -> None:
        """VRRP, between the two of a pair alone, from and to their own addresses."""
        plan, other = self._plan, self._plan.partner(name)
        if other is None:
            return
        interface = plan.gateway_interface(name)
        sets[_PAIR] = _by_version([*plan.gateway_own(name), *plan.gateway_own(other)])
        for version in sorted({address.version for address in plan.gateway_addresses(plan.gateways[name])}):
            ends = {"source": f"{_PAIR}{version}", "destination": f"{_PAIR}{version}"}
            rule = _rule(version, "VRRP of the pair", "vrrp", interface=interface, **ends)
            rules["input"].append(rule)
            rules["output"].append({**rule, "user": _PAIR_USER})

    def _dhcp(self, rules: Rules) -> None:
        for version in self._versions:
            client, server = (68, 67) if version == 4 else (546, 547)
            comment = "DHCP" if version == 4 else "DHCPv6"
            rules["input"].append(_rule(version, comment, "udp", ports=[client], source_ports=[server]))
            rules["output"].append(
                _rule(version, comment, "udp", ports=[server], source_ports=[client], user=_DHCP_USER)
            )

    def _policy(
        self, rules: Rules, sets: dict[str, Elements], via: str, zones: frozenset[str], *, forward: bool
    ) -> None:
        """The rules of the policy that concern hosts of these zones, and on gateways all that goes through them."""
        for rule in self._plan.site.policy:
            if rule.via != via:
                continue
            for source, destination, name in product(rule.sources, rule.destinations, rule.services):
                service = self._plan.site.services[name]
                asks, answers = self._elements_of(via, source), self._elements_of(via, destination)
                comment = rule.comment or f"{source} to {destination}: {name}"
                for version, ports in self._uses(service):
                    asking, answering = f"{source}{version}", f"{destination}{version}"
                    if source in zones and answers[version]:
                        sets[destination] = answers
                        rules["output"].append(
                            _rule(version, comment, destination=answering, user=service.user, **ports)
                        )
                    if destination in zones and asks[version]:
                        sets[source] = asks
                        rules["input"].append(_rule(version, comment, source=asking, **ports))
                    if forward and asks[version] and answers[version]:
                        sets[source], sets[destination] = asks, answers
                        rules["forward"].append(_rule(version, comment, source=asking, destination=answering, **ports))

    def _uses(self, service: Service) -> Iterator[tuple[int, dict[str, Any]]]:
        for version in self._versions:
            for protocol, ports in (("tcp", service.tcp), ("udp", service.udp)):
                if ports:
                    yield version, {"protocol": protocol, "ports": list(ports)}
            if service.icmp:
                yield version, {"protocol": "icmp"}

    def _elements_of(self, via: str, zone: str) -> Elements:
        key = (via, zone)
        if key not in self._elements:
            plan = self._plan
            hosts, networks = ends(plan, via, zone)
            addresses = [
                address
                for name in hosts
                for address in (outer_addresses(plan, name) if via == OUTER else plan.inner(name, via))
            ]
            everything = [*map(ip_network, addresses), *networks]
            self._elements[key] = {
                version: [_element(network) for network in collapse_addresses(_of(everything, version))]
                for version in (4, 6)
            }
        return self._elements[key]

    def _tunnelled(self, *, outside: bool) -> dict[str, list[str]]:
        """What belongs into a tunnel, and so never passes outside."""
        tunnels = self._plan.site.tunnels if outside else ()
        everything = [network for tunnel in tunnels for network in self._plan.inside(tunnel)]
        return {
            f"tunnelled_ipv{version}": [_element(network) for network in collapse_addresses(_of(everything, version))]
            for version in (4, 6)
        }

    def _ruleset(self, name: str, rules: Rules, sets: dict[str, Elements], zones: frozenset[str]) -> dict[str, Any]:
        raw = [rule for rule in self._plan.site.raw if rule.ruleset == name and rule.zone in zones]
        return {
            "name": name,
            "ipv6": self._plan.site.ipv6,
            **self._tunnelled(outside=name == HOST_RULESET),
            "sets": [
                {"name": f"{zone}{version}", "type": _TYPES[version], "elements": elements[version]}
                for zone, elements in sorted(sets.items())
                for version in self._versions
                if elements.get(version)
            ],
            **rules,
            "raw": [_raw(rule) for rule in raw],
        }


def _rule(version: int, comment: str, protocol: str, **others: Any) -> dict[str, Any]:
    return {
        "comment": comment,
        "protocol": protocol,
        "ports": [],
        "source_ports": [],
        "source": None,
        "destination": None,
        "family": f"ipv{version}",
        "user": None,
        "interface": None,
        **others,
    }


def _by_version(addresses: Iterable[Address]) -> Elements:
    found = list(addresses)
    return {version: sorted(str(each) for each in found if each.version == version) for version in (4, 6)}


def _raw(rule: RawRule) -> dict[str, Any]:
    return {"chain": rule.chain, "rule": rule.rule, "comment": rule.reason}


def _of(networks: Iterable[Any], version: int) -> list[Any]:
    return [network for network in networks if network.version == version]


def _element(network: Any) -> str:
    """One address is written without its prefix length."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
