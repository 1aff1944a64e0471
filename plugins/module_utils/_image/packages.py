# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What dpkg's database says about a root tree (dpkg(1), /var/lib/dpkg)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

STATUS = "var/lib/dpkg/status"
_LISTS = "var/lib/dpkg/info"
_ALIASES = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def installed(tree: Path) -> dict[str, str]:
    """Version of each package by name."""
    found = {}
    for stanza in (tree / STATUS).read_text("utf-8").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if fields:
            found[fields["Package"]] = fields["Version"]
    return found


def listed(tree: Path) -> Iterator[tuple[str, str]]:
    """Each path (relative, /usr-merged) that dpkg knows, directories too, with the package it belongs to."""
    for listing in (tree / _LISTS).glob("*.list"):
        package = listing.name.removesuffix(".list").partition(":")[0]
        for line in listing.read_text("utf-8").splitlines():
            yield merged(line), package


def merged(path: str) -> str:
    """A path relative to the root, where /bin, /sbin and /lib are links into /usr."""
    first, _slash, rest = path.lstrip("/").partition("/")
    return f"{_ALIASES.get(first, first)}/{rest}" if rest else first


def owning(tree: str | Path, paths: Iterable[str]) -> dict[str, str]:
    """Version by name of the packages that these files belong to; files that no package brought count for nothing."""
    tree, wanted = Path(tree), {merged(path) for path in paths}
    versions = installed(tree)
    names = {package for path, package in listed(tree) if path in wanted and package in versions}
    return {name: versions[name] for name in sorted(names)}


def owner_and_database(path: str) -> tuple[dict[str, str], str]:
    """Of the SDK: the package of a file, version by name, and what dpkg knows of all. Runs inside the SDK.

    :raises FleetError: no package brought the file.
    """
    owner = owning("/", [path])
    if not owner:
        raise FleetError("belongs to no package of the SDK", where=path)
    return owner, Path("/", STATUS).read_text("utf-8")
