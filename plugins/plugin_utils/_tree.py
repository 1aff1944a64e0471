# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Directories of configuration files, as roles carry them and as they are laid down on a target."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

_EACH = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z0-9@_:][A-Za-z0-9@._:-]*")


@dataclass(frozen=True)
class Source:
    """One file of such a directory.

    :param dest: where it goes, below ``/``. ``{variable}`` in it stands for each element of that list variable: the
        file is laid down once for each, with the element's ``name`` (or the element itself, if it is text) in that
        place, and a template finds the element in ``item``.
    """

    path: Path
    dest: str
    template: bool
    executable: bool
    variable: str | None

    def instances(self, value: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
        """Destination and element of each file that this one stands for; the element is None without ``{variable}``.

        :param value: gives the value of a variable.
        :raises FleetError: the variable is no list, or an element has no name that a file can have.
        """
        if self.variable is None:
            yield self.dest, None
            return
        elements = value(self.variable)
        if not isinstance(elements, list):
            raise FleetError("must be a list", where=self.variable)
        for element in elements:
            name = element.get("name") if isinstance(element, Mapping) else element
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise FleetError(f"{name!r} cannot name a file", where=f"{self.variable}: name")
            yield _EACH.sub(name, self.dest), element


@cache
def sources(directory: Path) -> tuple[Source, ...]:
    """The files of a directory, sorted by path; ``.j2`` marks a template and is dropped from the destination.

    What Python leaves beside its sources is not among them.

    :raises FleetError: a path names two variables.
    """
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return tuple(_source(directory, path) for path in found if path.parent.name != "__pycache__")


def _source(directory: Path, path: Path) -> Source:
    dest = str(path.relative_to(directory))
    variables = set(_EACH.findall(dest))
    if len(variables) > 1:
        raise FleetError("names more than one variable", where=str(path))
    return Source(
        path,
        dest.removesuffix(".j2"),
        template=path.suffix == ".j2",
        executable=os.access(path, os.X_OK),
        variable=variables.pop() if variables else None,
    )
