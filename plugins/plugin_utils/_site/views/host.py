# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the model means for each role: the role variables of one host."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_interface
from typing import Any

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.checks.policy import ends
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.checks.servers import FETCH
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Address, PlaceNetwork, RoleAccess
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan, single
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views import pair
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.confinement import Confinement
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.firewall import Firewall
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.ipsec import Ipsec
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.shared import Shared

# The roles whose templates make a host's configuration, in this order; gateway_pair only that of gateways in pairs.
ROLES = (
    "network",
    "sysctl",
    "tunnel",
    "firewall",
    "strongswan",
    "gateway_pair",
    "time_sync",
    "logging",
    "admin_access",
    "attestation",
    "update_client",
    "confinement",
)
ATTESTATION = "attestation.service"
CLOCK = "chrony.service"
COLLECTOR = "log-collector.service"
# Where a server of time finds its certificate for NTS; the key is made there.
NTS_CERTIFICATE, NTS_KEY = "/var/lib/vauban/nts/certificate.pem", "/var/lib/vauban/nts/key.pem"
_ANY = {4: "0.0.0.0", 6: "::"}


class Views:
    """Computes the variables of hosts; what is the same for many is one object."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._shared = Shared()
        self._firewall = Firewall(plan, self._shared)
        self._ipsec = Ipsec(plan, self._shared)
        self._confinement = Confinement(plan)
        self._versions = (4, 6) if plan.site.ipv6 else (4,)
        self._time_servers = frozenset(plan.site.time.servers if plan.site.time else ())
        self._collectors = frozenset(plan.site.logs.collectors if plan.site.logs else ())

    def variables(self, name: str) -> dict[str, Mapping[str, Any]]:
        """The variables of a host, by role."""
        return {
            "network": self._network(name),
            "sysctl": {"sysctl_ipv6": self._plan.site.ipv6, "sysctl_forwarding": name in self._plan.gateways},
            "tunnel": self._tunnel(name),
            "firewall": {"firewall_rulesets": self._firewall.rulesets(name)},
            "strongswan": {
                "strongswan_connections": self._ipsec.connections(name),
            },
            **self._pair(name),
            "time_sync": self._time(name),
            "logging": self._logs(name),
            "admin_access": self._access(name),
            "attestation": {"attestation_tunnel": self._attested_through(name)},
            **self._updates(name),
            "confinement": {"confinement_dropins": self._confined(name)},
        }

    def _pair(self, name: str) -> dict[str, dict[str, Any]]:
        found = pair.instances(self._plan, name)
        return {"gateway_pair": {"gateway_pair_instances": found}} if found else {}

    def _network(self, name: str) -> dict[str, Any]:
        plan, member = self._plan, self._plan.members[name]
        interfaces = []
        for interface, part in member.host.interfaces.items():
            network = plan.network_of(member, interface, part)
            if network is None:
                continue
            # One that leads into a tunnel only gets its name here; its namespace gives it addresses.
            inside = network.tunnel is not None
            fixed = [] if inside else plan.outer(member, interface, part)
            interfaces.append(
                {
                    "name": interface,
                    "mac": part.mac,
                    "path": part.path,
                    "dhcp": not fixed and not inside,
                    "addresses": _within(network, fixed),
                    "routers": [str(address) for address in network.routers] if fixed else [],
                    "dns": [] if inside else [str(address) for address in network.dns],
                    "routes": [
                        {"destination": str(route.destination), "via": str(route.via)}
                        for route in ([] if inside else network.routes)
                    ],
                }
            )
        return {"network_hostname": name, "network_interfaces": interfaces, "network_ipv6": plan.site.ipv6}

    def _tunnel(self, name: str) -> dict[str, Any]:
        plan = self._plan
        tunnels = plan.tunnels_of.get(name, ())
        product = plan.members[name].host.product
        servers = (name in self._time_servers, name in self._collectors)
        members = self._shared.get(
            ("members", tunnels, product, servers),
            lambda: [{"name": unit, "tunnel": tunnel} for tunnel in tunnels for unit in self._units(name, tunnel)],
        )
        return {
            "tunnel_ipv6": plan.site.ipv6,
            "tunnel_tunnels": [self._one_tunnel(name, tunnel) for tunnel in tunnels],
            "tunnel_members": members,
        }

    def _units(self, name: str, tunnel: str) -> list[str]:
        """The members of a tunnel on a host. A server of time asks outside, and answers inside by a unit of its own."""
        units = self._plan.members_of(name, tunnel)
        time, logs = self._plan.site.time, self._plan.site.logs
        if time is not None and name in time.servers:
            units = [unit for unit in units if unit != CLOCK]
            units += [f"chronyd-server@{tunnel}.service"] if tunnel == time.via else []
        if logs is not None and tunnel == logs.via and name in logs.collectors:
            units.append(COLLECTOR)
        return units

    def _attested_through(self, name: str) -> str:
        """The tunnel in which a host proves what it runs; none unless the site makes the unit its member."""
        plan = self._plan
        tunnels = plan.tunnels_of.get(name, ())
        return next((tunnel for tunnel in tunnels if ATTESTATION in plan.members_of(name, tunnel)), "")

    def _one_tunnel(self, name: str, tunnel: str) -> dict[str, Any]:
        plan, part = self._plan, self._plan.site.tunnels[tunnel]
        zones = plan.zones_of.get(name, frozenset())
        routes = self._shared.get(("routes", tunnel), lambda: [str(found) for found in plan.selectors(tunnel)])
        links = self._links(name, tunnel)
        if links:
            # What a link leads to is not reached through the tunnel; and a route that is there is not added once more.
            linked = {str(ip_interface(address).network) for link in links for address in link["addresses"]}
            routes = [route for route in routes if route not in linked]
        dns = self._shared.get(("dns", tunnel), lambda: [str(address) for address in part.dns])
        hosts = self._shared.get(("hosts", tunnel, zones), lambda: self._reached(tunnel, zones))
        return {
            "name": tunnel,
            "if_id": part.if_id,
            "addresses": [single(address) for address in plan.inner(name, tunnel)],
            "routes": routes,
            "mtu": part.mtu,
            "forward": name in plan.gateways,
            "dns": dns,
            "search": self._shared.get(("search",), lambda: [plan.site.domain]),
            "hosts": hosts,
            "links": links,
        }

    def _links(self, name: str, tunnel: str) -> list[dict[str, Any]]:
        """Interfaces of a gateway that lead into a tunnel."""
        plan, member = self._plan, self._plan.members[name]
        if name not in plan.gateways:
            return self._shared.get(("no links",), list)
        found = []
        for interface, part in member.host.interfaces.items():
            network = plan.network_of(member, interface, part)
            if network is not None and network.tunnel == tunnel:
                addresses = plan.outer(member, interface, part)
                found.append({"name": interface, "addresses": _within(network, addresses)})
        return found

    def _reached(self, tunnel: str, zones: frozenset[str]) -> list[dict[str, Any]]:
        """The hosts that a member may ask for by name: those that policy lets it reach."""
        plan = self._plan
        names = {
            name
            for rule in plan.site.policy
            if rule.via == tunnel and zones.intersection(rule.sources)
            for zone in rule.destinations
            for name in ends(plan, tunnel, zone)[0]
        }
        return [
            {"address": str(address), "names": [plan.fqdn(name), name]}
            for name in sorted(names)
            for address in plan.inner(name, tunnel)
        ]

    def _time(self, name: str) -> dict[str, Any]:
        plan, part = self._plan, self._plan.site.time
        if part is None:
            return {"time_sync_servers": [], "time_sync_instances": []}
        authorities = self._authorities()
        if name not in part.servers:
            servers = self._shared.get(
                ("time",), lambda: [{"name": plan.fqdn(server), "nts": True, "key": None} for server in part.servers]
            )
            return {"time_sync_servers": servers, "time_sync_nts_authorities": authorities, "time_sync_instances": []}
        instance = {
            "name": part.via,
            "addresses": [str(address) for address in plan.inner(name, part.via)],
            "clients": [str(found) for found in plan.selectors(part.via)],
        }
        return {
            "time_sync_servers": [{"name": server, "nts": True, "key": None} for server in part.upstream],
            "time_sync_nts_authorities": authorities,
            "time_sync_nts_certificate": NTS_CERTIFICATE,
            "time_sync_nts_key": NTS_KEY,
            "time_sync_instances": [instance],
        }

    def _logs(self, name: str) -> dict[str, Any]:
        plan, part = self._plan, self._plan.site.logs
        if part is None:
            return {"logging_collectors": [], "logging_collect": False}
        collects = name in part.collectors
        # A collector sends to itself, too: what happens there is worth as much.
        collectors = self._shared.get(
            ("logs",),
            lambda: [
                {"address": str(plan.inner(collector, part.via)[0]), "port": part.port} for collector in part.collectors
            ],
        )
        addresses = self._shared.get(
            ("collect", name if collects else None),
            lambda: [str(address) for address in plan.inner(name, part.via)] if collects else [],
        )
        return {
            "logging_collectors": collectors,
            "logging_collect": collects,
            "logging_collect_addresses": addresses,
            "logging_collect_port": part.port,
        }

    def _updates(self, name: str) -> dict[str, dict[str, Any]]:
        plan, part = self._plan, self._plan.site.updates
        if FETCH not in plan.units.get(plan.members[name].host.product, frozenset()):
            return {}
        if part is None or name in part.servers or FETCH not in plan.members_of(name, part.via):
            return {"update_client": {}}
        if part.server is not None:
            name_and_port = part.server.removeprefix("https://")
            resolve = [f"{name_and_port if ':' in name_and_port else f'{name_and_port}:443'}:{part.address}"]
            url = part.server
        else:
            url, resolve = f"https://{plan.fqdn(part.servers[0])}:{plan.site.services[part.service].tcp[0]}", []
        asked = [channel for channel, zones in part.channels.items() if plan.zones_of[name].intersection(zones)]
        return {
            "update_client": {
                "update_client_url": url,
                "update_client_resolve": resolve,
                "update_client_channel": asked[0] if asked else part.channel,
                "update_client_authorities": self._authorities(),
                "update_client_rate": part.rate or "",
                "update_client_hawkbit": part.hawkbit or "",
                "update_client_ask_times": list(part.ask_times),
                "update_client_reboot": part.reboot,
                "update_client_restart_times": list(part.restart_times),
                "update_client_tunnel": part.via,
                "update_client_health": self._healthy(name),
            }
        }

    def _healthy(self, name: str) -> list[str]:
        """What has to run before a new version is called good: without it nobody could mend the host."""
        tunnels, roles = self._plan.tunnels_of.get(name, ()), self._roles_of(name)
        units = [f"tunnel@{tunnel}.service" for tunnel in tunnels] + [f"sshd@{role}.service" for role in roles]
        return self._shared.get(("health", tunnels, roles), lambda: [*units, "update-fetch.timer"])

    def _authorities(self) -> list[str]:
        """Certificates of the site's authorities (PEM)."""
        return self._shared.get(
            ("authorities",), lambda: [text.decode("ascii").strip() for text in self._plan.authorities.values()]
        )

    def _access(self, name: str) -> dict[str, Any]:
        access, roles = self._plan.site.access, self._roles_of(name)
        return {
            "admin_access_instances": self._shared.get(
                ("access", roles), lambda: [self._instance(role, getattr(access, role)) for role in roles]
            )
        }

    def _roles_of(self, name: str) -> tuple[str, ...]:
        """The roles in which people reach a host."""
        plan, access = self._plan, self._plan.site.access
        if access is None:
            return ()
        here = plan.tunnels_of.get(name, ())
        units = plan.units.get(plan.members[name].host.product, frozenset())
        return tuple(
            role
            for role, part in (("admin", access.admin), ("audit", access.audit))
            if part.via in here and f"sshd@{role}.service" in units
        )

    def _confined(self, name: str) -> list[dict[str, Any]]:
        indexes = self._confinement.of(name)
        return self._shared.get(("confinement", indexes), lambda: self._confinement.dropins(indexes))

    def _instance(self, role: str, part: RoleAccess) -> dict[str, Any]:
        """An sshd. It listens on all addresses of its namespace, which are those of the tunnel and no others."""
        return {
            "name": role,
            "tunnel": part.via,
            "addresses": [_ANY[version] for version in self._versions],
            "port": 22,
            "authorities": list(part.authorities),
            "principals": list(part.principals),
            "public_keys": list(part.keys),
            "revoked": [],
        }


def _within(network: PlaceNetwork, addresses: list[Address]) -> list[str]:
    """Addresses with the prefix length of the network they are on."""
    prefixes = {pool.version: pool.prefixlen for pool in network.networks}
    return [f"{address}/{prefixes[address.version]}" for address in addresses]
