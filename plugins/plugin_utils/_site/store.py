# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Where rendered trees lie, and how the new ones take the place of the old.

``<site>/<host>`` is a link to ``<site>/.trees/<digest>``, so a host's configuration changes as a whole or not at all.
Files that many hosts share are one file with many links; therefore nothing there is writable.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.render import Content, Tree
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import point

TREES = ".trees"
_LENGTH = 24  # hexadecimal digits of a digest that name a tree


class Store:
    """The output directory of one site."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._trees = directory / TREES
        self._written: dict[str, str] = {}

    def current(self, name: str) -> str | None:
        """Name of the tree that a host has."""
        try:
            return os.path.basename(os.readlink(self.directory / name))
        except OSError:
            return None

    def hosts(self) -> Iterator[str]:
        """The hosts that have a tree."""
        if self.directory.is_dir():
            yield from (path.name for path in self.directory.iterdir() if path.is_symlink())

    def path(self, tree: str) -> Path:
        """Where a tree lies."""
        return self._trees / tree

    def write(self, tree: Tree) -> str:
        """Write a tree, unless it is there; return its name. No host has it yet."""
        name = tree.digest[:_LENGTH]
        place = self._trees / name
        if place.is_dir():
            for path, content in tree.files.items():
                self._written.setdefault(content.digest, f"{place}/{path}")
            return name
        new = f"{self._trees}/.new-{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)
        made: set[str] = set()
        _make(new, made)
        for path, content in tree.files.items():
            target = f"{new}/{path}"
            _make(os.path.dirname(target), made)
            self._place(content, target)
        os.rename(new, place)
        for path, content in tree.files.items():
            known = self._written.get(content.digest, "")
            if not known or known.startswith(new):
                self._written[content.digest] = f"{place}/{path}"
        return name

    def discard(self) -> None:
        """Remove trees that no host has."""
        used = {self.current(host) for host in self.hosts()}
        for path in self._trees.iterdir():
            if path.name not in used:
                shutil.rmtree(path)

    def switch(self, trees: Mapping[str, str], *, keep: Iterable[str]) -> None:
        """Give hosts their trees; take those away from hosts that are not in ``keep``, and trees that no host has."""
        for host, tree in trees.items():
            if self.current(host) != tree:
                point(self.directory / host, self._trees / tree)
        kept = set(keep)
        for host in [host for host in self.hosts() if host not in kept]:
            (self.directory / host).unlink()
        self.discard()

    def _place(self, content: Content, target: str) -> None:
        known = self._written.get(content.digest)
        if known is not None:
            try:
                os.link(known, target)
                return
            except OSError:  # another file system, or more links than a file can have
                pass
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        try:
            os.write(descriptor, content.data)
        finally:
            os.close(descriptor)
        self._written[content.digest] = target


def _make(directory: str, made: set[str]) -> None:
    """Make a directory and those above it, each once."""
    if directory not in made:
        os.makedirs(directory, exist_ok=True)
        made.add(directory)
