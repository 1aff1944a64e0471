# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What a site means: whether its parts fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.checks import (
    confinement,
    hosts,
    machines,
    networks,
    policy,
    servers,
    tunnels,
)
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Problem

_CHECKS: tuple[Callable[[Plan], Iterator[Problem]], ...] = (
    networks.places,
    networks.ipv6,
    networks.overlaps,
    tunnels.tunnels,
    tunnels.profiles,
    tunnels.gateways,
    hosts.hosts,
    hosts.double_addresses,
    hosts.inner_collisions,
    hosts.connections,
    policy.services,
    policy.policy,
    policy.users,
    policy.raw,
    confinement.profiles,
    confinement.confinement,
    servers.servers,
    servers.updates,
    servers.access,
    machines.provisioning,
    machines.machines,
)


def problems(plan: Plan) -> Iterator[Problem]:
    """All contradictions."""
    for check in _CHECKS:
        yield from check(plan)
