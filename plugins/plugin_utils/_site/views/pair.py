# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the model means for role ``gateway_pair``: what the two gateways of a place share, and who has it first."""

from __future__ import annotations

from typing import Any

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Address
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan, single

# The first of the file is preferred. Both leave room for an admin's own, below and above.
_PRIORITIES = (150, 100)
# Who speaks VRRP. Only these two do, and only with each other, so the number need not differ from place to place.
_ROUTER = 1


def instances(plan: Plan, name: str) -> list[dict[str, Any]]:
    """Value of ``gateway_pair_instances`` for a host: one for each address that it shares, none if it is alone."""
    other = plan.partner(name)
    if other is None:
        return []
    place = plan.gateways[name]
    return [
        {
            "name": f"ipv{address.version}",
            "interface": plan.gateway_interface(name),
            "router": _ROUTER,
            "priority": _PRIORITIES[0 if plan.preferred(name) else 1],
            "source": str(_own(plan, name, address.version)),
            "peer": str(_own(plan, other, address.version)),
            "address": single(address),
        }
        for address in plan.gateway_addresses(place)
    ]


def _own(plan: Plan, name: str, version: int) -> Address:
    return next(address for address in plan.gateway_own(name) if address.version == version)
