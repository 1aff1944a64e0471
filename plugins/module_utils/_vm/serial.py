# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import codecs
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import LAST_LINES
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

KERNEL_FAILURES = (r"Kernel panic", r"\bBUG:", r"\bOops\b")
FIRMWARE_FAILURES = (r"BdsDxe: failed to load", r"Access Denied")
DEFAULT_FAILURES = (*KERNEL_FAILURES, *FIRMWARE_FAILURES)
POLL_INTERVAL = 0.1

# Terminal control (ECMA-48): control sequences, control strings (systemd sends OSC and DCS), two-character escapes.
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])")
UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[]PX^_][^\x07\x1b]{0,4096}\x1b?|[ -/]*)\Z")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class SerialError(FleetError):
    """The guest did not print what was waited for."""


@dataclass(frozen=True)
class Found:
    """What :meth:`Transcript.find` met first."""

    match: re.Match[str]
    failed: bool


class Transcript:
    """What a guest printed, as plain text, however the bytes were cut into pieces.

    Escape sequences and control characters other than tab and newline are dropped; one that is still incomplete is
    held back until the rest arrives.
    """

    def __init__(self) -> None:
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._position = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        raw = self._held + self._decoder.decode(data)
        unfinished = UNFINISHED.search(raw)
        end = unfinished.start() if unfinished else len(raw)
        self._held = raw[end:]
        self.text += CONTROL.sub("", ESCAPE.sub("", raw[:end]))

    def find(self, patterns: Sequence[str], failures: Sequence[str]) -> Found | None:
        """The earliest match behind the last one found.

        A failure counts once its line is complete, so a pattern that begins no later on the same line goes first
        however the bytes arrived.
        """
        lines_end = self.text.rfind("\n") + 1
        found = [Found(match, False) for match in self._search(patterns, len(self.text))]
        found += [Found(match, True) for match in self._search(failures, lines_end)]
        if not found:
            return None
        first = min(found, key=lambda each: (each.match.start(), each.failed))
        self._position = first.match.end()
        return first

    def last_lines(self, number: int = LAST_LINES) -> str:
        """The end of it, for messages."""
        return "\n".join(f"  | {line}" for line in self.text.splitlines()[-number:])

    def _search(self, patterns: Sequence[str], end: int) -> list[re.Match[str]]:
        matches = (re.compile(pattern).search(self.text, self._position, end) for pattern in patterns)
        return [match for match in matches if match]


class Serial:
    """A running guest's serial console: read from QEMU's log file, typed into through its socket.

    :param log: the log, appended to by each boot.
    :param path: socket of the console; None when a person has it on the terminal.
    :param running: whether the guest's QEMU still runs.
    :param offset: where this boot begins in the log; its end unless given.
    :param lines: how many lines of the log errors quote.
    """

    def __init__(
        self,
        log: Path,
        path: Path | None,
        running: Callable[[], bool],
        *,
        offset: int | None = None,
        lines: int = LAST_LINES,
    ) -> None:
        self.log = log
        self._path = path
        self._running = running
        self._transcript = Transcript()
        self._offset = offset if offset is not None else log.stat().st_size if log.exists() else 0
        self._lines = lines

    @property
    def text(self) -> str:
        """Everything printed since this boot began."""
        self._read()
        return self._transcript.text

    def wait_for(
        self, patterns: str | Sequence[str], *, timeout: float, fail_on: Sequence[str] = DEFAULT_FAILURES
    ) -> re.Match[str]:
        """Wait until the guest prints one of these regular expressions; ``match.re.pattern`` tells which.

        Only what came after the previous match counts.

        :param timeout: seconds; a last resort that a good marker or ``fail_on`` makes unnecessary.
        :param fail_on: regular expressions that end the wait at once.
        :raises SerialError: a failure was printed, the machine ended or the time passed; carries the last lines.
        """
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        deadline = time.monotonic() + timeout
        while True:
            ended = not self._running()  # asked first: what was printed before the end is then read below
            if self._read() or ended:
                found = self._transcript.find(wanted, fail_on)
                if found is not None and not found.failed:
                    return found.match
                if found is not None:
                    raise self._error(f"the guest printed {_line(found.match)!r}", wanted)
            if ended:
                raise self._error("the machine ended", wanted)
            if time.monotonic() > deadline:
                raise self._error(f"{timeout:g} s passed", wanted)
            time.sleep(POLL_INTERVAL)

    def wait_until(
        self, ready: Callable[[], bool], what: str, *, timeout: float, fail_on: Sequence[str] = DEFAULT_FAILURES
    ) -> None:
        """Wait until something is true that does not show on the console; arguments and errors as for the above.

        :param what: the same, for messages.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            ended = not self._running()
            self._read()
            found = self._transcript.find([], fail_on)
            if found is not None:
                raise self._error(f"the guest printed {_line(found.match)!r}", [what])
            if ended:
                raise self._error("the machine ended", [what])
            if time.monotonic() > deadline:
                raise self._error(f"{timeout:g} s passed", [what])
            time.sleep(POLL_INTERVAL)

    def send(self, text: str, *, timeout: float = 30.0) -> None:
        """Type text (add the newline yourself); returns when the guest has taken it all.

        :raises SerialError: the guest does not read its console, or the console is on the terminal.
        """
        if self._path is None:
            raise SerialError("the console is on the terminal", where=str(self.log))
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(timeout)
                connection.connect(str(self._path))
                connection.sendall(text.encode())
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):  # QEMU hangs up behind the last byte; what it echoes is in the log too
                    pass
        except OSError as exc:
            raise SerialError(f"the guest did not take what was typed: {exc}", where=str(self.log)) from exc

    def _read(self) -> bool:
        if not self.log.exists():
            return False
        with self.log.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        self._offset += len(data)
        self._transcript.feed(data)
        return bool(data)

    def _error(self, event: str, wanted: Sequence[str]) -> SerialError:
        lines = self._transcript.last_lines(self._lines) or "  | (nothing)"
        return SerialError(
            f"{event} before {' or '.join(map(repr, wanted))}; the console's last lines:\n{lines}",
            remedy=f"read the whole log: {self.log}",
        )


def _line(match: re.Match[str]) -> str:
    start = match.string.rfind("\n", 0, match.start()) + 1
    return match.string[start:].split("\n", 1)[0]
