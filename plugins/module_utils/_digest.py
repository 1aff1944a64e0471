# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CHUNK = 4 * 1024 * 1024


def of_data(*values: Any) -> str:
    """SHA-256 (hexadecimal) of JSON-like values, independent of dictionary order."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def of_file(path: Path, *, size: int | None = None) -> str:
    """SHA-256 (hexadecimal) of a file's content, or of the first ``size`` bytes of a file or device."""
    with path.open("rb") as stream:
        if size is None:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        digest = hashlib.sha256()
        while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
        return digest.hexdigest()


def of_tree(*roots: Path) -> str:
    """SHA-256 over names, executable bits, link targets and contents below ``roots``.

    Owner and time are left out: they differ between checkouts and do not reach an artifact.
    """
    digest = hashlib.sha256()
    for root in roots:
        for path in sorted(_files(root)):
            status = path.lstat()
            name = path.relative_to(root).as_posix()
            if stat.S_ISLNK(status.st_mode):
                digest.update(f"link {name} {os.readlink(path)}\n".encode())
            else:
                executable = bool(status.st_mode & stat.S_IXUSR)
                digest.update(f"file {name} {executable} {of_file(path)}\n".encode())
    return digest.hexdigest()


def _files(root: Path) -> Iterable[Path]:
    if root.is_file():
        yield root
        return
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name != "__pycache__"]
        for name in [*files, *(n for n in names if (Path(directory) / n).is_symlink())]:
            yield Path(directory) / name
