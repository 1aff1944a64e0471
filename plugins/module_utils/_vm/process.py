# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import select
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from ansible_collections.vauban.fleet.plugins.module_utils._command import CLEAN_ENVIRONMENT, LAST_LINES
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

POLL_INTERVAL = 0.05
START_TIMEOUT = 30.0
T = TypeVar("T")


class Stat(NamedTuple):
    """A process, as proc_pid_stat(5) shows it; ``name`` has 15 characters at most, ``cpu`` are seconds."""

    pid: int
    name: str
    parent: int
    cpu: float


def stat(pid: int | str) -> Stat | None:
    """Facts about one process; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, fields = text.rsplit(") ", 1)  # a name may hold spaces and parentheses
    number, name = head.split(" (", 1)
    words = fields.split()
    return Stat(int(number), name, int(words[1]), (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"))


def descendants(ancestor: int) -> list[Stat]:
    """The processes below this one, at any depth."""
    found = (stat(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    table = {each.pid: each for each in found if each}

    def below(pid: int) -> bool:
        parent = table[pid].parent
        return parent == ancestor or (parent in table and below(parent))

    return [each for each in table.values() if below(each.pid)]


class Process:
    """A program that runs beside us, started from a sandbox's command line.

    The sandbox ties its life to the thread that starts it (prctl(2), PR_SET_PDEATHSIG): it dies with us, however we
    end, so start it from a thread that stays.

    :param log: gets the command, to paste into a shell, and what the program prints.
    :param runtime: directory of its sockets; it is gone afterwards, so the logged command makes it anew.
    :param terminal: leave it our standard input and output.
    """

    def __init__(self, name: str, argv: Sequence[str], log: Path, runtime: Path, *, terminal: bool = False) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as stream:
            stream.write(f"$ mkdir -p {shlex.quote(str(runtime))}; {shlex.join(argv)}\n".encode())
            stream.flush()
            self._offset = stream.tell()
            streams = (None, None) if terminal else (subprocess.DEVNULL, stream)
            self._popen = subprocess.Popen(
                argv, stdin=streams[0], stdout=streams[1], stderr=stream, env=dict(CLEAN_ENVIRONMENT)
            )
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
        family = [_handle(each.pid) for each in descendants(self.pid)]
        self._popen.kill()
        self._popen.wait()
        for handle in family:
            if handle is not None:
                select.select([handle], [], [])  # readable once that process has ended (pidfd_open(2))
                os.close(handle)


def _handle(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
