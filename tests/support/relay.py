# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An interface of a network namespace on an Ethernet segment of virtual machines.

QEMU carries each frame of a segment in one datagram to a multicast group on the loopback interface (qemu(1), -netdev
socket,mcast=); the interface is a TAP device (tun(4)) whose other end does the same.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab import within

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000  # IFF_TAP, IFF_NO_PI
_SO_RCVBUFFORCE = 33
_BUFFER = 1 << 26  # a machine that downloads does not wait for this thread
_LARGEST = 65536
_AT_ONCE = 64  # frames of one side before the other has its turn
_LOOPBACK = socket.inet_aton("127.0.0.1")
# Bytes that a connection of the namespace may have on their way (net.ipv4.tcp_wmem, tcp(7)). QEMU's socket holds about
# ninety frames and loses what is more: 18 000 of them in a download of 40 MB by firmware.
_ON_THEIR_WAY = "4096 16384 65536"


@contextmanager
def relay(namespace: Path, interface: str, group: str, port: int) -> Iterator[None]:
    """Make an interface, and let it be on the segment until the block ends; the interface ends with it.

    :param namespace: the file that stands for the network namespace, as ``/proc/PID/ns/net``.
    """
    within(namespace, lambda: Path("/proc/sys/net/ipv4/tcp_wmem").write_text(_ON_THEIR_WAY))
    tap = within(namespace, lambda: _tap(interface))
    stopped, stop = os.pipe()
    try:
        with _listener(group, port) as incoming, _speaker() as outgoing:
            arguments = (tap, incoming, outgoing, (group, port), stopped)
            thread = threading.Thread(target=_carry, args=arguments, name=f"relay {interface}", daemon=True)
            thread.start()
            try:
                yield
            finally:
                os.close(stop)
                thread.join()
    finally:
        os.close(stopped)
        os.close(tap)


def _tap(interface: str) -> int:
    """Make a TAP device and switch it on."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _TAP_WITHOUT_HEADER))
        subprocess.run(["ip", "link", "set", interface, "up"], check=True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _listener(group: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    made.bind((group, port))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + _LOOPBACK)
    made.setblocking(False)
    return made


def _speaker() -> socket.socket:
    """Sends from an address of its own, by which the listener knows what came from here."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _LOOPBACK)
    return made


def _carry(tap: int, incoming: socket.socket, outgoing: socket.socket, to: tuple[str, int], stopped: int) -> None:
    own = outgoing.getsockname()

    def to_segment() -> None:
        outgoing.sendto(os.read(tap, _LARGEST), to)

    def to_interface() -> None:
        frame, sender = incoming.recvfrom(_LARGEST)
        if sender != own:
            # An interface that is switched off, or has no room, loses frames as a real one does.
            with suppress(OSError):
                os.write(tap, frame)

    waiting = select.poll()
    turns: dict[int, Callable[[], None]] = {tap: to_segment, incoming.fileno(): to_interface}
    for descriptor in (*turns, stopped):
        waiting.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _events in waiting.poll():
            if descriptor == stopped:
                return
            with suppress(BlockingIOError):
                for _frame in range(_AT_ONCE):
                    turns[descriptor]()
