# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ansible_collections.vauban.fleet.plugins.module_utils._command import CLEAN_ENVIRONMENT, LAST_LINES
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

POLL_INTERVAL = 0.05
START_TIMEOUT = 30.0
T = TypeVar("T")


class Stat(NamedTuple):
    """A process, as proc_pid_stat(5) shows it; ``name`` has 15 characters at most, ``cpu`` are seconds.

    A number is given to another process once it is free; together with ``started`` (clock ticks since the host's boot)
    it is not.
    """

    pid: int
    name: str
    parent: int
    cpu: float
    started: int
    ended: bool  # and not waited for yet by its parent


def stat(pid: int | str) -> Stat | None:
    """Facts about one process; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, fields = text.rsplit(") ", 1)  # a name may hold spaces and parentheses
    number, name = head.split(" (", 1)
    words = fields.split()
    cpu = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return Stat(int(number), name, int(words[1]), cpu, int(words[19]), words[0] in "ZX")


def descendants(ancestor: int) -> list[Stat]:
    """The processes below this one, at any depth."""
    found = (stat(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    table = {each.pid: each for each in found if each}

    def below(pid: int) -> bool:
        parent = table[pid].parent
        return parent == ancestor or (parent in table and below(parent))

    return [each for each in table.values() if below(each.pid)]


def holders(path: Path) -> list[Stat]:
    """The other processes of this user that have the file open."""
    status = path.stat()
    wanted, found = (status.st_dev, status.st_ino), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            opened = any(_identity(descriptor) == wanted for descriptor in (entry / "fd").iterdir())
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue  # it has ended, or is another user's
        if opened and (process := stat(entry.name)):
            found.append(process)
    return found


def kill(processes: Iterable[Stat]) -> None:
    """Kill them and wait until they have ended."""
    handles = [(each, _handle(each.pid)) for each in processes]
    for each, handle in handles:
        now = stat(each.pid)
        # The handle was opened before this look, so it is that of the process looked at.
        if handle is not None and now is not None and now.started == each.started:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [])  # readable once that process has ended (pidfd_open(2))
        if handle is not None:
            os.close(handle)


class Process:
    """A program that runs beside us, started from a sandbox's command line.

    The sandbox ties its life to the thread that starts it (prctl(2), PR_SET_PDEATHSIG): it dies with us, however we
    end, so start it from a thread that stays. A detached one goes on.

    :param log: gets the command, to paste into a shell, and what the program prints.
    :param runtime: directory of its sockets; it is gone afterwards, so the logged command makes it anew.
    :param terminal: leave it our standard input and output.
    :param detached: file of which each process of the program inherits an open descriptor, for :func:`holders`. Its
        sandbox must be detached, too; signals of our terminal do not reach it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        runtime: Path,
        *,
        terminal: bool = False,
        detached: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as stream:
            stream.write(f"$ mkdir -p {shlex.quote(str(runtime))}; {shlex.join(argv)}\n".encode())
            stream.flush()
            self._offset = stream.tell()
            streams = (None, None) if terminal else (subprocess.DEVNULL, stream)
            descriptors = () if detached is None else (os.open(detached, os.O_RDONLY),)
            try:
                self._popen = subprocess.Popen(
                    argv,
                    stdin=streams[0],
                    stdout=streams[1],
                    stderr=stream,
                    env=dict(CLEAN_ENVIRONMENT),
                    pass_fds=descriptors,
                    start_new_session=detached is not None,
                )
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal, None while it runs."""
        return self._popen.poll()

    def last_lines(self) -> str:
        """The end of what this run of the program printed."""
        with self.log.open("rb") as stream:
            stream.seek(self._offset)
            lines = stream.read().decode("utf-8", "replace").strip().splitlines()[-LAST_LINES:]
        return "\n".join(f"  | {line}" for line in lines)

    def failure(self, what: str) -> FleetError:
        """An error that carries the program's own last words."""
        lines = self.last_lines()
        return FleetError(
            f"{self.name} {what}" + (f":\n{lines}" if lines else ""), remedy=f"read the whole log: {self.log}"
        )

    def wait_until(self, ready: Callable[[], T | None], *, timeout: float = START_TIMEOUT) -> T:
        """Wait for the program's sign of life, something true, and return it.

        :raises FleetError: it ended instead, or ``timeout`` seconds passed.
        """
        deadline = time.monotonic() + timeout
        while not (value := ready()):
            if not self.running:
                raise self.failure(f"ended with status {self.status} at its start")
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready within {timeout:g} s")
            time.sleep(POLL_INTERVAL)
        return value

    def stop(self, *, grace: float = 0.0) -> None:
        """Wait ``grace`` seconds for the end, then kill; return when the sandbox's whole process tree is gone."""
        try:
            self._popen.wait(grace)
            return
        except subprocess.TimeoutExpired:
            pass
        family = descendants(self.pid)
        self._popen.kill()
        self._popen.wait()
        kill(family)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _handle(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
