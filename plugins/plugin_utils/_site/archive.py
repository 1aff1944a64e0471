# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The configuration of a host as it goes to the machine, which unpacks it with ``module_utils/_install``."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

_TOP = "etc"


def write(tree: Path, dest: Path, also: Mapping[str, bytes] | None = None) -> str:
    """Write a host's tree as an archive: the same tree gives the same bytes, whoever writes it and when.

    :param tree: the directory, or the link to it, that ``site_render`` made for the host.
    :param also: further files by their path, for example ``etc/swanctl/x509crl/root.crl``. It must not be in the tree.
    :returns: the archive's SHA-256.
    :raises FleetError: there is something in it that is no configuration.
    """
    root = tree.resolve()
    found = {path: _read(root, path) for path in _paths(root)}
    extra = {path: (_entry(path, tarfile.REGTYPE, 0o644), data) for path, data in (also or {}).items()}
    for path in extra:
        if path in found or not path.startswith(f"{_TOP}/"):
            raise FleetError("no file beside those of the tree", where=path)
    with replacing_file(dest) as temporary:
        # A name or a time would be in the header.
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as stream,
        ):
            for _path, (entry, data) in sorted((found | extra).items()):
                entry.size = len(data)
                stream.addfile(entry, io.BytesIO(data))
        return _digest.of_file(temporary)


def _paths(root: Path) -> Iterator[str]:
    for name in sorted(os.listdir(root)):
        if name != _TOP:
            raise FleetError("is not below etc", where=str(root / name))
    for directory, names, files in os.walk(root):
        relative = Path(directory).relative_to(root)
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        yield from (str(relative / name) for name in [*files, *links])


def _read(root: Path, path: str) -> tuple[tarfile.TarInfo, bytes]:
    place = root / path
    mode = place.lstat().st_mode
    if stat.S_ISLNK(mode):
        entry = _entry(path, tarfile.SYMTYPE, 0o777)
        entry.linkname = os.readlink(place)
        return entry, b""
    if not stat.S_ISREG(mode):
        raise FleetError("is neither a file nor a link", where=str(place))
    return _entry(path, tarfile.REGTYPE, 0o755 if mode & stat.S_IXUSR else 0o644), place.read_bytes()


def _entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    """Time and owner stay 0; directories need no entries of their own."""
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = kind, mode
    return entry
