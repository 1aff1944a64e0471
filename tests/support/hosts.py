# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines as far as namespaces go: a root tree, processes, and a network that leads nowhere but to another of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Layers, Sandbox

MACHINE_ID = "0123456789abcdef0123456789abcdef"
WITHIN = 20.0  # seconds for anything a test waits for


class Host:
    """A root tree with namespaces of its own, which all commands of this host share.

    What it writes goes to a layer of its own. No process outlives it.
    """

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        # Where its files are seen from here.
        self.root = Path(f"/proc/{pid}/root")

    def argv(self, *command: str, user: str | None = None) -> list[str]:
        """The command line that runs a command of the tree in it."""
        enter = [
            "nsenter",
            "--target",
            str(self.pid),
            "--mount",
            "--net",
            "--pid",
            "--ipc",
            "--uts",
            "--root",
            "--wd",
        ]
        become = ["runuser", "-u", user, "--"] if user else []
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
        return [*enter, "--", "env", "-i", path, "LC_ALL=C.UTF-8", "HOME=/", *become, *command]

    def ask(self, *command: str, user: str | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its status."""
        return subprocess.run(
            self.argv(*command, user=user), input=stdin, capture_output=True, text=True, timeout=120, check=False
        )

    def __call__(self, *command: str, user: str | None = None, stdin: str = "") -> str:
        """The output of a command that must succeed."""
        done = self.ask(*command, user=user, stdin=stdin)
        assert done.returncode == 0, f"{self.name}: {command}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, *command: str, user: str | None = None, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A daemon that stays in the foreground and is ended with the block."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                self.argv(*command, user=user), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        try:
            yield process
        finally:
            signal_inside(process.pid, signal.SIGTERM)
            try:
                process.wait(WITHIN)
            except subprocess.TimeoutExpired:
                for inner in (*descendants(process.pid), process.pid):
                    _kill(inner, signal.SIGKILL)
                process.wait(WITHIN)

    def write(self, path: str, content: str, *, mode: str = "0644", owner: str = "root:root") -> None:
        """A file of the tree."""
        self("mkdir", "-p", os.path.dirname(path))
        self(
            "sh",
            "-euc",
            'umask 077; cat > "$1"; chown "$2" "$1"; chmod "$3" "$1"',
            "sh",
            path,
            owner,
            mode,
            stdin=content,
        )


@contextmanager
def host(name: str, sdk: Path, lower: Sequence[Path], directory: Path) -> Iterator[Host]:
    """A running host.

    :param lower: read-only trees, the topmost first.
    """
    for part in ("scratch", "upper", "work"):
        (directory / part).mkdir(parents=True)
    (directory / "upper").chmod(0o755)
    tree = Layers(tuple(lower), directory / "upper", directory / "work")
    argv = Sandbox(sdk, directory / "scratch").argv(["sleep", "infinity"], root=tree, privileged=True)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: process.poll() is not None or _program(process.pid) is not None, "the namespaces")
        inner = _program(process.pid)
        assert inner is not None, process.stderr.read().decode() if process.stderr else ""
        yield Host(name, inner)
    finally:
        process.kill()  # takes everything inside with it (bwrap --die-with-parent, PID namespace)
        process.communicate()


def connect(one: Host, other: Host, addresses: tuple[str, str]) -> None:
    """A cable between two hosts; interface ``wire`` of each gets its address (CIDR)."""
    words = ["ip", "link", "add", "wire", "netns", str(one.pid), "type", "veth"]
    _network(*words, "peer", "name", "wire", "netns", str(other.pid))
    for each, address in zip((one, other), addresses, strict=True):
        enter = ["nsenter", "--target", str(each.pid), "--net", "--"]
        _network(*enter, "ip", "address", "add", address, "dev", "wire")
        _network(*enter, "ip", "link", "set", "wire", "up")


def start_journal(stack: ExitStack, host: Host, log: Path) -> None:
    """journald of the tree, on sockets that it makes itself. It may not touch the kernel's audit."""
    host.write("/etc/machine-id", f"{MACHINE_ID}\n")
    host("install", "-d", "-m", "2755", "-g", "systemd-journal", f"/var/log/journal/{MACHINE_ID}")
    host("mkdir", "-p", "/run/systemd/journal", "/sys/fs/cgroup")
    host("touch", "/run/systemd/journal/flushed")
    host("mount", "-t", "cgroup2", "-o", "ro", "none", "/sys/fs/cgroup")
    without = ["setpriv", "--bounding-set=-audit_control,-audit_read", "--inh-caps=-audit_control,-audit_read"]
    stack.enter_context(host.running(*without, "/usr/lib/systemd/systemd-journald", log=log))
    wait_for(lambda: host.ask("test", "-S", "/run/systemd/journal/dev-log").returncode == 0, "the journal")
    host("ln", "-sf", "/run/systemd/journal/dev-log", "/dev/log")


def wait_for(condition: Callable[[], bool], what: str, *, within: float = WITHIN) -> None:
    """Wait until something is so, or fail."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within:g} s"
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Processes below this one, the outermost first."""
    found = _children(pid)
    return [*found, *(deeper for child in found for deeper in descendants(child))]


def signal_inside(pid: int, number: signal.Signals) -> None:
    """Give what runs inside a host a signal; ``pid`` is that of the process that entered it."""
    for inner in descendants(pid):
        _kill(inner, number)


def require() -> None:
    """Skip the test where namespaces cannot be made and entered."""
    if os.geteuid() != 0:
        pytest.skip("makes namespaces: run as root")
    if missing := [program for program in ("bwrap", "nsenter", "ip") if shutil.which(program) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}; run 'make host'")


def _program(pid: int) -> int | None:
    """The process that the sandbox was made for: it sleeps."""
    for each in descendants(pid):
        try:
            if Path(f"/proc/{each}/comm").read_text().strip() == "sleep":
                return each
        except OSError:
            continue
    return None


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _network(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
