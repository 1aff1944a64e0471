# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What stands on an installation medium: the addresses that the site gives to machines before they are installed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import addresses
from ansible_collections.vauban.fleet.plugins.module_utils._install.addresses import Entry
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Interface, PlaceNetwork
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Member, Plan


@dataclass(frozen=True)
class Table:
    """The addresses of some hosts.

    :param text: as it stands on the medium.
    :param hosts: those that have an address there.
    :param by_dhcp: the others, which ask by DHCP; why.
    """

    text: str
    hosts: tuple[str, ...]
    by_dhcp: dict[str, str]


def table(plan: Plan, names: Iterable[str]) -> Table:
    """Look for the addresses of hosts in networks outside of tunnels.

    :raises FleetError: an installer would not take what the site says.
    """
    known = {name: _entries(plan, plan.members[name]) for name in sorted(names)}
    found = {name: entries for name, entries in known.items() if entries}
    text = addresses.render(found)
    try:
        addresses.parse(text.encode())
    except FleetError as exc:
        remedy = "correct the address in the site file, or make media of fewer hosts (--limit)"
        raise FleetError(exc.message, where=exc.where, remedy=remedy) from exc
    by_dhcp = {name: _reason(plan, plan.members[name]) for name in known if name not in found}
    return Table(text, tuple(found), by_dhcp)


def _entries(plan: Plan, member: Member) -> list[Entry]:
    found = []
    for interface, part in member.host.interfaces.items():
        network = plan.network_of(member, interface, part)
        address = _address(plan, member, interface, part, network)
        if network is None or address is None or part.mac is None:
            continue
        routers = (each for each in network.routers if isinstance(each, IPv4Address))
        found.append(Entry(part.mac, address, next(routers, None)))
    return found


def _address(
    plan: Plan, member: Member, interface: str, part: Interface, network: PlaceNetwork | None
) -> IPv4Interface | None:
    """The first fixed one. A network behind a tunnel is reached by installed gateways only."""
    if network is None or network.tunnel is not None or network.ipv4 is None:
        return None
    fixed = plan.outer(member, interface, part)
    return next((IPv4Interface(f"{each}/{network.ipv4.prefixlen}") for each in fixed if each.version == 4), None)


def _reason(plan: Plan, member: Member) -> str:
    known = member.host.interfaces.items()
    fixed = [name for name, part in known if _address(plan, member, name, part, plan.network_of(member, name, part))]
    return f"no MAC address of {', '.join(fixed)} in the site" if fixed else "no fixed IPv4 address in the site"
