# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The address plan: each host with its addresses, its zones and its tunnels.

Every address follows from numbers that stand in the site file, so adding a host never moves another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.inventory import detect_range, expand_hostname_range

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import (
    Address,
    Host,
    Interface,
    Network,
    Place,
    PlaceNetwork,
    Product,
    Site,
    Tunnel,
    Zone,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Problem, unknown

MAX_HOSTS = 100_000  # more in one file is a slip in a range, and takes the machine's memory
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_RANGE = re.compile(r"\[([0-9]+):([0-9]+)(?::([0-9]+))?\]")
IPV6_SLICE = 64  # prefix length of a place's slice; that of IPv4 is the pool's to say


@dataclass(frozen=True)
class Member:
    """One host, ranges unrolled.

    :param key: its key in the site file.
    """

    name: str
    key: str
    number: int
    host: Host


@dataclass(frozen=True)
class Resolved:
    """Who is in a zone.

    :param hosts: names of hosts.
    :param networks: networks of places, and those the site does not describe.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()


@dataclass
class Plan:
    """A site with everything that follows from its numbers. Only a site without problems gives a whole plan."""

    site: Site
    units: Mapping[str, frozenset[str]]  # by product
    users: Mapping[str, frozenset[str]]  # by product
    authorities: Mapping[str, bytes] = field(default_factory=dict)  # certificates by name of file
    profile_directories: tuple[Path, ...] = ()  # with confinement profiles of the site's own
    members: dict[str, Member] = field(default_factory=dict)
    zones: dict[str, Resolved] = field(default_factory=dict)
    tunnel_hosts: dict[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def gateways(self) -> dict[str, str]:
        """Place by gateway."""
        return {
            name: place
            for place, part in self.site.places.items()
            if part.gateways is not None
            for name in part.gateways.hosts
        }

    @cached_property
    def tunnels_of(self) -> dict[str, tuple[str, ...]]:
        """The tunnels of each host that has any, in the order of the file."""
        found: dict[str, list[str]] = {}
        for tunnel in self.site.tunnels:
            for name in self.tunnel_hosts.get(tunnel, ()):
                found.setdefault(name, []).append(tunnel)
        return {name: tuple(tunnels) for name, tunnels in found.items()}

    @cached_property
    def zones_of(self) -> dict[str, frozenset[str]]:
        """The zones of each host that is in any. Hosts in the same zones share one set."""
        found: dict[str, set[str]] = {}
        shared: dict[frozenset[str], frozenset[str]] = {}
        for zone, resolved in self.zones.items():
            for name in resolved.hosts:
                found.setdefault(name, set()).add(zone)
        return {name: shared.setdefault(frozenset(zones), frozenset(zones)) for name, zones in found.items()}

    @cached_property
    def _slices(self) -> dict[tuple[str, str], list[Network]]:
        return {
            (tunnel, place): list(slices(part, self.site.places[place]))
            for tunnel, part in self.site.tunnels.items()
            for place in self.site.places
        }

    def slice(self, tunnel: str, place: str) -> list[Network]:
        """The inner networks of a place in a tunnel, at most one of each family."""
        return self._slices[tunnel, place]

    def inner(self, name: str, tunnel: str) -> list[Address]:
        """The addresses of a host in a tunnel."""
        member = self.members[name]
        own = member.host.addresses.get(tunnel)
        return own if own else [at(network, member.number) for network in self.slice(tunnel, member.host.place)]

    def network_of(self, member: Member, interface: str, part: Interface) -> PlaceNetwork | None:
        """The network that an interface is on."""
        place = self.site.places.get(member.host.place)
        return place.networks.get(part.network or interface) if place is not None else None

    def outer(self, member: Member, interface: str, part: Interface) -> list[Address]:
        """The fixed addresses of an interface; none if it asks by DHCP."""
        network = self.network_of(member, interface, part)
        if network is None or (network.dhcp if part.dhcp is None else part.dhcp):
            return []
        return part.addresses or [at(pool, member.number) for pool in network.networks]

    def gateway_addresses(self, place: str) -> list[Address]:
        """The addresses at which the gateways of a place are reached."""
        gateways = self.site.places[place].gateways
        if gateways is None:
            return []
        return gateways.addresses or self.gateway_own(gateways.hosts[0])

    def gateway_interface(self, name: str) -> str | None:
        """The interface of a gateway on the network where peers reach it."""
        member, gateways = self.members.get(name), self.site.places[self.gateways[name]].gateways
        if member is None or gateways is None:
            return None
        found = (key for key, part in member.host.interfaces.items() if (part.network or key) == gateways.network)
        return next(found, None)

    def gateway_own(self, name: str) -> list[Address]:
        """The addresses that a gateway has there beside those that a pair shares."""
        interface = self.gateway_interface(name)
        if interface is None:
            return []
        member = self.members[name]
        return self.outer(member, interface, member.host.interfaces[interface])

    def partner(self, name: str) -> str | None:
        """The other gateway of a pair."""
        gateways = self.site.places[self.gateways[name]].gateways if name in self.gateways else None
        others = [host for host in gateways.hosts if host != name] if gateways is not None else []
        return others[0] if others else None

    def preferred(self, name: str) -> bool:
        """Whether a gateway is the first of its place."""
        gateways = self.site.places[self.gateways[name]].gateways
        return gateways is not None and gateways.hosts[0] == name

    def fqdn(self, name: str) -> str:
        """Identity of a host, in certificates and names."""
        return f"{name}.{self.site.domain}"

    def gateway_identity(self, place: str) -> str:
        """Identity that the gateways of a place share."""
        return f"gateway.{place}.{self.site.domain}"

    def tunnel_networks(self, tunnel: str) -> list[Network]:
        """The networks behind gateways that a tunnel leads to."""
        return [
            network
            for place in self.site.places.values()
            for part in place.networks.values()
            if part.tunnel == tunnel
            for network in part.networks
        ]

    def inside(self, tunnel: str) -> list[Network]:
        """All that belongs to a tunnel: its pool, and the networks that its gateways lead into."""
        pool = self.site.tunnels[tunnel].pool
        return [*pool.networks, *self.tunnel_networks(tunnel)]

    def selectors(self, tunnel: str) -> list[Network]:
        """What a host reaches through a tunnel."""
        return self.site.tunnels[tunnel].selectors or self.inside(tunnel)

    def members_of(self, name: str, tunnel: str) -> list[str]:
        """The units of a host that live in a tunnel."""
        units = self.units.get(self.members[name].host.product, frozenset())
        return [unit for unit in self.site.tunnels[tunnel].members if unit in units]


def at(network: Network, number: int) -> Address:
    """The address at a number; one outside the network if the number does not fit, which is an error elsewhere."""
    value = int(network.network_address) + number & (1 << network.max_prefixlen) - 1
    return IPv4Address(value) if network.version == 4 else IPv6Address(value)


def single(address: Address) -> str:
    """A network of one address, as text."""
    return f"{address}/{address.max_prefixlen}"


def slices(tunnel: Tunnel, place: Place) -> Iterator[Network]:
    """The part of each pool of a tunnel that is a place's; nothing where the pool is too small for its number."""
    if tunnel.pool.ipv4 is not None:
        yield from _slice(tunnel.pool.ipv4, tunnel.pool.place_prefix, place.number)
    if tunnel.pool.ipv6 is not None:
        yield from _slice(tunnel.pool.ipv6, IPV6_SLICE, place.number)


def _slice(pool: Network, prefix: int, number: int) -> Iterator[Network]:
    if pool.prefixlen <= prefix and number < 1 << (prefix - pool.prefixlen):
        first = int(pool.network_address) + (number << (pool.max_prefixlen - prefix))
        yield type(pool)((first, prefix))


def make(
    site: Site, products: Mapping[str, Product], authorities: Mapping[str, bytes], directory: Path
) -> tuple[Plan, list[Problem]]:
    """Unroll ranges and resolve zones.

    :param products: those of the collection.
    :param authorities: certificates of the site's authorities, by name of file.
    :param directory: that of the site file.
    """
    known = {**products, **site.products}
    units = {name: frozenset(product.units) for name, product in known.items()}
    users = {name: frozenset(product.users) for name, product in known.items()}
    profile_directories = tuple(directory / name for name in site.confinement_profile_directories)
    plan = Plan(site, units, users, authorities, profile_directories)
    problems: list[Problem] = []
    problems += _unroll(plan)
    problems += _resolve(plan)
    for name, tunnel in site.tunnels.items():
        hosts = {host for zone in tunnel.peers if zone in plan.zones for host in plan.zones[zone].hosts}
        plan.tunnel_hosts[name] = frozenset(hosts | {gateway for gateway in plan.gateways if gateway in plan.members})
    return plan, problems


def _unroll(plan: Plan) -> Iterator[Problem]:
    for key, host in plan.site.hosts.items():
        if len(plan.members) + _length(key) > MAX_HOSTS:
            yield Problem(("hosts", key), f"makes more than {MAX_HOSTS} hosts", "correct the range, or split the site")
            continue
        try:
            names = expand_hostname_range(key) if detect_range(key) else [key]
        except (AnsibleError, ValueError) as exc:
            said = " ".join(str(exc).split()).lower()
            yield Problem(("hosts", key), f"is no range: {said}", "write it as name-[01:20]")
            continue
        if not names:
            yield Problem(("hosts", key), "is an empty range", "write it as name-[01:20]")
        for offset, name in enumerate(names):
            if not _LABEL.fullmatch(name) or len(name) > 63:
                yield Problem(("hosts", key), f"{name!r} is no host name", "use a-z, 0-9 and -, not at the ends")
            elif name in plan.members:
                other = plan.members[name].key
                yield Problem(("hosts", key), f"{name} is there already ({other})", "take it out of one of them")
            else:
                plan.members[name] = Member(name, key, host.number + offset, host)


def _length(key: str) -> int:
    """How many hosts a key stands for; cheap, however large the range."""
    ranges = ((int(first), int(last), int(step or 1)) for first, last, step in _RANGE.findall(key))
    return math.prod(max(0, last - first) // max(1, step) + 1 for first, last, step in ranges)


def _resolve(plan: Plan) -> Iterator[Problem]:
    by_product: dict[str, set[str]] = {}
    by_place: dict[str, set[str]] = {}
    for name, member in plan.members.items():
        by_product.setdefault(member.host.product, set()).add(name)
        by_place.setdefault(member.host.place, set()).add(name)
    for name, zone in plan.site.zones.items():
        hosts, networks = _hosts(plan, zone, by_product, by_place), list(zone.addresses)
        yield from _unknown(plan, name, zone)
        for index, text in enumerate(zone.networks):
            place, _slash, network = text.partition("/")
            part = plan.site.places[place].networks.get(network) if place in plan.site.places else None
            if part is None:
                known = [f"{place}/{network}" for place, part in plan.site.places.items() for network in part.networks]
                yield unknown(("zones", name, "networks", index), "network", text, known)
            else:
                networks += part.networks
        plan.zones[name] = Resolved(frozenset(hosts), tuple(networks))


def _hosts(plan: Plan, zone: Zone, by_product: Mapping[str, set[str]], by_place: Mapping[str, set[str]]) -> set[str]:
    of_products = {name for product in zone.products for name in by_product.get(product, ())}
    of_places = {name for place in zone.places for name in by_place.get(place, ())}
    hosts = of_products & of_places if zone.products and zone.places else of_products | of_places
    for pattern in zone.hosts:
        hosts |= _matching(plan.members, pattern)
    for pattern in zone.without:
        hosts -= _matching(plan.members, pattern)
    return hosts


def _matching(members: Mapping[str, Any], pattern: str) -> set[str]:
    if pattern in members:
        return {pattern}
    return {name for name in members if fnmatchcase(name, pattern)} if set(pattern) & set("*?[") else set()


def _unknown(plan: Plan, name: str, zone: Zone) -> Iterator[Problem]:
    for key, values, known in (("products", zone.products, plan.units), ("places", zone.places, plan.site.places)):
        for index, value in enumerate(values):
            if value not in known:
                yield unknown(("zones", name, key, index), key.removesuffix("s"), value, known)
    for key in ("hosts", "without"):
        for index, pattern in enumerate(getattr(zone, key)):
            if not _matching(plan.members, pattern):
                problem = f"{pattern!r} is no host and matches none"
                yield Problem(("zones", name, key, index), problem, "correct it, or take it away")
