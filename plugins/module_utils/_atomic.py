# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing_file(dest: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``dest``; rename it to ``dest`` when the block ends without an error.

    Nothing partial ever carries the final name (rename(2) is atomic within one file system).
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{dest.name}.", dir=dest.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.rename(dest)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(dest: Path, *, mode: int = 0o755) -> Iterator[Path]:
    """Yield a temporary directory beside ``dest``; let it take the place of ``dest`` when the block succeeds.

    A directory cannot be renamed over a full one, so for a moment there is none: the old one is ``.<name>.old.*/old``.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{dest.name}.", dir=dest.parent))
    try:
        yield temporary
        temporary.chmod(mode)
        if dest.exists():
            discarded = Path(tempfile.mkdtemp(prefix=f".{dest.name}.old.", dir=dest.parent))
            dest.rename(discarded / "old")
            try:
                temporary.rename(dest)
            except OSError:
                (discarded / "old").rename(dest)
                discarded.rmdir()
                raise
            shutil.rmtree(discarded)
        else:
            temporary.rename(dest)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def write_bytes(dest: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Give ``dest`` this content and mode."""
    with replacing_file(dest, mode=mode) as temporary:
        temporary.write_bytes(data)


def write_text(dest: Path, text: str, *, mode: int = 0o644) -> bool:
    """Give ``dest`` this content and mode; return whether anything changed."""
    data = text.encode("utf-8")
    if dest.is_file() and dest.read_bytes() == data and (dest.stat().st_mode & 0o7777) == mode:
        return False
    write_bytes(dest, data, mode=mode)
    return True


def write_json(dest: Path, value: Any, *, mode: int = 0o644) -> bool:
    """Write ``value`` as JSON with sorted keys: equal data gives equal bytes."""
    return write_text(dest, json.dumps(value, indent=2, sort_keys=True) + "\n", mode=mode)
