# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Places and their networks: what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Address, AddressPair, Network
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Keys, Problem, unknown


def places(plan: Plan) -> Iterator[Problem]:
    """Numbers of places are their own, and what stands in a network can be reached there."""
    numbers: dict[int, str] = {}
    for name, place in plan.site.places.items():
        other = numbers.setdefault(place.number, name)
        if other != name:
            yield Problem(
                ("places", name, "number"), f"{place.number} is that of {other} too", "give each place its own"
            )
        for network, part in place.networks.items():
            path: Keys = ("places", name, "networks", network)
            for index, router in enumerate(part.routers):
                yield from _next_hop(part, router, (*path, "routers", index))
            for index, route in enumerate(part.routes):
                yield from _next_hop(part, route.via, (*path, "routes", index, "via"))
                if route.destination.version != route.via.version:
                    at = (*path, "routes", index, "destination")
                    yield Problem(
                        at, f"{route.destination} is not of the family of {route.via}", "give both of one family"
                    )
            for version in (4, 6):
                if len([router for router in part.routers if router.version == version]) > 1:
                    yield Problem(
                        (*path, "routers"), f"more than one router for IPv{version}", "give one of each family"
                    )
            if part.tunnel is not None and part.tunnel not in plan.site.tunnels:
                yield unknown((*path, "tunnel"), "tunnel", part.tunnel, plan.site.tunnels)
            if part.tunnel is not None and place.gateways is None:
                yield Problem((*path, "tunnel"), f"{name} has no gateways that could lead into it", "add gateways")


def _next_hop(pair: AddressPair, address: Address, path: Keys) -> Iterator[Problem]:
    network = pair.of(address.version)
    if network is None:
        yield Problem(path, f"{address}: the network has no IPv{address.version}", "add it, or take it away")
    elif address not in network:
        yield Problem(path, f"{address} is outside {network}", "choose an address of the network")


def ipv6(plan: Plan) -> Iterator[Problem]:
    """IPv6 is on or off for the whole site, never half."""
    site = plan.site
    if site.ipv6:
        for name, tunnel in site.tunnels.items():
            if tunnel.pool.ipv6 is None:
                yield Problem(
                    ("tunnels", name, "pool", "ipv6"), "is missing", "add it, or set 'ipv6: off' for the site"
                )
        return
    remedy = "take it away, or set 'ipv6: on'"
    for path, value in _addresses(plan):
        if value.version == 6:
            yield Problem(path, f"{value} is IPv6, which this site refuses", remedy)


def _addresses(plan: Plan) -> Iterator[tuple[Keys, Address | Network]]:
    """Every address and network that the file names."""
    for place_name, place in plan.site.places.items():
        for name, network in place.networks.items():
            path: Keys = ("places", place_name, "networks", name)
            yield from (((*path, f"ipv{part.version}"), part) for part in network.networks)
            for key in ("routers", "dns"):
                yield from (((*path, key, index), value) for index, value in enumerate(getattr(network, key)))
            for index, route in enumerate(network.routes):
                yield (*path, "routes", index, "destination"), route.destination
        if place.gateways is not None:
            path = ("places", place_name, "gateways", "addresses")
            yield from (((*path, index), value) for index, value in enumerate(place.gateways.addresses))
    for name, tunnel in plan.site.tunnels.items():
        path = ("tunnels", name)
        yield from (((*path, "pool", f"ipv{part.version}"), part) for part in tunnel.pool.networks)
        for key in ("selectors", "dns"):
            yield from (((*path, key, index), value) for index, value in enumerate(getattr(tunnel, key)))
    for name, zone in plan.site.zones.items():
        yield from ((("zones", name, "addresses", index), value) for index, value in enumerate(zone.addresses))
    for key, host in plan.site.hosts.items():
        for interface, part in host.interfaces.items():
            path = ("hosts", key, "interfaces", interface, "addresses")
            yield from (((*path, index), value) for index, value in enumerate(part.addresses))
        for inside, values in host.addresses.items():
            yield from ((("hosts", key, "addresses", inside, index), value) for index, value in enumerate(values))


def overlaps(plan: Plan) -> Iterator[Problem]:
    """Networks and pools are apart, whoever they belong to: else a route or a selector means two things."""
    named: list[tuple[Network, Keys]] = []
    for place, part in plan.site.places.items():
        for name, network in part.networks.items():
            for found in network.networks:
                named.append((found, ("places", place, "networks", name, f"ipv{found.version}")))
    for name, tunnel in plan.site.tunnels.items():
        for found in tunnel.pool.networks:
            named.append((found, ("tunnels", name, "pool", f"ipv{found.version}")))
    ordered = sorted(named, key=lambda item: (item[0].version, int(item[0].network_address), item[0].prefixlen))
    widest = None
    for before, after in pairwise(ordered):
        widest = before if widest is None or _last(before) > _last(widest) else widest
        if widest[0].version == after[0].version and int(after[0].network_address) <= _last(widest)[1]:
            other = ".".join(str(key) for key in widest[1])
            yield Problem(after[1], f"{after[0]} overlaps {widest[0]} ({other})", "choose networks that are apart")


def _last(item: tuple[Network, Keys]) -> tuple[int, int]:
    return item[0].version, int(item[0].broadcast_address)
