# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Network boot by Kea: what variables of role boot_server mean for kea-dhcp4(8).

Followed: Kea Administrator Reference Manual 2.6, chapters 8 (DHCPv4), 14 (client classification).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ansible_collections.vauban.fleet.plugins.plugin_utils._boot_server import Installer, LeaseDatabase, Settings

_SECONDS = {"m": 60, "h": 3600}
# Options 60 (vendor class), 77 (user class), 93 (architecture, RFC 4578) and 175 (iPXE's own).
_IPXE = "option[175].exists or option[77].hex == 'iPXE'"
_HTTP = "substring(option[60].hex, 0, 10) == 'HTTPClient' and substring(option[93].hex, 0, 2) == 0x{:04x}"
_PXE = "substring(option[60].hex, 0, 9) == 'PXEClient' and ({})"
_ARCHITECTURE = "substring(option[93].hex, 0, 2) == 0x{:04x}"


def environment(settings: Settings) -> list[str]:
    """What Kea is to find in its environment, since its client of PostgreSQL takes no such setting (libpq, 32.15)."""
    database = settings.lease_database
    if database is None or database.type != "postgresql" or database.authority is None:
        return []
    return ["PGSSLMODE=verify-full", f"PGSSLROOTCERT={database.authority}"]


def configuration(
    settings: Settings, urls: Mapping[str, str], *, http: int, pxe: tuple[int, ...], password_file: str
) -> dict[str, str]:
    """Values of the members of C(Dhcp4) that a site decides, as JSON, by their names in the template.

    :param urls: of the installers, by name.
    :param http: architecture of firmware that boots by HTTP; ``pxe``, those of firmware that boots by PXE.
    :param password_file: holds the password of the database of leases, as JSON.
    """
    subnets = [_subnet(settings, number) for number in range(len(settings.networks))]
    number, unit = settings.lease[:-1], settings.lease[-1]
    return {
        "interfaces": json.dumps(list(settings.interfaces)),
        "lifetime": json.dumps(int(number) * _SECONDS[unit]),
        "database": _database(settings.lease_database, password_file) if settings.lease_database else "",
        "classes": _lines(_classes(settings, urls, http, pxe)),
        "reservations": _lines(_choices(settings)),
        "subnets": _lines(iter(subnets)),
    }


def _lines(values: Iterator[dict[str, Any]]) -> str:
    """A list with one element a line."""
    return "[\n" + ",\n".join(f"      {json.dumps(value)}" for value in values) + "\n    ]"


def _subnet(settings: Settings, number: int) -> dict[str, Any]:
    each = settings.networks[number]
    options = []
    if each.router is not None:
        options.append({"name": "routers", "data": str(each.router)})
    if each.dns:
        options.append({"name": "domain-name-servers", "data": ", ".join(map(str, each.dns))})
    reserved = [
        {"hw-address": mac, "ip-address": str(host.address), "hostname": host.name}
        for host in settings.hosts
        for mac in host.macs
        if host.address is not None and host.address in each.network
    ]
    return {
        # Leases name it, so it must not depend on what other networks there are.
        "id": int(each.network.network_address),
        "subnet": str(each.network),
        "pools": [{"pool": f"{each.first} - {each.last}"}],
        "option-data": options,
        "reservations": reserved,
    }


def _choices(settings: Settings) -> Iterator[dict[str, Any]]:
    """Who is known, and what those boot that have a choice of their own."""
    for host in settings.hosts:
        classes = [] if host.installer is None else ["own"]
        classes += [f"boot-{host.installer}"] if host.installer else []
        for mac in host.macs:
            yield {"hw-address": mac, "hostname": host.name, "client-classes": classes}


def _classes(settings: Settings, urls: Mapping[str, str], http: int, pxe: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """The classes in the order in which Kea looks at them: one may name those before it."""
    if settings.known_only:
        yield {"name": "DROP", "test": "not member('KNOWN')"}
    # Reservations put hosts in these.
    yield {"name": "own"}
    yield from ({"name": f"boot-{each.name}"} for each in settings.installers)
    yield {"name": "ipxe", "test": _IPXE}
    yield {"name": "http", "test": f"not member('ipxe') and {_HTTP.format(http)}"}
    architectures = " or ".join(_ARCHITECTURE.format(each) for each in pxe)
    yield {"name": "pxe", "test": f"not member('ipxe') and {_PXE.format(architectures)}"}
    for installer in settings.installers:
        yield from _boot(settings, installer, urls[installer.name])


def _boot(settings: Settings, installer: Installer, url: str) -> Iterator[dict[str, Any]]:
    chosen = f"member('boot-{installer.name}')"
    if installer.name == settings.default:
        chosen = f"({chosen} or not member('own'))"
    # Firmware takes no URL from an answer that does not name this class (UEFI 2.10, 24.7.3.1).
    named = {"name": "vendor-class-identifier", "data": "HTTPClient", "always-send": True}
    yield {
        "name": f"http-{installer.name}",
        "test": f"member('http') and {chosen}",
        "boot-file-name": url,
        "option-data": [named],
    }
    yield {"name": f"ipxe-{installer.name}", "test": f"member('ipxe') and {chosen}", "boot-file-name": url}
    if installer.pxe is not None:
        yield {
            "name": f"pxe-{installer.name}",
            "test": f"member('pxe') and {chosen}",
            "boot-file-name": installer.pxe,
            "next-server": str(settings.address),
        }


def _database(database: LeaseDatabase, password_file: str) -> str:
    """The password is not part of it: the file is readable for Kea alone, and shown to nobody."""
    described: dict[str, Any] = {
        "type": database.type,
        "host": database.host,
        "port": database.port,
        "name": database.name,
        "user": database.user,
    }
    if database.type == "mysql":  # the client of PostgreSQL is told by its environment
        described["trust-anchor"] = database.authority
    lines = [f"      {json.dumps(key)}: {json.dumps(value)}," for key, value in described.items() if value is not None]
    include = f'      "password": <?include "{password_file}"?>'
    return "{\n" + "\n".join([*lines, include]) + "\n    }"
