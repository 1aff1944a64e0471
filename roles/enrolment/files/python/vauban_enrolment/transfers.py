# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Files that come in pieces: under a temporary name until they are whole. All that is known of one is the file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20  # bytes, at most
_PART = ".part"
_SYNC = 64 << 20  # bytes that are not on the disk yet, at most: the last of them are then there soon
_CHUNK = 1 << 20


class Busy(Exception):
    """Another request works on the same file."""


class Faulty(Exception):
    """The transfer cannot go on; says why."""


@dataclass(frozen=True)
class Transfers:
    """A directory of such files.

    :param directory: is made, for its owner alone; the one above it is there.
    :param largest: bytes of a file.
    :param reserve: bytes of the file system that stay free.
    """

    directory: Path
    largest: int
    reserve: int

    def add(self, name: str, offset: int, piece: bytes) -> None:
        """Add the next piece. What is there already of it has to be the same: its answer was lost, or it was cut off.

        :raises Busy: it is being written to.
        :raises Faulty: it is no such piece, or there is no room for it.
        """
        if offset + len(piece) > self.largest:
            raise Faulty(f"it has more than the {self.largest} bytes that the limit backup_bytes allows")
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            with self._locked(self._part(name), os.O_RDWR | (os.O_CREAT if offset == 0 else 0)) as descriptor:
                self._write(descriptor, offset, piece)
        except OSError as exc:
            raise Faulty(f"its file cannot be written: {exc.strerror}") from exc

    def _write(self, descriptor: int, offset: int, piece: bytes) -> None:
        size = os.fstat(descriptor).st_size
        there = max(size - offset, 0)
        if offset > size or there > len(piece):
            raise Faulty(f"a piece came for byte {offset}, and {size} are there")
        if os.pread(descriptor, there, offset) != piece[:there]:
            raise Faulty(f"another piece came for byte {offset} than before")
        rest = memoryview(piece)[there:]
        system = os.fstatvfs(descriptor)
        if rest and system.f_bavail * system.f_frsize - len(rest) < self.reserve:
            raise Faulty(f"there is no room for it: {self.reserve} bytes stay free (backup_reserve_bytes)")
        while rest:
            rest = rest[os.pwrite(descriptor, rest, offset + len(piece) - len(rest)) :]
        if size // _SYNC != (offset + len(piece)) // _SYNC:
            os.fdatasync(descriptor)

    def measure(self, name: str, final: str) -> tuple[int, str]:
        """Have it on the disk, and read it again.

        :param final: its name when it is whole.
        :returns: bytes, and SHA-256.
        :raises Busy: it is being written to.
        :raises Faulty: it is not there.
        """
        part = self._part(name)
        try:
            with self._locked(part if part.exists() else self.directory / final, os.O_RDONLY) as descriptor:
                os.fsync(descriptor)
                digest = hashlib.sha256()
                with open(descriptor, "rb", buffering=0, closefd=False) as stream:
                    while chunk := stream.read(_CHUNK):
                        digest.update(chunk)
                return os.fstat(descriptor).st_size, digest.hexdigest()
        except FileNotFoundError:
            raise Faulty("nothing came of it") from None
        except OSError as exc:
            raise Faulty(f"its file cannot be read: {exc.strerror}") from exc

    def settle(self, name: str, final: str) -> None:
        """Give it its name, for good. It has it already if power was cut just then.

        :raises Faulty: it cannot have it.
        """
        try:
            with suppress(FileNotFoundError):
                self._part(name).rename(self.directory / final)
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise Faulty(f"its file cannot be renamed: {exc.strerror}") from exc

    def unfinished(self) -> list[str]:
        """Names of those that are not whole."""
        return [path.name.removesuffix(_PART) for path in self.directory.glob(f"*{_PART}")]

    def remove(self, name: str) -> None:
        """Remove one that is not whole."""
        self._part(name).unlink(missing_ok=True)

    def _part(self, name: str) -> Path:
        return self.directory / f"{name}{_PART}"

    @contextmanager
    def _locked(self, path: Path, flags: int) -> Iterator[int]:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno != errno.EWOULDBLOCK:
                    raise
                raise Busy from None
            yield descriptor
        finally:
            os.close(descriptor)
