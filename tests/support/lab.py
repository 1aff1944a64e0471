# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces with the programs of the SDK in them: what two machines would say to each other, without machines.

Everything lives in namespaces of one sandbox and ends with it, whatever way the test ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

# Where the directory of the test appears to the programs.
SHARED = "/run/lab"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


class Lab:
    """A sandbox in which network namespaces can be made.

    :param directory: shared with the programs at :data:`SHARED`.
    """

    def __init__(self, directory: Path, process: int) -> None:
        self.directory = directory
        self._enter = ["nsenter", f"--target={process}", "--mount", "--net", "--pid", "--ipc", "--uts", "--"]
        self._namespaces = Path(f"/proc/{process}/root/run/netns")

    def argv(self, command: Sequence[str], namespace: str | None = None) -> list[str]:
        """The command line that runs a program of the SDK in a namespace."""
        within = ["ip", "netns", "exec", namespace] if namespace else []
        return [*self._enter, *within, *command]

    def run(
        self,
        *command: str,
        namespace: str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        stdin: str = "",
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        done = subprocess.run(
            self.argv(command, namespace),
            env={"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done

    def add_namespace(self, name: str, *, ipv6: bool = True) -> None:
        """Make a namespace whose loopback interface is up."""
        self.run("ip", "netns", "add", name)
        if not ipv6:
            self.run("sh", "-c", "echo 1 | tee /proc/sys/net/ipv6/conf/*/disable_ipv6", namespace=name)
        self.run("ip", "-netns", name, "link", "set", "lo", "up")

    def add_link(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        """Join two namespaces by a cable; each end is a namespace and the name of the interface there."""
        (here, name), (there, peer) = one, other
        made = ("name", name, "type", "veth", "peer", "name", peer, "netns", there)
        self.run("ip", "-netns", here, "link", "add", *made)
        for namespace, interface in (one, other):
            self.run("ip", "-netns", namespace, "link", "set", "dev", interface, "up")

    def add_address(self, namespace: str, interface: str, *addresses: str) -> None:
        """Give an interface addresses that can be used at once."""
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            self.run("ip", "-netns", namespace, "address", "add", address, "dev", interface, *nodad)

    def add_tun_device(self) -> None:
        """Let programs of any user who has the capability make TUN interfaces."""
        # The sandbox mounts /dev without devices of its own.
        script = "mkdir /dev/net; mount -t tmpfs -o mode=0755 tmpfs /dev/net; mknod -m 0666 /dev/net/tun c 10 200"
        self.run("sh", "-euc", script)

    def add_root(self, place: str) -> None:
        """Let the programs of another root tree, which is shown there, find what those of the SDK find."""
        script = 'mount -t tmpfs tmpfs "$1/run"; mkdir "$1$2"; for d in /dev /proc "$2"; do mount --rbind $d $1$d; done'
        self.run("sh", "-euc", script, "sh", place, SHARED)

    def add_users(self, users: Mapping[str, int]) -> None:
        """Let programs know users by name. The files that name them are the SDK's, shown read-only."""
        lines = "".join(f"{name}:x:{number}:{number}::/:/usr/sbin/nologin\n" for name, number in users.items())
        (self.directory / "users").write_text(lines)
        copied = f"cat /etc/passwd {SHARED}/users > /tmp/passwd; chmod 644 /tmp/passwd"
        self.run("sh", "-euc", f"{copied}; mount --bind /tmp/passwd /etc/passwd")

    def inside(self, namespace: str, action: Callable[[], T], *, user: int = 0) -> T:
        """Do something in a namespace, as a user. A socket made there belongs to both for good."""
        return within(self._namespaces / namespace, action, user=user)

    def socket(self, namespace: str, *arguments: Any, user: int = 0) -> socket.socket:
        """A socket of this user in a namespace."""
        return self.inside(namespace, lambda: socket.socket(*arguments), user=user)


def within(namespace: Path, action: Callable[[], T], *, user: int = 0) -> T:
    """Do something in a network namespace, which a file stands for (namespaces(7)), as a user."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            descriptor = os.open(namespace, os.O_RDONLY)
            try:
                if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)
            # Of this thread alone, as setns is: the C library does not carry them over to others.
            _LIBC.setfsgid(user)
            _LIBC.setfsuid(user)
            result.append(action())
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


@contextmanager
def lab(directory: Path, *, binds: Sequence[Bind] = ()) -> Iterator[Lab]:
    """Start the sandbox. Skips where that is impossible, and says why.

    :param binds: what is shown to the programs besides.
    """
    if os.geteuid() != 0:
        pytest.skip("makes network namespaces: run as root")
    if not SDK.exists():
        pytest.skip(f"no SDK at {SDK}: set FLEET_SDK, or build it with 'make build'")
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: run 'make host'")
    directory.mkdir()
    directory.chmod(0o755)
    scratch = directory.parent / f"{directory.name}-scratch"
    scratch.mkdir()
    shown = [Bind(directory, SHARED, writable=True), *binds]
    ready = "echo ready; exec sleep infinity"
    argv = Sandbox(SDK.resolve(), scratch).argv(["sh", "-c", ready], binds=shown, privileged=True)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Lab(directory, int(children[0]))
    finally:
        process.kill()
        process.wait()
