# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The addresses of machines in a network without DHCP: a text file on the installation medium.

    # paris-files1
    52:54:00:00:00:14 10.9.0.20/24 10.9.0.1

A network card, its address with the length of the network's prefix, and, where there is one, the gateway. Nobody signs
the file, so it can say no more than what the installer takes from DHCP; whom the installer believes stands in its own,
signed image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

FILE = "addresses.txt"
LARGEST = 1024 * 1024  # bytes
MOST = 10_000  # lines
_LONGEST = 200  # characters of a line
_HEADING = "# Network cards and their addresses, where no DHCP server gives them: MAC ADDRESS/PREFIX [GATEWAY]\n"
_REMEDY = "make the medium anew, or write the line as 52:54:00:12:34:56 192.0.2.20/24 192.0.2.1"
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_INTERFACE = re.compile(r"([0-9.]{7,15})/([0-9]{1,2})")
_ADDRESS = re.compile(r"[0-9.]{7,15}")
_POINT_TO_POINT = 31  # RFC 3021: both addresses of such a network are hosts'


@dataclass(frozen=True)
class Entry:
    """The address of one network card.

    :param mac: six octets, lower case, with colons.
    """

    mac: str
    address: IPv4Interface
    gateway: IPv4Address | None = None

    def __str__(self) -> str:
        return f"{self.mac} {self.address}{f' {self.gateway}' if self.gateway is not None else ''}"


def render(entries: Mapping[str, Iterable[Entry]]) -> str:
    """The file, which :func:`parse` reads.

    :param entries: by host, whose name is a comment.
    """
    return _HEADING + "".join(f"# {host}\n{_lines(found)}" for host, found in sorted(entries.items()))


def _lines(entries: Iterable[Entry]) -> str:
    return "".join(f"{entry}\n" for entry in entries)


def parse(content: bytes) -> list[Entry]:
    """Read the file; one wrong line refuses all of it.

    :raises FleetError: names the line and what in it is wrong.
    """
    if len(content) > LARGEST:
        raise FleetError(f"more than {LARGEST} bytes", where=FILE, remedy=_REMEDY)
    try:
        lines = content.decode("ascii").split("\n")  # editors on other systems leave a \r, which is white space
    except UnicodeDecodeError as exc:
        number = content.count(b"\n", 0, exc.start) + 1
        raise FleetError("not ASCII", where=f"{FILE}, line {number}", remedy=_REMEDY) from None
    if len(lines) > MOST:
        raise FleetError(f"more than {MOST} lines", where=FILE, remedy=_REMEDY)
    found: dict[str, Entry] = {}
    taken: dict[IPv4Address, str] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{FILE}, line {number}"
        if (entry := _entry(line, where)) is None:
            continue
        if entry.mac in found:
            raise FleetError(f"{entry.mac} stands there twice", where=f"{where}: MAC", remedy=_REMEDY)
        if (other := taken.get(entry.address.ip)) is not None:
            raise FleetError(f"{entry.address.ip} is that of {other}, too", where=f"{where}: ADDRESS", remedy=_REMEDY)
        found[entry.mac], taken[entry.address.ip] = entry, entry.mac
    return list(found.values())


def units(entries: Iterable[Entry]) -> dict[str, str]:
    """Configuration by name of file for systemd-networkd (systemd.network(5)), to stand before that which asks by DHCP.

    Of all entries: some cards are seen late.
    """
    return {f"40-{entry.mac.replace(':', '')}.network": _unit(entry) for entry in entries}


def _unit(entry: Entry) -> str:
    gateway = f"Gateway={entry.gateway}\n" if entry.gateway is not None else ""
    return (
        f"[Match]\nMACAddress={entry.mac}\nKind=!*\nType=ether\n\n"
        f"[Network]\nAddress={entry.address}\n{gateway}DHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\nLLDP=no\n"
    )


def _entry(line: str, where: str) -> Entry | None:
    if len(line) > _LONGEST:
        raise FleetError(f"more than {_LONGEST} characters", where=where, remedy=_REMEDY)
    fields = line.partition("#")[0].split()
    if not fields:
        return None
    if len(fields) not in (2, 3):
        raise FleetError(f"{len(fields)} words in place of two or three", where=where, remedy=_REMEDY)
    mac = _mac(fields[0], f"{where}: MAC")
    address = _interface(fields[1], f"{where}: ADDRESS/PREFIX")
    return Entry(mac, address, _gateway(fields[2], address, f"{where}: GATEWAY") if len(fields) == 3 else None)


def _mac(text: str, where: str) -> str:
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise FleetError(f"{text!r} is no MAC address", where=where, remedy=_REMEDY)
    # The lowest bit of the first octet: a group of cards (IEEE 802).
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise FleetError(f"{text} is not that of one card", where=where, remedy=_REMEDY)
    return mac


def _interface(text: str, where: str) -> IPv4Interface:
    try:
        found = IPv4Interface(text) if _INTERFACE.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        raise FleetError(f"{text!r} is no IPv4 address with a prefix", where=where, remedy=_REMEDY)
    if not _is_host(found.ip, found):
        raise FleetError(f"{found} cannot be the address of a machine", where=where, remedy=_REMEDY)
    return found


def _gateway(text: str, address: IPv4Interface, where: str) -> IPv4Address:
    try:
        found = IPv4Address(text) if _ADDRESS.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None:
        raise FleetError(f"{text!r} is no IPv4 address", where=where, remedy=_REMEDY)
    if found == address.ip or found not in address.network or not _is_host(found, address):
        raise FleetError(f"{found} is no other machine in {address.network}", where=where, remedy=_REMEDY)
    return found


def _is_host(address: IPv4Address, within: IPv4Interface) -> bool:
    special = address.is_multicast or address.is_loopback or address.is_link_local or address.is_reserved
    network = within.network
    ends = () if network.prefixlen >= _POINT_TO_POINT else (network.network_address, network.broadcast_address)
    return not special and int(address) >> 24 != 0 and network.prefixlen > 0 and address not in ends
