# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

_CHUNK = 4 * 1024 * 1024


def of_data(*values: Any) -> str:
    """SHA-256 (hexadecimal) of JSON-like values, independent of dictionary order."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=_plain)
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
    """SHA-256 over names, executable bits, link targets and contents below ``roots``, which are told apart.

    Owner and time are left out: they differ between checkouts and do not reach an artifact.

    :raises FleetError: a root does not exist.
    """
    return of_data(*([_entry(root, path) for path in sorted(_files(root))] for root in roots))


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, Set) else str(value)


def _entry(root: Path, path: Path) -> tuple[str, bool | str, str]:
    name, status = str(path.relative_to(root)), path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return name, "link", os.readlink(path)
    return name, bool(status.st_mode & stat.S_IXUSR), of_file(path)


def _files(root: Path) -> Iterable[Path]:
    if not root.exists():
        raise FleetError("no such file or directory", where=str(root))
    if root.is_file():
        yield root
        return
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name != "__pycache__"]
        for name in [*files, *(n for n in names if (Path(directory) / n).is_symlink())]:
            yield Path(directory) / name
