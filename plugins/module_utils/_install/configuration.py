# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The host's own configuration, which the site renders and which stands in front of the core's (overlayfs)."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.places import Places
from ansible_collections.vauban.fleet.plugins.module_utils._install.state import CONFIGURATION

LARGEST = 16 * 1024 * 1024  # bytes of an archive
_LARGEST_CONTENT = 64 * 1024 * 1024  # bytes of what is in it, headers included; it is held in memory
_MOST = 20_000  # files, links and directories
_TOP = "etc"
_TYPES = {tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE}
# What tar(5) says in extended headers. Anything but a long name (attributes, sparse files) is none of a configuration.
_HEADERS = {"path", "linkpath"}
# Bound from the state volume, over whatever is there.
_OTHERS = {"etc/machine-id"}


def unpack(archive: Path, sha256: str, state: Path, core: Path, *, replace: bool = False) -> dict[str, Any]:
    """Lay a host's configuration down on its state volume. Nothing is written unless all of it can be.

    :param archive: as ``plugin_utils/_site/archive.py`` writes it: gzip, tar, everything below ``etc/``.
    :param sha256: what it has to be.
    :param state: the mounted state volume of a machine that is being installed.
    :param core: the mounted core of the release. Directories get the mode and the owner that they have there; where it
        has a link to a directory, the files go to that directory.
    :param replace: in place of a configuration that is there; nothing of that stays.
    :returns: evidence: the digest, and how many files and links there are.
    :raises FleetError: it is another archive, or it holds something that is no configuration of this core.
    """
    content = _read(archive, sha256)
    places = Places(state, core)
    top = state / CONFIGURATION / _TOP
    if not replace and top.is_dir() and any(top.iterdir()):
        raise FleetError("the machine has a configuration already", where=str(top))
    with _opened(content) as stream:
        planned = _plan(stream, places)
        try:
            places.make_parents(top / "x")
            if replace:
                _clear(top, planned, places)
            places.dress(top)
            for dest, member in planned.items():
                _lay(stream, member, dest, places)
        except OSError as exc:
            raise FleetError(f"the configuration cannot be written: {exc.strerror}", where=exc.filename) from exc
    kinds = [member.type for member in planned.values()]
    return {"sha256": sha256, "files": kinds.count(tarfile.REGTYPE), "links": kinds.count(tarfile.SYMTYPE)}


def _clear(top: Path, planned: Iterable[Path], places: Places) -> None:
    shutil.rmtree(top)
    top.mkdir()
    for dest in planned:  # some lie elsewhere, where the core has links to
        places.make_parents(dest)
        dest.unlink(missing_ok=True)


def _read(archive: Path, sha256: str) -> bytes:
    with archive.open("rb") as stream:
        packed = stream.read(LARGEST + 1)
    if len(packed) > LARGEST:
        raise FleetError(f"the configuration has more than {LARGEST} bytes", where=str(archive))
    found = hashlib.sha256(packed).hexdigest()
    if found != sha256:
        raise FleetError(f"the configuration has SHA-256 {found}, and should have {sha256}", where=str(archive))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as unpacked:
            content = unpacked.read(_LARGEST_CONTENT + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise FleetError(f"the configuration is no gzip file: {exc}", where=str(archive)) from exc
    if len(content) > _LARGEST_CONTENT:
        raise FleetError(f"the configuration holds more than {_LARGEST_CONTENT} bytes", where=str(archive))
    return content


def _opened(content: bytes) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=io.BytesIO(content), mode="r:")
    except tarfile.TarError as exc:
        raise FleetError(f"the configuration is no tar archive: {exc}") from exc


def _plan(stream: tarfile.TarFile, places: Places) -> dict[Path, tarfile.TarInfo]:
    """What is in the archive, each judged, by the place on the state volume where it goes.

    :raises FleetError: names what must not be there.
    """
    planned: dict[Path, tarfile.TarInfo] = {}
    directories: set[Path] = set()
    try:
        for member in stream:
            if len(planned) + len(directories) >= _MOST:
                raise FleetError(f"the configuration has more than {_MOST} files", where=member.name)
            problem = _fault(member)
            if not problem and member.name != _TOP:
                dest = _dest(member, places)
                above = {parent for parent in dest.parents if parent.is_relative_to(places.state)}
                if not above.isdisjoint(planned) or (not member.isdir() and dest in directories):
                    problem = "it stands below something that is no directory"
                elif dest in planned:
                    problem = "it is there twice"
                else:
                    problem = _conflict(member, places)
                directories |= above
                if member.isdir():
                    directories.add(dest)
                else:
                    planned[dest] = member
            if problem:
                raise FleetError(f"no file of a configuration: {problem}", where=member.name)
    except (tarfile.TarError, UnicodeError, ValueError) as exc:
        raise FleetError(f"the configuration is no tar archive: {exc}") from exc
    return planned


def _fault(member: tarfile.TarInfo) -> str:
    parts = member.name.split("/")
    if parts[0] != _TOP or not {"", ".", ".."}.isdisjoint(parts) or member.name in _OTHERS:
        return "it is none below etc/"
    if member.type not in _TYPES or not set(member.pax_headers) <= _HEADERS:
        return "it is neither a file nor a directory nor a symbolic link"
    if (member.uid, member.gid) != (0, 0):
        return "it does not belong to root"
    if member.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        return "it has more rights than a file"
    if member.mode & (stat.S_IWGRP | stat.S_IWOTH) and not member.issym():
        return "others than root may change it"
    return "it is no directory" if member.name == _TOP and not member.isdir() else ""


def _dest(member: tarfile.TarInfo, places: Places) -> Path:
    name = f"/{member.name}"
    return places.locate(f"{name}/x").parent if member.isdir() else places.locate(name)


def _conflict(member: tarfile.TarInfo, places: Places) -> str:
    """What speaks against it in the core, whose directories stay directories."""
    found = places.kind(f"/{member.name}")
    if member.isdir() or not stat.S_ISDIR(found):  # a file in the way of a directory has been found before
        return ""
    return "it would take the place of a directory of the core"


def _lay(stream: tarfile.TarFile, member: tarfile.TarInfo, dest: Path, places: Places) -> None:
    places.make_parents(dest)
    if member.issym():
        dest.symlink_to(member.linkname)
        return
    if (source := stream.extractfile(member)) is not None:  # it is a file
        places.write(f"/{member.name}", source.read(), mode=member.mode)
