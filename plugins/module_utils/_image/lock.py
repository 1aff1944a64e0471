# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_text
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

FORMAT = 1
_KEYS = ("format", "architecture", "releases", "packages")
_WORD = r"[a-z0-9][a-z0-9+.-]*"
_VERSION = r"[0-9A-Za-z][0-9A-Za-z.+~:-]*"
# What each field may hold (Debian Policy 5.6): these words end up in command lines, URLs and deb822 files.
# A pool path is joined to a mirror's URL and never to a local path, but it must not climb either.
_FIELDS = {
    "name": re.compile(_WORD),
    "version": re.compile(_VERSION),
    "architecture": re.compile(_WORD),
    "source": re.compile(f"{_WORD}={_VERSION}"),
    "archive": re.compile(_WORD),
    "suite": re.compile(_WORD),
    "path": re.compile(r"(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9][A-Za-z0-9+._~/-]*\.deb"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "set": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*"),
}
_MEANING = {"path": "the pool path of a .deb file", "sha256": "a SHA-256 in hexadecimal"}
_RELOCK = "run 'ansible-playbook vauban.fleet.lock' to write it again"


@dataclass(frozen=True, order=True)
class Package:
    """One locked binary package (deb822 field names of Debian's Packages index, Debian Policy chapter 5)."""

    name: str
    version: str
    architecture: str
    source: str
    archive: str  # which mirror serves it: "debian" or "security"
    path: str  # below the mirror's URL
    size: int  # bytes
    sha256: str
    sets: tuple[str, ...]

    @property
    def label(self) -> str:
        """How people name it: ``name=version``."""
        return f"{self.name}={self.version}"


@dataclass(frozen=True, order=True)
class Release:
    """One signed Release file that packages were resolved from (Debian repository format)."""

    suite: str
    archive: str
    date: str  # ISO 8601, UTC
    sha256: str  # of the InRelease file as downloaded, signature included


@dataclass(frozen=True)
class Lock:
    """The exact packages of every package set, and the signed Release files that vouch for them."""

    architecture: str
    releases: tuple[Release, ...]
    packages: tuple[Package, ...]

    @property
    def epoch(self) -> int:
        """SOURCE_DATE_EPOCH in seconds: when the newest Release file was signed."""
        return max(int(datetime.fromisoformat(release.date).timestamp()) for release in self.releases)

    def of_set(self, name: str) -> tuple[Package, ...]:
        """The packages of one set.

        :raises FleetError: the lock file does not know the set.
        """
        chosen = tuple(package for package in self.packages if name in package.sets)
        if not chosen:
            known = ", ".join(sorted({s for package in self.packages for s in package.sets})) or "none"
            raise FleetError(f"no package set '{name}' in the lock file (it holds: {known})", remedy=_RELOCK)
        return chosen

    def digest(self, name: str) -> str:
        """Digest over what the set installs; changes when and only when a package of it changes."""
        return _digest.of_data(self.epoch, [package.sha256 for package in self.of_set(name)])

    def as_text(self) -> str:
        """The lock file: JSON, one package a line, so that a new version is one changed line in a diff."""

        def lines(items: Iterable[Any]) -> str:
            return ",\n".join("    " + json.dumps(asdict(item), ensure_ascii=False) for item in sorted(items))

        return (
            "{\n"
            f'  "format": {FORMAT},\n'
            f'  "architecture": {json.dumps(self.architecture)},\n'
            f'  "releases": [\n{lines(self.releases)}\n  ],\n'
            f'  "packages": [\n{lines(self.packages)}\n  ]\n'
            "}\n"
        )

    def write(self, path: Path) -> bool:
        """Write the lock file atomically; return whether it changed."""
        return write_text(path, self.as_text())


def read(path: Path) -> Lock:
    """Read and check a lock file.

    :raises FleetError: names the file, the entry and the remedy.
    """
    try:
        return parse(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FleetError("the lock file does not exist", where=str(path), remedy=_RELOCK) from None
    except UnicodeDecodeError as exc:
        raise FleetError(f"not UTF-8 text: {exc.reason}", where=str(path), remedy=_RELOCK) from exc
    except FleetError as exc:
        where = f"{path}: {exc.where}" if exc.where else str(path)
        raise FleetError(exc.message, where=where, remedy=exc.remedy or _RELOCK) from None


def parse(text: str) -> Lock:
    """Parse the text of a lock file.

    :raises FleetError: on anything that is not exactly what :meth:`Lock.as_text` writes, whatever the whitespace.
    """
    try:
        data = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as exc:
        raise FleetError(f"not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise FleetError("the top level must be an object")
    version = data.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version != FORMAT:
        raise FleetError(f"format {version!r} is not supported, only {FORMAT}", where="format")
    if odd := set(data) ^ set(_KEYS):
        raise FleetError(f"missing or unknown keys: {', '.join(sorted(odd))}")
    if not isinstance(data["architecture"], str):
        raise FleetError("must be a string", where="architecture")
    _check("architecture", data["architecture"], "architecture")
    releases = tuple(_release(item, f"releases[{n}]") for n, item in enumerate(_list(data, "releases")))
    packages = tuple(_package(item, f"packages[{n}]") for n, item in enumerate(_list(data, "packages")))
    if not releases:
        raise FleetError("at least one Release file is needed", where="releases")
    seen: set[tuple[str, str]] = set()
    for number, package in enumerate(packages):
        if (package.name, package.architecture) in seen:
            raise FleetError(f"{package.name} is listed twice", where=f"packages[{number}]")
        seen.add((package.name, package.architecture))
    return Lock(data["architecture"], releases, packages)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data[key]
    if not isinstance(value, list):
        raise FleetError("must be a list", where=key)
    return value


def _record(kind: type, item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise FleetError("must be an object", where=where)
    wanted = {field.name: field.type for field in fields(kind)}
    if set(item) != set(wanted):
        odd = ", ".join(sorted(set(item) ^ set(wanted)))
        raise FleetError(f"missing or unknown keys: {odd}", where=where)
    for key, annotation in wanted.items():
        expected = {"str": str, "int": int}.get(str(annotation), list)
        if not isinstance(item[key], expected) or isinstance(item[key], bool):
            raise FleetError(f"must be a {expected.__name__}", where=f"{where}.{key}")
        if key in _FIELDS:
            _check(key, item[key], f"{where}.{key}")
    return item


def _release(item: Any, where: str) -> Release:
    record = _record(Release, item, where)
    try:
        moment = datetime.fromisoformat(record["date"])
    except ValueError as exc:
        raise FleetError(f"not an ISO 8601 date: {record['date']!r}", where=f"{where}.date") from exc
    if moment.tzinfo is None:
        raise FleetError("the date needs a time zone", where=f"{where}.date")
    return Release(**record)


def _package(item: Any, where: str) -> Package:
    record = _record(Package, item, where)
    if record["size"] <= 0:
        raise FleetError("must be a positive number of bytes", where=f"{where}.size")
    if not all(isinstance(name, str) for name in record["sets"]):
        raise FleetError("must be a list of strings", where=f"{where}.sets")
    for name in record["sets"]:
        _check("set", name, f"{where}.sets")
    return Package(**{**record, "sets": tuple(record["sets"])})


def _check(field: str, value: str, where: str) -> None:
    if not _FIELDS[field].fullmatch(value):
        raise FleetError(f"not {_MEANING.get(field, f'a valid {field}')}: {value!r}", where=where)
