# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

# Where something stands in a site file: keys and indexes from the top on.
Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a site, in words for the person who writes it.

    :param path: keys from the top of the file to the value.
    :param message: what is wrong, with the value.
    :param remedy: what to do.
    :param follows: it may only follow from a wrong zone, and is not said as long as there is one.
    """

    path: Keys
    message: str
    remedy: str
    follows: bool = False


class SiteError(FleetError):
    """A site that cannot be used. Holds every problem, not the first.

    :param problems: each with the line it stands on, 1-based; 0 for the file as a whole.
    """

    def __init__(self, file: str, problems: Iterable[tuple[int, Problem]]) -> None:
        self.file = file
        # A range of hosts has each problem once.
        self.problems = sorted(
            set(problems), key=lambda item: (item[0], [str(key) for key in item[1].path], item[1].message)
        )
        super().__init__("\n".join(describe(file, line, problem) for line, problem in self.problems))


def roots(problems: Iterable[Problem]) -> list[Problem]:
    """The problems without those that may only follow from others: who is in a zone decides much else."""
    found = list(problems)
    unsound = any(
        problem.path[:1] == ("zones",) or problem.path[-2:-1] == ("peers",) for problem in found if not problem.follows
    )
    return [problem for problem in found if not (unsound and problem.follows)]


def describe(file: str, line: int, problem: Problem) -> str:
    """``file:line: key: what. Remedy: how.``"""
    place = f"{file}:{line}" if line else file
    key = f" {dotted(problem.path)}:" if problem.path else ""
    return f"{place}:{key} {problem.message}. Remedy: {problem.remedy}"


def dotted(path: Keys) -> str:
    """The path as ``places.paris.networks[2]``."""
    text = ""
    for key in path:
        shown_key = str(key) if str(key).isprintable() else repr(key)
        text += f"[{key}]" if isinstance(key, int) else f".{shown_key}" if text else shown_key
    return text


def shown(value: Any) -> str:
    """A value as an admin would write it, cut to a readable length."""
    text = str(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(path: Keys, what: str, name: str, known: Iterable[str]) -> Problem:
    """A name that nothing has."""
    return Problem(path, f"there is no {what} {name}", choose(known))


def choose(known: Iterable[str]) -> str:
    """The remedy for a name that nothing has."""
    names = list(known)
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"choose from {', '.join(names[:12])}{more}" if names else "describe it first"
