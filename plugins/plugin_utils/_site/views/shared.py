# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Values that many hosts share. Text rendered from nothing else is rendered once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class SharedDict(dict[str, Any]):
    """A mapping that lives as long as the views and never changes, so its identity stands for its content."""


class SharedList(list[Any]):
    """A list of the same kind."""


class Shared:
    """Makes each shared value once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value at a key, made by ``make`` the first time; lists and mappings become shared ones."""
        if key not in self._known:
            self._known[key] = _shared(make())
        value: T = self._known[key]
        return value


def _shared(value: Any) -> Any:
    if isinstance(value, dict):
        return SharedDict(value)
    if isinstance(value, list):
        return SharedList(_shared(item) if isinstance(item, dict) else item for item in value)
    return value
