# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Releases that a server offers: ``<product>/<version>/`` with the manifest and the files it names, whole or absent."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import MANIFEST, SIGNATURE, parse

# What a release brings beside its manifest; an installation needs the first three, an update the bundle.
PARTS = ("core", "uki", "boot_loader", "installer", "bundle", "sbom", "provenance", "origin")
# No web server gives away a name that begins with a dot.
INCOMING = ".incoming"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


@dataclass(frozen=True)
class File:
    """A file of a release."""

    name: str
    size: int
    sha256: str

    def check(self, path: Path) -> None:
        """Compare with what lies there.

        :raises FleetError: it differs.
        """
        if not path.is_file():
            raise FleetError("the file is missing", where=str(path))
        size = path.stat().st_size
        digest = _digest.of_file(path) if size == self.size else "not computed"
        if digest != self.sha256:
            said = f"{size} bytes, SHA-256 {digest}; expected {self.size} and {self.sha256}"
            raise FleetError(f"not the file of the release: {said}", where=str(path))


@dataclass(frozen=True)
class Release:
    """A release, as far as it is copied and kept.

    :param files: all of them; manifest and signature come last.
    """

    product: str
    version: str
    files: tuple[File, ...]

    @property
    def name(self) -> str:
        """Its place in the store."""
        return f"{self.product}/{self.version}"

    @property
    def manifest(self) -> File:
        """The file that says all about the others."""
        return next(each for each in self.files if each.name == MANIFEST)

    def as_dict(self) -> dict[str, Any]:
        """For the module on the server."""
        files = [{"name": each.name, "size": each.size, "sha256": each.sha256} for each in self.files]
        return {"product": self.product, "version": self.version, "files": files}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Release:
        """What :meth:`as_dict` made, checked as if a stranger had."""
        files = tuple(File(str(each["name"]), int(each["size"]), str(each["sha256"])) for each in data["files"])
        for pattern, text in (
            (_NAME, data["product"]),
            (_NAME, data["version"]),
            *((_FILE_NAME, f.name) for f in files),
        ):
            if not pattern.fullmatch(str(text)):
                raise FleetError(f"not a plain name: {text!r}")
        return cls(str(data["product"]), str(data["version"]), files)


def read(directory: Path) -> Release:
    """The release in a directory. That its files are those of the manifest is looked at where they arrive.

    :raises FleetError: something is missing, or no manifest.
    """
    manifest, signature = directory / MANIFEST, directory / SIGNATURE
    for path in (manifest, signature):
        if not path.is_file():
            raise FleetError("the file is missing", where=str(path), remedy="name the directory of a finished release")
    try:
        data = parse(manifest.read_text("utf-8"))
    except FleetError as exc:
        raise FleetError(exc.message, where=f"{directory}/{exc.where}") from exc
    files = [data[part] for part in PARTS if part in data]
    found = [File(str(each["file"]), int(each["size"]), str(each["sha256"])) for each in files]
    found += [File(path.name, path.stat().st_size, _digest.of_file(path)) for path in (manifest, signature)]
    release = Release.from_dict(Release(str(data["product"]), str(data["version"]), tuple(found)).as_dict())
    if missing := [each.name for each in release.files if not (directory / each.name).is_file()]:
        raise FleetError(f"missing: {', '.join(missing)}", where=str(directory))
    return release


class Store:
    """The directory that a server offers releases from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def missing(self, releases: Iterable[Release], *, replace: bool) -> list[Release]:
        """Those that are not there.

        :raises FleetError: another release has the place of one, and may not be replaced.
        """
        found = []
        for release in releases:
            place = self.path / release.name
            if not place.exists():
                found.append(release)
            elif not _is(place, release):
                if not replace:
                    remedy = "give the new one another version, or set boot_server_replace (replace)"
                    raise FleetError("another release of this version is published", where=str(place), remedy=remedy)
                found.append(release)
        return found

    def surplus(self, releases: Sequence[Release], held: Iterable[str], keep: int) -> list[str]:
        """Names of the releases that go: neither wanted nor held, nor among the ``keep`` newest of the others."""
        staying = {*held, *(release.name for release in releases)}
        gone: list[str] = []
        for product in self._visible(self.path):
            others = [each for each in self._visible(product) if f"{product.name}/{each.name}" not in staying]
            others.sort(key=lambda each: (each.stat().st_mtime_ns, each.name), reverse=True)
            gone += [f"{product.name}/{each.name}" for each in others[keep:]]
        return sorted(gone)

    def publish(self, release: Release, source: Path, *, move: bool = False) -> None:
        """Take over the files of a release, and only when all of them are right and on disk give it its name.

        :param source: directory with the files.
        :param move: whether they may be taken away from there, so that nothing needs room twice.
        :raises FleetError: a file is not that of the release, or cannot be written.
        """
        try:
            self._publish(release, source, move)
        except OSError as exc:
            where, why = str(exc.filename2 or exc.filename or self.path), exc.strerror or "cannot be written"
            needed = sum(file.size for file in release.files)
            raise FleetError(why, where=where, remedy=f"{release.name} has {needed} bytes: make room") from exc

    def _publish(self, release: Release, source: Path, move: bool) -> None:
        with self._locked() as incoming:
            staging = Path(tempfile.mkdtemp(prefix=f"{release.product}-", dir=incoming))
            for each in release.files:
                staged = staging / each.name
                _take(source / each.name, staged, move)
                each.check(staged)
                staged.chmod(0o644)
                _sync(staged)
            staging.chmod(0o755)
            _sync(staging)
            place = self.path / release.name
            if not place.parent.is_dir():
                place.parent.mkdir()
                place.parent.chmod(0o755)
            os.utime(staging)  # the time of publication, which says what is newest
            if place.exists():
                place.rename(incoming / f"{staging.name}.old")
            staging.rename(place)
            _sync(place.parent)

    def remove(self, name: str) -> None:
        """Take a release away. Its name goes first; who reads one of its files reads on."""
        with self._locked() as incoming:
            (self.path / name).rename(incoming / name.replace("/", "-"))
            product = (self.path / name).parent
            if not any(product.iterdir()):
                product.rmdir()

    @contextmanager
    def _locked(self) -> Iterator[Path]:
        """The place of what is not published, with nothing left in it of a run that was cut short."""
        incoming = self.path / INCOMING
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o755)
        descriptor = os.open(incoming, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _empty(incoming)
            try:
                yield incoming
            finally:
                _empty(incoming)
        finally:
            os.close(descriptor)

    @staticmethod
    def _visible(directory: Path) -> list[Path]:
        if not directory.is_dir():
            return []
        return sorted(each for each in directory.iterdir() if each.is_dir() and not each.name.startswith("."))


def _is(place: Path, release: Release) -> bool:
    """Whether this release lies there. Its manifest was right when it was published, and so were the others."""
    sizes = {each.name: each.size for each in release.files}
    found = {each.name: each.stat().st_size for each in place.iterdir()} if place.is_dir() else {}
    return found == sizes and _digest.of_file(place / MANIFEST) == release.manifest.sha256


def _take(source: Path, dest: Path, move: bool) -> None:
    # Somebody else may still have their own file open.
    if move and source.stat().st_uid == os.geteuid() and source.stat().st_dev == dest.parent.stat().st_dev:
        source.rename(dest)
    else:
        shutil.copyfile(source, dest)


def _empty(directory: Path) -> None:
    for each in directory.iterdir():
        shutil.rmtree(each)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
