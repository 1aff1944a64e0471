# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that are switched on: what their firmware sends by DHCP and TFTP, and what it is told.

Frames go through a packet socket, since a machine without an address cannot use another.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

SO_RCVBUFFORCE = 33
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
PXE_X64, PXE_BC, HTTP_X64 = 7, 9, 16
_COOKIE = b"\x63\x82\x53\x63"
_ALL = "255.255.255.255"


@dataclass(frozen=True)
class Machine:
    """What a machine says of itself.

    :param kind: vendor class, without the architecture.
    """

    mac: str
    kind: str | None = None
    architecture: int | None = None
    options: dict[int, bytes] = field(default_factory=dict)

    def own(self) -> dict[int, bytes]:
        """The options that all of its messages have (UEFI 2.10, 24.3 and 24.7)."""
        made = {55: bytes([1, 3, 6, 12, 15, 43, 54, 60, 66, 67]), **self.options}
        if self.kind is not None and self.architecture is not None:
            made[60] = f"{self.kind}:Arch:{self.architecture:05}:UNDI:003001".encode()
            made[93] = struct.pack(">H", self.architecture)
            made[94] = bytes([1, 3, 1])
            made[97] = bytes([0, *range(16)])
        return made


def pxe(mac: str, architecture: int = PXE_X64) -> Machine:
    """Firmware that boots by PXE."""
    return Machine(mac, "PXEClient", architecture)


def http(mac: str) -> Machine:
    """Firmware that boots by HTTP."""
    return Machine(mac, "HTTPClient", HTTP_X64)


def ipxe(mac: str) -> Machine:
    """iPXE, started by firmware; it says so in an option of its own."""
    return Machine(mac, "PXEClient", PXE_X64, {77: b"iPXE", 175: bytes([19, 1, 1])})


@dataclass(frozen=True)
class Answer:
    """A message of a server."""

    kind: int
    address: str
    server: str
    next_server: str
    file: str
    options: dict[int, bytes]
    mac: str
    identifier: int
    source: tuple[str, int]

    @property
    def boot(self) -> str:
        """The file that the firmware would take, wherever the message has it."""
        return self.options.get(67, b"").rstrip(b"\0").decode() or self.file


def parse(payload: bytes, source: tuple[str, int]) -> Answer:
    """Read a message."""
    (identifier,) = struct.unpack_from(">I", payload, 4)
    options = dict(_options(payload[240:]))
    return Answer(
        kind=options[53][0],
        address=socket.inet_ntoa(payload[16:20]),
        next_server=socket.inet_ntoa(payload[20:24]),
        server=socket.inet_ntoa(options[54]) if 54 in options else "",
        file=payload[108:236].partition(b"\0")[0].decode(),
        options=options,
        mac=payload[28:34].hex(":"),
        identifier=identifier,
        source=source,
    )


def _options(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data and data[0] != 255:
        if data[0] == 0:
            data = data[1:]
            continue
        yield data[0], data[2 : 2 + data[1]]
        data = data[2 + data[1] :]


def message(machine: Machine, kind: int, identifier: int, own: str = "0.0.0.0", **options: bytes) -> bytes:
    """A message of a machine; further options are named ``o<number>``."""
    fixed = struct.pack(">BBBBIHH", 1, 1, 6, 0, identifier, 0, 0)
    hardware = bytes.fromhex(machine.mac.replace(":", ""))
    fixed += socket.inet_aton(own) + bytes(12) + hardware.ljust(16, b"\0") + bytes(192)
    every = {53: bytes([kind]), **machine.own(), **{int(name[1:]): value for name, value in options.items()}}
    return fixed + _COOKIE + b"".join(bytes([code, len(value)]) + value for code, value in every.items()) + b"\xff"


class Segment:
    """A packet socket on an interface.

    :param make: makes a socket in the namespace of the interface.
    """

    def __init__(self, make: Callable[..., socket.socket], interface: str) -> None:
        self._socket = make(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        self._socket.bind((interface, 0x0800))
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def send(self, machine: Machine, payload: bytes) -> None:
        """To all, from port 68 of no address."""
        segment = struct.pack(">HHHH", 68, 67, 8 + len(payload), 0) + payload
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
        header = header[:10] + struct.pack(">H", _checksum(header)) + header[12:]
        ethernet = b"\xff" * 6 + bytes.fromhex(machine.mac.replace(":", "")) + b"\x08\x00"
        self._socket.send(ethernet + header + segment)

    def answers(self, within: float) -> Iterator[Answer]:
        """What servers say until the time is over."""
        end = time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return
            frame, (_interface, _protocol, direction, *_others) = self._socket.recvfrom(4096)
            if direction == socket.PACKET_OUTGOING or frame[23] != 17 or frame[36:38] != b"\x00\x44":
                continue
            source = socket.inet_ntoa(frame[26:30]), int.from_bytes(frame[34:36], "big")
            yield parse(frame[42:], source)

    def discover(self, machine: Machine, *, within: float = 1.5, wanted: int = 1, identifier: int = 7) -> list[Answer]:
        """The offers to a machine; waits for no more than ``wanted``."""
        self.send(machine, message(machine, DISCOVER, identifier))
        found = []
        for answer in self.answers(within):
            if (answer.mac, answer.identifier) == (machine.mac, identifier):
                found.append(answer)
                if len(found) == wanted:
                    break
        return found

    def request(self, machine: Machine, offer: Answer, *, within: float = 1.5) -> Answer:
        """Take an offer; the server's last word on it."""
        self.send(machine, request(machine, offer))
        for answer in self.answers(within):
            if answer.mac == machine.mac and answer.kind in (ACK, NAK):
                return answer
        raise AssertionError(f"{machine.mac}: no answer to a request")

    def remember(self, machine: Machine, address: str, *, within: float = 1.5) -> Answer | None:
        """Start again with an address of before (RFC 2131, 3.2); the answer, if anybody cares."""
        self.send(machine, message(machine, REQUEST, 9, o50=socket.inet_aton(address)))
        return next((answer for answer in self.answers(within) if answer.mac == machine.mac), None)


def request(machine: Machine, offer: Answer) -> bytes:
    """The message that takes an offer."""
    chosen = {"o50": socket.inet_aton(offer.address), "o54": socket.inet_aton(offer.server)}
    return message(machine, REQUEST, offer.identifier, **chosen)


def power_on(segment: Segment, machines: Sequence[Machine], *, over: float, within: float) -> dict[str, Answer]:
    """Switch on many machines, evenly spread over a time. None of them asks twice. The last words, by MAC."""
    numbered = dict(enumerate(machines, 1))
    got: dict[str, Answer] = {}
    begin = time.monotonic()
    waiting = list(numbered.items())
    while len(got) < len(machines) and time.monotonic() - begin < within:
        due = min(len(machines), int((time.monotonic() - begin) / over * len(machines)) + 1)
        while len(machines) - len(waiting) < due:
            number, machine = waiting.pop(0)
            segment.send(machine, message(machine, DISCOVER, number))
        for answer in segment.answers(over / len(machines)):
            if (known := numbered.get(answer.identifier)) is None or known.mac != answer.mac:
                continue
            if answer.kind == OFFER:
                segment.send(known, request(known, answer))
            elif answer.kind == ACK:
                got[answer.mac] = answer
    return got


def tftp(make: Callable[..., socket.socket], server: str, name: str) -> bytes:
    """Fetch a file as firmware does (RFC 1350).

    :raises FileNotFoundError: the server refuses.
    """
    with make(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(3)
        asking.sendto(struct.pack(">H", 1) + name.encode() + b"\0octet\0", (server, 69))
        content = b""
        while True:
            packet, sender = asking.recvfrom(2048)
            kind, number = struct.unpack_from(">HH", packet)
            if kind == 5:
                raise FileNotFoundError(packet[4:-1].decode())
            content += packet[4:]
            asking.sendto(struct.pack(">HH", 4, number), sender)
            if len(packet) < 516:
                return content


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - (total + (total >> 16)) % 0x10000
