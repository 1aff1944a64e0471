# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Hosts and their addresses: what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Address
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Member, Plan, slices
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Keys, Problem, choose, unknown


def hosts(plan: Plan) -> Iterator[Problem]:
    """Each host has a place, a product, a number of its own that fits, and gateways if it has tunnels."""
    numbers: dict[tuple[str, int], str] = {}
    with_tunnels = set(plan.tunnels_of)
    capacity = _capacity(plan)
    for name, member in plan.members.items():
        path: Keys = ("hosts", member.key)
        host = member.host
        if host.place not in plan.site.places:
            yield unknown((*path, "place"), "place", host.place, plan.site.places)
            continue
        if host.product not in plan.units:
            yield unknown((*path, "product"), "product", host.product, plan.units)
        other = numbers.setdefault((host.place, member.number), name)
        if other != name:
            yield Problem(
                (*path, "number"), f"{member.number} is that of {other} too", "give each host of a place its own"
            )
        if member.number >= capacity.get(host.place, member.number + 1):
            problem = f"{name}: {member.number} does not fit into the slices of {host.place}"
            yield Problem(
                (*path, "number"), problem, f"stay below {capacity[host.place]}, or choose a larger place_prefix"
            )
        if name in with_tunnels and plan.site.places[host.place].gateways is None:
            yield Problem((*path, "place"), f"{host.place} has no gateways for the tunnels of {name}", "add gateways")
        for tunnel, values in host.addresses.items():
            yield from _own_addresses(plan, name, member, tunnel, values)
        yield from _interfaces(plan, name, member)


def _capacity(plan: Plan) -> dict[str, int]:
    """The first number that has no address, by place."""
    found: dict[str, int] = {}
    for tunnel in plan.site.tunnels.values():
        for name, place in plan.site.places.items():
            for network in slices(tunnel, place):
                last = network.num_addresses - (1 if network.version == 4 else 0)
                found[name] = min(found.get(name, last), last)
    return found


def _own_addresses(plan: Plan, name: str, member: Member, tunnel: str, values: Iterable[Address]) -> Iterator[Problem]:
    path: Keys = ("hosts", member.key, "addresses", tunnel)
    if tunnel not in plan.site.tunnels:
        yield unknown(path, "tunnel", tunnel, plan.site.tunnels)
        return
    if name not in plan.tunnel_hosts[tunnel]:
        yield Problem(path, f"{name} is not in tunnel {tunnel}", "add it to a zone of its peers", follows=True)
    if member.key != name:
        yield Problem(path, "a range of hosts cannot share an address", "take the host out of the range")
    slices_here = plan.slice(tunnel, member.host.place)
    for index, value in enumerate(values):
        if not any(value in network for network in slices_here):
            known = ", ".join(str(network) for network in slices_here)
            yield Problem(
                (*path, index), f"{value} is outside the slice of {member.host.place}", f"choose one of {known}"
            )


def _interfaces(plan: Plan, name: str, member: Member) -> Iterator[Problem]:
    place = plan.site.places[member.host.place]
    for interface, part in member.host.interfaces.items():
        path: Keys = ("hosts", member.key, "interfaces", interface)
        if interface in plan.site.tunnels or interface == "lo":
            yield Problem(path, f"{interface!r} is the name of another interface", "choose another name")
        network = place.networks.get(part.network or interface)
        if network is None:
            where = (*path, "network") if part.network else path
            yield Problem(
                where, f"{member.host.place} has no network {part.network or interface}", choose(place.networks)
            )
            continue
        if member.key != name and (part.mac or part.addresses):
            key = "mac" if part.mac else "addresses"
            yield Problem((*path, key), "a range of hosts cannot share it", "take the host out of the range")
        if part.mac and part.path:
            yield Problem((*path, "path"), "mac and path are both given", "give one of them")
        if not (part.mac or part.path):
            yield Problem(
                path, "neither mac nor path is given", "give one, or no interfaces: then any wired one is used"
            )
        if network.tunnel is not None and name not in plan.gateways:
            yield Problem(path, f"{interface} leads into tunnel {network.tunnel}", "only gateways stand there")
        for index, address in enumerate(part.addresses):
            pool = network.of(address.version)
            if pool is None or address not in pool:
                yield Problem(
                    (*path, "addresses", index),
                    f"{address} is outside {member.host.place}/{part.network or interface}",
                    "choose one inside",
                )
        if not part.addresses:
            for address, pool in zip(plan.outer(member, interface, part), network.networks, strict=False):
                if address not in pool or (address == pool.broadcast_address and pool.version == 4):
                    problem = f"{name}: number {member.number} does not fit into {pool}"
                    yield Problem((*path, "addresses"), problem, "choose a larger network, or give an address")


def double_addresses(plan: Plan) -> Iterator[Problem]:
    """No two have one address or one hardware address."""
    seen: dict[Address, str] = {}
    macs: dict[str, str] = {}
    for place, part in plan.site.places.items():
        for address in part.gateways.addresses if part.gateways else []:
            seen.setdefault(address, f"the gateways of {place}")
        for network in part.networks.values():
            for address in network.routers:
                seen.setdefault(address, f"a router of {place}")
    for name, member in plan.members.items():
        if member.host.place not in plan.site.places:
            continue
        found: list[tuple[Keys, Address]] = []
        for interface, item in member.host.interfaces.items():
            path: Keys = ("hosts", member.key, "interfaces", interface)
            found += [((*path, "addresses"), address) for address in plan.outer(member, interface, item)]
            other = macs.setdefault(item.mac, name) if item.mac else name
            if other != name and not _one_range(plan, name, other):
                yield Problem((*path, "mac"), f"{item.mac} is that of {other} too", "correct one of them")
        if member.host.addresses:
            for tunnel in plan.tunnels_of.get(name, ()):
                found += [(("hosts", member.key, "addresses", tunnel), value) for value in plan.inner(name, tunnel)]
        for where, address in found:
            other = seen.setdefault(address, name)
            if other != name and not _one_range(plan, name, other):
                yield Problem(where, f"{address} is that of {other} too", "give each its own")


def _one_range(plan: Plan, name: str, other: str) -> bool:
    """Whether two hosts stand under one key; what they share is reported as that."""
    return other in plan.members and plan.members[other].key == plan.members[name].key


def inner_collisions(plan: Plan) -> Iterator[Problem]:
    """An address chosen by hand must not be what another host's number gives."""
    numbers = {(member.host.place, member.number): name for name, member in plan.members.items()}
    for name, member in plan.members.items():
        for tunnel, values in member.host.addresses.items():
            if tunnel not in plan.site.tunnels or member.host.place not in plan.site.places:
                continue
            for index, value in enumerate(values):
                for network in plan.slice(tunnel, member.host.place):
                    number = int(value) - int(network.network_address) if value in network else -1
                    other = numbers.get((member.host.place, number), name)
                    if other != name and not plan.members[other].host.addresses.get(tunnel):
                        where = ("hosts", member.key, "addresses", tunnel, index)
                        yield Problem(where, f"{value} is that of {other}, by its number", "choose a number of its own")


def connections(plan: Plan) -> Iterator[Problem]:
    """A connection is named after its client, that of two places after both: hosts must not be named so."""
    places = [name for name, place in plan.site.places.items() if place.gateways is not None]
    for first in places:
        for second in places:
            if first < second and f"{first}-{second}" in plan.members:
                member = plan.members[f"{first}-{second}"]
                problem = f"{member.name!r} is the name of the connection between {first} and {second}"
                yield Problem(("hosts", member.key), problem, "choose another name")
