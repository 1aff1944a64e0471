# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Tunnels and gateways: what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import HOST_RULESET, OUTER, Network
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import IPV6_SLICE, Plan, slices
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Keys, Problem, choose, unknown

_RESERVED = (OUTER, HOST_RULESET, "lo", "all", "default", "none")
_GATEWAY = "gateway"
_MODERN = "modern"


def tunnels(plan: Plan) -> Iterator[Problem]:
    """Names, identifiers and members of tunnels are their own; pools have room; selectors stay inside."""
    if_ids: dict[int, str] = {}
    members: dict[str, str] = {}
    for name, tunnel in plan.site.tunnels.items():
        path: Keys = ("tunnels", name)
        if name in _RESERVED:
            yield Problem(path, f"{name!r} means something else in rules", "choose another name")
        other = if_ids.setdefault(tunnel.if_id, name)
        if other != name:
            yield Problem((*path, "if_id"), f"{tunnel.if_id} is that of {other} too", "give each tunnel its own")
        for index, zone in enumerate(tunnel.peers):
            if zone not in plan.site.zones:
                yield unknown((*path, "peers", index), "zone", zone, plan.site.zones)
            elif zone in plan.zones and not plan.zones[zone].hosts:
                yield Problem(
                    (*path, "peers", index), f"zone {zone} has no host", "add hosts to the zone, or take it away"
                )
        for index, unit in enumerate(tunnel.members):
            where = (*path, "members", index)
            if not any(unit in units for units in plan.units.values()):
                yield Problem(where, f"no product has a unit {unit}", "correct it, or name it in products")
            before = members.setdefault(unit, name)
            if before != name:
                yield Problem(where, f"{unit} is a member of {before} already", "a unit lives in one namespace")
        yield from _pool(plan, name)
        yield from _selectors(plan, name)


def profiles(plan: Plan) -> Iterator[Problem]:
    """What the strongSwan of the images cannot do must not look as if it could."""
    remedy = "choose dr: strongSwan 6.0 of Debian 13 is built without ML-KEM"
    if plan.site.ipsec.profile == _MODERN:
        yield Problem(("ipsec", "profile"), f"{_MODERN} finds no peer", remedy)
    for key, host in plan.site.hosts.items():
        if host.profile == _MODERN:
            yield Problem(("hosts", key, "profile"), f"{_MODERN} finds no peer", remedy)


def _pool(plan: Plan, name: str) -> Iterator[Problem]:
    tunnel = plan.site.tunnels[name]
    for pool in tunnel.pool.networks:
        path: Keys = ("tunnels", name, "pool", f"ipv{pool.version}")
        prefix = tunnel.pool.place_prefix if pool.version == 4 else IPV6_SLICE
        if pool.prefixlen > prefix:
            yield Problem(path, f"{pool} is smaller than the /{prefix} of one place", "choose a larger network")
            continue
        for place, part in plan.site.places.items():
            if not any(found.version == pool.version for found in slices(tunnel, part)):
                problem = f"{pool} has no /{prefix} number {part.number}, for {place}"
                yield Problem(path, problem, "choose a larger network or a smaller number")


def _selectors(plan: Plan, name: str) -> Iterator[Problem]:
    tunnel = plan.site.tunnels[name]
    inside = plan.inside(name)
    for index, selector in enumerate(tunnel.selectors):
        if not any(_within(selector, network) for network in inside):
            known = ", ".join(str(network) for network in inside)
            path = ("tunnels", name, "selectors", index)
            yield Problem(
                path, f"{selector} is outside the pool and the networks of the tunnel", f"stay within {known}"
            )
    for index, address in enumerate(tunnel.dns):
        if not any(address in network for network in inside):
            yield Problem(
                ("tunnels", name, "dns", index), f"{address} is not reached through {name}", "choose one that is"
            )


def _within(part: Network, whole: Network) -> bool:
    return part.version == whole.version and part.subnet_of(whole)  # type: ignore[arg-type]


def gateways(plan: Plan) -> Iterator[Problem]:
    """Gateways are hosts of their place that peers can reach, and a pair can tell its own addresses from the shared."""
    seen: dict[str, str] = {}
    for name, place in plan.site.places.items():
        if place.gateways is None:
            continue
        path: Keys = ("places", name, "gateways")
        network = place.networks.get(place.gateways.network)
        if network is None:
            problem = f"{name} has no network {place.gateways.network}"
            yield Problem((*path, "network"), problem, choose(place.networks))
        for index, address in enumerate(place.gateways.addresses):
            pool = None if network is None else network.of(address.version)
            if network is not None and (pool is None or address not in pool):
                yield Problem(
                    (*path, "addresses", index),
                    f"{address} is outside {name}/{place.gateways.network}",
                    "choose one inside",
                )
        for index, host in enumerate(place.gateways.hosts):
            where = (*path, "hosts", index)
            other = seen.setdefault(host, name)
            if host not in plan.members:
                yield Problem(where, f"there is no host {host}", "add it to hosts")
                continue
            member = plan.members[host]
            if other != name or place.gateways.hosts.index(host) != index:
                yield Problem(where, f"{host} is named twice (in {other})", "name each gateway once")
            if member.host.place != name:
                yield Problem(where, f"{host} is at {member.host.place}", "choose a host of this place")
            if member.host.product != _GATEWAY:
                yield Problem(where, f"{host} is a {member.host.product}", "choose a host of product gateway")
            elif len(place.gateways.hosts) > 1 and network is not None:
                own = {address.version for address in plan.gateway_own(host)}
                for version in sorted({address.version for address in place.gateways.addresses} - own):
                    problem = f"{host} has no fixed IPv{version} address of its own on {place.gateways.network}"
                    yield Problem(where, problem, "give it one: the two of a pair speak from their own addresses")
        if len(place.gateways.hosts) > 1 and not place.gateways.addresses:
            yield Problem((*path, "addresses"), "is missing", "give the address that the pair shares")
        elif not plan.gateway_addresses(name) and all(host in plan.members for host in place.gateways.hosts):
            yield Problem((*path, "addresses"), "no address is known", "give one, or a fixed address to the gateway")
