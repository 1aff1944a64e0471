# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network card of a stranger on an Ethernet segment of virtual machines.

QEMU carries each frame of a segment in one datagram to a multicast group on the loopback interface (qemu(1), -netdev
socket,mcast=).
"""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

MAC = "52:54:00:ee:00:99"
IPV4, IPV6 = "192.0.2.99", "2001:db8:1::99"
_BUFFER = 16 << 20


def is_esp(frame: Packet) -> bool:
    """Whether it carries ESP in UDP (RFC 3948): what begins with four zeros is IKE, a single byte keeps a NAT open."""
    payload = bytes(frame[UDP].payload) if UDP in frame and frame[UDP].dport == 4500 else b""
    return len(payload) > 1 and payload[:4] != bytes(4)


class Wire:
    """Sends frames, records all that is seen, and answers who asks for the stranger's addresses."""

    def __init__(self, group: str, port: int) -> None:
        self._to = (group, port)
        self._frames: list[bytes] = []
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        loopback = socket.inet_aton("127.0.0.1")
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind(self._to)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + loopback)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def send(self, frame: bytes) -> None:
        """Put a frame on the wire."""
        self._socket.sendto(frame, self._to)

    def mark(self) -> int:
        """A moment, for :meth:`since`."""
        return len(self._frames)

    def since(self, mark: int) -> list[Packet]:
        """The frames seen since then, but for those of the stranger."""
        frames = [Ether(frame) for frame in self._frames[mark:]]
        return [frame for frame in frames if frame.src != MAC]

    def record(self, seconds: float) -> list[Packet]:
        """The frames of the next seconds."""
        mark = self.mark()
        time.sleep(seconds)
        return self.since(mark)

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                frame = self._socket.recv(65536)
            except TimeoutError:
                continue
            self._frames.append(frame)
            kind = frame[12:14]
            if kind == b"\x08\x06":
                self._tell_ipv4(Ether(frame))
            elif kind == b"\x86\xdd" and frame[20] == socket.IPPROTO_ICMPV6 and frame[54] == 135:
                self._tell_ipv6(Ether(frame))

    def _tell_ipv4(self, frame: Packet) -> None:
        if frame[ARP].op == 1 and frame[ARP].pdst == IPV4:
            answer = ARP(op=2, hwsrc=MAC, psrc=IPV4, hwdst=frame.src, pdst=frame[ARP].psrc)
            self.send(bytes(Ether(src=MAC, dst=frame.src) / answer))

    def _tell_ipv6(self, frame: Packet) -> None:
        if frame[ICMPv6ND_NS].tgt == IPV6:
            answer = ICMPv6ND_NA(tgt=IPV6, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC)
            self.send(bytes(Ether(src=MAC, dst=frame.src) / IPv6(src=IPV6, dst=frame[IPv6].src) / answer))
