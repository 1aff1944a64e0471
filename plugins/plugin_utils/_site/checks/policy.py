# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Rules: what they name, and whether a packet can ever match them."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import (
    HOST_RULESET,
    OUTER,
    Address,
    Network,
    Rule,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Keys, Problem, choose, unknown


def services(plan: Plan) -> Iterator[Problem]:
    """Ranges of ports count up, and a product has the user."""
    for name, service in plan.site.services.items():
        for key in ("tcp", "udp"):
            for index, port in enumerate(getattr(service, key)):
                if isinstance(port, str):
                    first, last = map(int, port.split("-"))
                    if not 1 <= first < last <= 65535:
                        yield Problem(
                            ("services", name, key, index), f"{port!r} is no range of ports", "write it as 6000-6010"
                        )
        if service.user is not None and not any(service.user in users for users in plan.users.values()):
            yield Problem(
                ("services", name, "user"),
                f"no product has a user {service.user}",
                "correct it, or name it in products",
            )


def policy(plan: Plan) -> Iterator[Problem]:
    """Each rule names what there is, allows something, and stands there once."""
    seen: dict[tuple[str, ...], int] = {}
    for index, rule in enumerate(plan.site.policy):
        path: Keys = ("policy", index)
        problems = list(_unknown_in_rule(plan, rule, path))
        yield from problems
        if problems:
            continue
        for source in rule.sources:
            for destination in rule.destinations:
                reason = unmatchable(plan, rule.via, source, destination)
                if reason:
                    remedy = "correct the zones or 'via', or take the rule away"
                    yield Problem(path, f"can never match: {reason}", remedy, follows=True)
                for service in rule.services:
                    before = seen.setdefault((source, destination, service, rule.via), index)
                    if before != index:
                        problem = f"{source} to {destination}, {service} via {rule.via} stands in policy[{before}] too"
                        yield Problem(path, problem, "take one of them away")


def users(plan: Plan) -> Iterator[Problem]:
    """The ruleset of a sender names the user, and nft loads none with a user that the machine does not know."""
    known = frozenset[str]().union(*plan.users.values())
    for index, rule in enumerate(plan.site.policy):
        for place, name in enumerate(rule.services):
            user = plan.site.services[name].user if name in plan.site.services else None
            if user not in known:
                continue  # is said where it stands
            asking = {host for zone in rule.sources if zone in plan.zones for host in plan.zones[zone].hosts}
            products = {plan.members[host].host.product for host in asking}
            if lacking := sorted(product for product in products if user not in plan.users.get(product, known)):
                problem = f"{name} is bound to user {user}, which {', '.join(lacking)} does not have"
                remedy = "take these hosts out of 'from', or name the user in products"
                yield Problem(("policy", index, "services", place), problem, remedy)


def _unknown_in_rule(plan: Plan, rule: Rule, path: Keys) -> Iterator[Problem]:
    for key, values, known in (
        ("from", rule.sources, plan.site.zones),
        ("to", rule.destinations, plan.site.zones),
        ("services", rule.services, plan.site.services),
    ):
        for index, value in enumerate(values):
            if value not in known:
                what = "service" if key == "services" else "zone"
                yield Problem((*path, key, index), f"there is no {what} {value}", choose(known))
    if rule.via != OUTER and rule.via not in plan.site.tunnels:
        yield unknown((*path, "via"), "tunnel", rule.via, [OUTER, *plan.site.tunnels])


def unmatchable(plan: Plan, via: str, source: str, destination: str) -> str | None:
    """Why no packet of the site can match a rule between two zones; None if one can."""
    asks, answers = ends(plan, via, source), ends(plan, via, destination)
    where = "has an address on the network outside" if via == OUTER else f"is in tunnel {via}"
    for zone, (hosts, networks) in ((source, asks), (destination, answers)):
        if not hosts and not networks:
            return f"nothing of zone {zone} {where}"
    if not asks[0] and not answers[0] and via == OUTER:
        return "neither side is a host of the site"
    if len(asks[0] | answers[0]) == 1 and not asks[1] and not answers[1]:
        return "both sides are the same host"
    if via == OUTER and not _known_outside(plan, answers):
        return f"the hosts of zone {destination} get their addresses by DHCP"
    return None


def ends(plan: Plan, via: str, zone: str) -> tuple[frozenset[str], tuple[Network, ...]]:
    """The hosts and networks of a zone that a tunnel, or the network outside, reaches."""
    resolved = plan.zones[zone]
    if via == OUTER:
        inner = {network for tunnel in plan.site.tunnels for network in plan.tunnel_networks(tunnel)}
        return resolved.hosts, tuple(network for network in resolved.networks if network not in inner)
    inside = plan.tunnel_networks(via)
    return (
        resolved.hosts & plan.tunnel_hosts.get(via, frozenset()),
        tuple(network for network in resolved.networks if network in inside),
    )


def _known_outside(plan: Plan, end: tuple[frozenset[str], tuple[Network, ...]]) -> bool:
    return bool(end[1]) or any(outer_addresses(plan, name) for name in end[0])


def outer_addresses(plan: Plan, name: str) -> list[Address]:
    """The fixed addresses of a host outside the tunnels."""
    member = plan.members[name]
    found: list[Address] = []
    for interface, part in member.host.interfaces.items():
        network = plan.network_of(member, interface, part)
        if network is not None and network.tunnel is None:
            found += plan.outer(member, interface, part)
    return found


def raw(plan: Plan) -> Iterator[Problem]:
    """Each raw rule has hosts and a ruleset to go into, and does not end the chain that it stands in."""
    for index, rule in enumerate(plan.site.raw):
        path: Keys = ("raw", index)
        if rule.zone not in plan.site.zones:
            yield unknown((*path, "zone"), "zone", rule.zone, plan.site.zones)
        elif rule.zone in plan.zones and not plan.zones[rule.zone].hosts:
            remedy = "add hosts to the zone, or take the rule away"
            yield Problem((*path, "zone"), f"zone {rule.zone} has no host", remedy, follows=True)
        if rule.ruleset != HOST_RULESET and rule.ruleset not in plan.site.tunnels:
            yield Problem(
                (*path, "ruleset"), f"there is no tunnel {rule.ruleset}", choose([HOST_RULESET, *plan.site.tunnels])
            )
        if set(rule.rule) & set("{}") and rule.rule.count("{") != rule.rule.count("}"):
            yield Problem((*path, "rule"), "braces do not match", "write one whole statement")
