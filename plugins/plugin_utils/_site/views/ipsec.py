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
# Priorities of policies, of which the kernel takes the lowest number. What charon computes from selectors lies between
# 268541 and 600000 (get_priority in kernel_netlink_ipsec.c), the more specific first.
_COMPUTED = 0
_BEFORE, _BEHIND = 200_000, 700_000


class Ipsec:
    """Computes connections. Both ends call one by the same name: the client's, those of the two places, those of the
    two gateways of a pair, or ``GATEWAY@PLACE``.

    Both gateways of a pair have the connections of their place, but the one that waits cannot use them: it does not
    have the address that they begin at. What it sends and receives itself goes through the other gateway where that is
    a matter of its own place, and to other places by connections of its own, which it has whether it waits or not.
    """

    def __init__(self, plan: Plan, shared: Shared) -> None:
        self._plan = plan
        self._shared = shared
        self._authorities = sorted(plan.authorities) or [UNKNOWN_AUTHORITY]
        self._selectors = {tunnel: _texts(plan.selectors(tunnel)) for tunnel in plan.site.tunnels}
        self._gateway_addresses = {
            place: [str(address) for address in plan.gateway_addresses(place)] for place in plan.site.places
        }
        paired = sorted(name for name in plan.gateways if plan.partner(name))
        self._paired = {name: order for order, name in enumerate(paired)}

    def connections(self, name: str) -> list[dict[str, Any]]:
        """Value of ``strongswan_connections`` for a host."""
        plan = self._plan
        if not plan.tunnels_of.get(name):
            return []
        if name not in plan.gateways:
            return [self._client(name)]
        place, profile, other = plan.gateways[name], self.profile(name), plan.partner(name)
        common = self._shared.get(
            ("ipsec", place, profile),
            lambda: [*self._clients(place), *self._places(profile, place), *self._visitors(place)],
        )
        return common if other is None else [*common, self._pair(name, other), *self._visits(name)]

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
                self._child(
                    tunnel, _single(plan.inner(name, tunnel)), self._selectors[tunnel], self._start(name, tunnel)
                )
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
                    self._child(tunnel, self._selectors[tunnel], _single(plan.inner(name, tunnel)), _NONE)
                    for tunnel in plan.tunnels_of[name]
                ],
            }
            for name in self._hosts_of.get(place, ())
        ]

    def _start(self, name: str, tunnel: str) -> str:
        return _START if name in self._awaited[tunnel] else _TRAP

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
        others = [other for other in self._with_gateways if other != place]
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
                    self._child(tunnel, self._behind[place][tunnel], self._behind[other][tunnel], _TRAP)
                    for tunnel in plan.site.tunnels
                ],
            }
            for other in others
        ]

    def _pair(self, name: str, other: str) -> dict[str, Any]:
        """The two of a pair, each at its own address: who waits reaches its place through the other, and is reached.

        It must be the last choice: who does not wait has clients of its own. And the two need an order: what one sends
        to the other fits both children, and has to be awaited in the one that it is sent in.
        """
        plan = self._plan
        first, second = both = sorted((name, other), key=lambda each: not plan.preferred(each))
        return {
            "name": f"{first}@{second}",
            "profile": self.profile(name),
            # Whoever starts anew begins, so neither has to notice first that the other has forgotten all.
            "initiator": True,
            "local_addresses": self._own_addresses(name),
            "remote_addresses": self._own_addresses(other),
            "local_identity": plan.fqdn(name),
            "remote_identity": plan.fqdn(other),
            "authorities": self._authorities,
            "children": [
                {
                    **self._child(
                        tunnel,
                        *_ends(_single(plan.inner(end, tunnel)), self._selectors[tunnel], swapped=end != name),
                        _START,
                        _BEHIND + order,
                    ),
                    "name": f"{tunnel}@{end}",
                }
                for tunnel in plan.site.tunnels
                for order, end in enumerate(both)
            ],
        }

    def _visits(self, name: str) -> list[dict[str, Any]]:
        """What a gateway of a pair sends to other places itself: there it is a client, from its own address."""
        place = self._plan.gateways[name]
        return [self._visit(name, other, visited=False) for other in self._with_gateways if other != place]

    def _visitors(self, place: str) -> list[dict[str, Any]]:
        """The other ends of those connections, at the gateways of a place."""
        return [self._visit(name, place, visited=True) for name in self._paired if self._plan.gateways[name] != place]

    def _visit(self, name: str, place: str, *, visited: bool) -> dict[str, Any]:
        """It comes before the connection of the two places, whose networks include these addresses.

        What two gateways that both visit send each other fits both visits, and has to be awaited in the one that it is
        sent in: so they have an order, too.
        """
        plan = self._plan
        own = (self._own_addresses(name), plan.fqdn(name))
        others = (self._gateway_addresses[place], plan.gateway_identity(place))
        (local, local_identity), (remote, remote_identity) = (others, own) if visited else (own, others)
        return {
            "name": f"{name}@{place}",
            "profile": self.profile(name),
            "initiator": not visited,
            "local_addresses": local,
            "remote_addresses": remote,
            "local_identity": local_identity,
            "remote_identity": remote_identity,
            "authorities": self._authorities,
            "children": [
                self._child(
                    tunnel,
                    *_ends(_single(plan.inner(name, tunnel)), self._behind[place][tunnel], swapped=visited),
                    _NONE if visited else self._start(name, tunnel),
                    _BEFORE + self._paired[name],
                )
                for tunnel in plan.site.tunnels
            ],
        }

    def _own_addresses(self, name: str) -> list[str]:
        """Those beside the shared ones, of the same families."""
        plan = self._plan
        shared = {address.version for address in plan.gateway_addresses(plan.gateways[name])}
        return [str(address) for address in plan.gateway_own(name) if address.version in shared]

    @cached_property
    def _with_gateways(self) -> list[str]:
        return [place for place, part in self._plan.site.places.items() if part.gateways is not None]

    def _child(
        self, tunnel: str, local: list[str], remote: list[str], start: str, priority: int = _COMPUTED
    ) -> dict[str, Any]:
        return {
            "name": tunnel,
            "if_id": self._plan.site.tunnels[tunnel].if_id,
            "local": local,
            "remote": remote,
            "start": start,
            "priority": priority,
        }

    @cached_property
    def _behind(self) -> dict[str, dict[str, list[str]]]:
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


def _ends(one: list[str], other: list[str], *, swapped: bool) -> tuple[list[str], list[str]]:
    return (other, one) if swapped else (one, other)


def _texts(networks: list[Network]) -> list[str]:
    return [str(network) for network in networks]


def _single(addresses: list[Address]) -> list[str]:
    return [single(address) for address in addresses]
