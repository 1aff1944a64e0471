# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

# Steps see this environment and nothing of the caller's: no locale, proxy, umask or setting can change an artifact.
CLEAN_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/root",
}
UMASK = 0o022
LAST_LINES = 15


@dataclass(frozen=True)
class Completed:
    """What a finished program left behind."""

    argv: tuple[str, ...]
    returncode: int
    stdout_bytes: bytes
    stderr_bytes: bytes

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """Standard error as text."""
        return self.stderr_bytes.decode("utf-8", "replace")


class CommandError(FleetError):
    """A program ended with a non-zero status; carries its own last lines."""

    def __init__(self, completed: Completed, *, log: Path | None = None) -> None:
        self.completed = completed
        lines = (completed.stderr.strip() or completed.stdout.strip()).splitlines()[-LAST_LINES:]
        tail = "\n".join(f"  | {line}" for line in lines)
        program = describe(completed.argv)
        super().__init__(
            f"{program} ended with status {completed.returncode}" + (f":\n{tail}" if tail else ""),
            remedy=f"read the whole log: {log}" if log else None,
        )


def describe(argv: Sequence[str]) -> str:
    """The program a sandboxed or plain command line is about, for messages."""
    words = list(argv)
    if "--" in words:
        words = words[len(words) - words[::-1].index("--") :] or words
    text = shlex.join(words)
    return text if len(text) <= 100 else text[:100] + " ..."


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    cwd: str | os.PathLike[str] | None = None,
    check: bool = True,
    pass_fds: Sequence[int] = (),
    timeout: float | None = None,
) -> Completed:
    """Run a program to its end. The only place in the collection that does.

    Secrets go through ``stdin`` or an inherited descriptor (``pass_fds``), never through ``argv``.

    :param env: added to :data:`CLEAN_ENVIRONMENT`; the caller's environment is not inherited.
    :param log: file to append the command and its output to.
    :param timeout: seconds before the program is killed.
    :raises CommandError: non-zero status and ``check``.
    :raises FleetError: the program cannot be started or took too long.
    """
    words = tuple(os.fspath(word) for word in argv)
    try:
        process = subprocess.run(
            words,
            input=stdin if stdin is not None else b"",
            env={**CLEAN_ENVIRONMENT, **(env or {})},
            cwd=cwd,
            capture_output=True,
            pass_fds=pass_fds,
            timeout=timeout,
            umask=UMASK,
            check=False,
        )
    except OSError as exc:
        if cwd is not None and not os.path.isdir(cwd):
            raise FleetError("no such directory to work in", where=os.fspath(cwd)) from exc
        if not isinstance(exc, FileNotFoundError):
            raise FleetError(f"{words[0]} cannot be started: {exc.strerror}") from exc
        remedy = "run 'make host' to install what the host needs"
        raise FleetError(f"program not found: {words[0]}", remedy=remedy) from exc
    except subprocess.TimeoutExpired as exc:
        if log is not None:
            append_log(log, Completed(words, -signal.SIGKILL, exc.stdout or b"", exc.stderr or b""))
        raise FleetError(f"{describe(words)} did not end within {exc.timeout:g} s") from exc
    completed = Completed(words, process.returncode, process.stdout, process.stderr)
    if log is not None:
        append_log(log, completed)
    if check and completed.returncode != 0:
        raise CommandError(completed, log=log)
    return completed


def append_log(log: Path, completed: Completed) -> None:
    """Append a finished command, copy-pasteable, and what it printed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {shlex.join(completed.argv)}\n{completed.stdout}{completed.stderr}")
        stream.write(f"[status {completed.returncode}]\n")
