# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Time, logs, updates and people: whether hosts can reach what they are told to use."""

from __future__ import annotations

from collections.abc import Iterator, Set
from urllib.parse import urlsplit

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Service, Updates
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Keys, Problem, unknown

FETCH = "update-fetch.service"
# What role admin_access lets sshd accept.
_KEY_TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "sk-ecdsa-sha2-nistp256@openssh.com")


def servers(plan: Plan) -> Iterator[Problem]:
    """Time, logs and updates: the hosts are there, in the tunnel, and policy lets the others reach them."""
    site = plan.site
    parts = (("time", "servers", site.time), ("logs", "collectors", site.logs), ("updates", "servers", site.updates))
    for key, hosts_key, part in parts:
        if part is None:
            continue
        names: list[str] = getattr(part, hosts_key)
        if part.via not in plan.site.tunnels:
            yield unknown((key, "via"), "tunnel", part.via, plan.site.tunnels)
            continue
        if part.service not in plan.site.services:
            yield unknown((key, "service"), "service", part.service, plan.site.services)
            continue
        known = [name for name in names if name in plan.tunnel_hosts[part.via]]
        for index, name in enumerate(names):
            if name not in plan.members:
                yield Problem((key, hosts_key, index), f"there is no host {name}", "add it to hosts")
            elif name not in plan.tunnel_hosts[part.via]:
                problem, remedy = f"{name} is not in tunnel {part.via}", "add it to a zone of its peers"
                yield Problem((key, hosts_key, index), problem, remedy, follows=True)
        yield from _unreached(plan, key, part.via, part.service, known)
        if key == "updates" and site.updates is not None and site.updates.address is not None:
            yield from _behind_gateway(plan, site.updates)
    logs = plan.site.logs
    service = plan.site.services.get(logs.service) if logs is not None else None
    if logs is not None and service is not None and not _covers(service, logs.port):
        yield Problem(("logs", "port"), f"service {logs.service} has no TCP port {logs.port}", "add it to the service")


def outside_domain(plan: Plan, url: str, path: Keys) -> Iterator[Problem]:
    """Whether the site's authority can certify a server: it is constrained to the domain (RFC 5280, 4.2.1.10)."""
    name = urlsplit(url).hostname or ""
    if not name.endswith(f".{plan.site.domain}"):
        problem = f"{name} is outside {plan.site.domain}, and the site's authority signs no such name"
        yield Problem(path, problem, f"choose a name that ends with .{plan.site.domain}")


def updates(plan: Plan) -> Iterator[Problem]:
    """What asks for updates lives in their tunnel, and every host asks for one channel."""
    part = plan.site.updates
    if part is None:
        return
    if part.via in plan.site.tunnels and FETCH not in plan.site.tunnels[part.via].members:
        problem, remedy = f"{FETCH} is not a member of {part.via}", f"add it to tunnels.{part.via}.members"
        yield Problem(("updates", "via"), problem, remedy)
    service = plan.site.services.get(part.service)
    if service is not None and (len(service.tcp) != 1 or not isinstance(service.tcp[0], int)):
        problem = f"service {part.service} has not one TCP port"
        yield Problem(("updates", "service"), problem, f"give services.{part.service} one, as tcp: [443]")
    asked: dict[str, str] = {}
    for channel, zones in part.channels.items():
        for index, zone in enumerate(zones):
            path: Keys = ("updates", "channels", channel, index)
            if zone not in plan.zones:
                yield unknown(path, "zone", zone, plan.zones)
                continue
            both = sorted(host for host in plan.zones[zone].hosts if asked.setdefault(host, channel) != channel)
            if both:
                problem = f"{both[0]} would ask for {asked[both[0]]} and {channel}"
                yield Problem(path, problem, "leave it in one of the zones")


def _behind_gateway(plan: Plan, part: Updates) -> Iterator[Problem]:
    """A server that is no host: in a network of the tunnel, and where its service says."""
    address, url = part.address, urlsplit(part.server or "")
    yield from outside_domain(plan, part.server or "", ("updates", "server"))
    service = plan.site.services[part.service]
    if not _covers(service, url.port or 443):
        problem = f"it answers at port {url.port or 443}, which service {part.service} has not"
        yield Problem(("updates", "server"), problem, f"add it to services.{part.service}, or write the service's here")
    if not any(address in network for network in plan.tunnel_networks(part.via)):
        problem = f"{address} is in no network that tunnel {part.via} leads to"
        yield Problem(("updates", "address"), problem, f"give its network the key tunnel: {part.via}")
        return
    zones = {name for name, zone in plan.zones.items() if any(address in network for network in zone.networks)}
    yield from _missing(plan, "updates", part.via, part.service, str(address), zones)


def _unreached(plan: Plan, key: str, via: str, service: str, names: list[str]) -> Iterator[Problem]:
    for name in names:
        zones = {zone for zone, resolved in plan.zones.items() if name in resolved.hosts}
        yield from _missing(plan, key, via, service, name, zones, set(names))


def _missing(
    plan: Plan, key: str, via: str, service: str, name: str, zones: Set[str], others: Set[str] = frozenset()
) -> Iterator[Problem]:
    """Whether policy lets all hosts of the tunnel reach what is in these zones, but for those that it is itself."""
    asking = {
        host
        for rule in plan.site.policy
        if rule.via == via and service in rule.services and not zones.isdisjoint(rule.destinations)
        for zone in rule.sources
        if zone in plan.zones
        for host in plan.zones[zone].hosts
    }
    missing = sorted(plan.tunnel_hosts[via] - asking - others)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = f"no policy lets {missing[0]}{more} reach {name} by {service} via {via}"
        yield Problem((key,), problem, "add a rule to policy", follows=True)


def _covers(service: Service, port: int) -> bool:
    return any(
        port == item if isinstance(item, int) else int(item.split("-")[0]) <= port <= int(item.split("-")[1])
        for item in service.tcp
    )


def access(plan: Plan) -> Iterator[Problem]:
    """The sshd of each role is there, and somebody can log in."""
    if plan.site.access is None:
        return
    for role, part in (("admin", plan.site.access.admin), ("audit", plan.site.access.audit)):
        path: Keys = ("access", role)
        unit = f"sshd@{role}.service"
        if part.via not in plan.site.tunnels:
            yield unknown((*path, "via"), "tunnel", part.via, plan.site.tunnels)
        elif unit not in plan.site.tunnels[part.via].members:
            yield Problem(
                (*path, "via"), f"{unit} is not a member of {part.via}", f"add it to tunnels.{part.via}.members"
            )
        if not part.authorities and not part.keys:
            yield Problem(path, "nobody can log in", "give authorities and principals, or keys")
        if part.authorities and not part.principals:
            yield Problem((*path, "principals"), "is missing", "name who of the authority's people may")
        for key in ("authorities", "keys"):
            for index, text in enumerate(getattr(part, key)):
                yield from _public_key(text, (*path, key, index))


def _public_key(text: str, path: Keys) -> Iterator[Problem]:
    if "PRIVATE KEY" in text:
        yield Problem(path, "is a private key", "take it out of the file, replace the key, and give its public half")
    elif text.split()[0] not in _KEY_TYPES or len(text.split()) < 2:
        yield Problem(path, "is no public key of a kind that is accepted", f"use one of {', '.join(_KEY_TYPES)}")
