# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the model means for roles ``strongswan``, ``ipsec_client`` and ``ipsec_gateway``: the connections of a host."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Address, Network
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan, single
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.shared import Shared

UNKNOWN_AUTHORITY = "site.pem"  # until the site has one
_START, _TRAP, _NONE = "start", "trap", "none"


class Ipsec:
    """Computes connections. Both ends call one by the same name: the client's, or those of the two places."""

    def __init__(self, plan: Plan, shared: Shared) -> None:
        self._plan = plan
        self._shared = shared
        self._authorities = sorted(plan.authorities) or [UNKNOWN_AUTHORITY]
        self._selectors = {tunnel: _texts(plan.selectors(tunnel)) for tunnel in plan.site.tunnels}
        self._gateway_addresses = {
            place: [str(address) for address in plan.gateway_addresses(place)] for place in plan.site.places
        }

    def connections(self, name: str) -> list[dict[str, Any]]:
        """Value of ``strongswan_connections`` for a host."""
        plan = self._plan
        if not plan.tunnels_of.get(name):
            return []
        if name not in plan.gateways:
            return [self._client(name)]
        place, profile = plan.gateways[name], self.profile(name)
        return list(
            self._shared.get(("ipsec", place, profile), lambda: [*self._clients(place), *self._places(profile, place)])
        )

    def profile(self, name: str) -> str:
        """The profile of a host."""
        return self._plan.members[name].host.profile or self._plan.site.ipsec.profile

    def _client(self, name: str) -> dict[str, Any]:
        plan = self._plan
        place = plan.members[name].host.place
        return {
            "name": name,
            "profile": self.profile(name),
            "initiator": True,
            "local_addresses": [],
            "remote_addresses": self._gateway_addresses[place],
            "local_identity": plan.fqdn(name),
            "remote_identity": plan.gateway_identity(place),
            "authorities": self._authorities,
            "children": [
                {
                    "name": tunnel,
                    "if_id": plan.site.tunnels[tunnel].if_id,
                    "local": _single(plan.inner(name, tunnel)),
                    "remote": self._selectors[tunnel],
                    "start": _START if name in self._awaited[tunnel] else _TRAP,
                }
                for tunnel in plan.tunnels_of[name]
            ],
        }

    def _clients(self, place: str) -> list[dict[str, Any]]:
        plan = self._plan
        return [
            {
                "name": name,
                "profile": self.profile(name),
                "initiator": False,
                "local_addresses": self._gateway_addresses[place],
                "remote_addresses": [],
                "local_identity": plan.gateway_identity(place),
                "remote_identity": plan.fqdn(name),
                "authorities": self._authorities,
                "children": [
                    {
                        "name": tunnel,
                        "if_id": plan.site.tunnels[tunnel].if_id,
                        "local": self._selectors[tunnel],
                        "remote": _single(plan.inner(name, tunnel)),
                        "start": _NONE,
                    }
                    for tunnel in plan.tunnels_of[name]
                ],
            }
            for name in self._hosts_of.get(place, ())
        ]

    @cached_property
    def _awaited(self) -> dict[str, frozenset[str]]:
        """The hosts that policy lets others reach in each tunnel. A gateway cannot call them: they may be anywhere."""
        plan = self._plan
        return {
            tunnel: frozenset(
                name
                for rule in plan.site.policy
                if rule.via == tunnel
                for zone in rule.destinations
                for name in plan.zones[zone].hosts
            )
            for tunnel in plan.site.tunnels
        }

    @cached_property
    def _hosts_of(self) -> dict[str, list[str]]:
        """The clients of each place."""
        found: dict[str, list[str]] = {}
        for name in self._plan.members:
            if name not in self._plan.gateways and self._plan.tunnels_of.get(name):
                found.setdefault(self._plan.members[name].host.place, []).append(name)
        return found

    def _places(self, profile: str, place: str) -> list[dict[str, Any]]:
        """Gateways of all places are connected to each other: clients of one reach those of another."""
        plan = self._plan
        others = [other for other, part in plan.site.places.items() if part.gateways is not None and other != place]
        return [
            {
                "name": "-".join(sorted((place, other))),
                "profile": profile,
                "initiator": True,
                "local_addresses": self._gateway_addresses[place],
                "remote_addresses": self._gateway_addresses[other],
                "local_identity": plan.gateway_identity(place),
                "remote_identity": plan.gateway_identity(other),
                "authorities": self._authorities,
                "children": [
                    {
                        "name": tunnel,
                        "if_id": part.if_id,
                        "local": self._reach(place)[tunnel],
                        "remote": self._reach(other)[tunnel],
                        "start": _TRAP,
                    }
                    for tunnel, part in plan.site.tunnels.items()
                ],
            }
            for other in others
        ]

    def _reach(self, place: str) -> dict[str, list[str]]:
        return self._slices[place]

    @cached_property
    def _slices(self) -> dict[str, dict[str, list[str]]]:
        """What lies behind the gateways of each place, by tunnel."""
        plan = self._plan
        return {
            place: {
                tunnel: _texts(
                    [
                        *plan.slice(tunnel, place),
                        *(
                            network
                            for inner in part.networks.values()
                            if inner.tunnel == tunnel
                            for network in inner.networks
                        ),
                    ]
                )
                for tunnel in plan.site.tunnels
            }
            for place, part in plan.site.places.items()
        }


def _texts(networks: list[Network]) -> list[str]:
    return [str(network) for network in networks]


def _single(addresses: list[Address]) -> list[str]:
    return [single(address) for address in addresses]
