# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

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
_LONGEST_TAIL = 4096  # bytes of what a program says


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
    """Run a program to its end. With :func:`pipeline`, the only place in the collection that does.

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


@contextmanager
def pipeline(commands: Sequence[Sequence[str | os.PathLike[str]]]) -> Iterator[BinaryIO]:
    """Run programs that feed each other, and yield what the last one writes. It has to be read to its end.

    What they hold at a time is what pipes hold. Environment and umask are those of :func:`run`.

    :raises CommandError: one has failed: the last of them, since those before it fail of that, and those after do not.
    :raises FleetError: one cannot be started.
    """
    words = [tuple(os.fspath(word) for word in command) for command in commands]
    with ExitStack() as stack:
        started: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        source: IO[bytes] | None = None
        for argv in words:
            said: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            try:
                process = stack.enter_context(_piped(argv, source, said))
            except OSError as exc:
                raise FleetError(f"{argv[0]} cannot be started: {exc.strerror}") from exc
            finally:
                if source is not None:  # else the one before would not hear that its reader is gone
                    source.close()
            started.append((process, said))
            source = process.stdout
        if source is None:
            raise FleetError("no program to run")
        yield cast(BinaryIO, source)
        source.close()
        for argv, (process, said) in reversed(list(zip(words, started, strict=True))):
            if process.wait() != 0:
                said.seek(max(0, said.seek(0, os.SEEK_END) - _LONGEST_TAIL))
                raise CommandError(Completed(argv, process.returncode, b"", said.read()))


@contextmanager
def _piped(argv: Sequence[str], source: IO[bytes] | None, said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is ended if nobody has waited for it."""
    process = subprocess.Popen(
        argv,
        stdin=source if source is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=said,
        env=dict(CLEAN_ENVIRONMENT),
        umask=UMASK,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def append_log(log: Path, completed: Completed) -> None:
    """Append a finished command, copy-pasteable, and what it printed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {shlex.join(completed.argv)}\n{completed.stdout}{completed.stderr}")
        stream.write(f"[status {completed.returncode}]\n")
