# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of tests pytest-xdist (`--numprocesses 2`) runs in the same process.

`--dist loadgroup` of pytest-xdist 3.8 would be for that, but groups nothing under pytest 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import pytest


class Groups:
    """Files that share what is costly to make, or would otherwise have two machines at once.

    :param together: names of files, without the suffix, by group; the group that takes longest first. Every other file
        is a group of its own.
    """

    def __init__(self, together: Mapping[str, Set[str]]) -> None:
        self._together = together

    def of(self, file: Path) -> str:
        """The group of a file."""
        return next((group for group, files in self._together.items() if file.stem in files), file.stem)

    def sort(self, items: list[pytest.Item]) -> None:
        """Groups that take long begin first."""
        order = [*self._together]
        items.sort(key=lambda item: order.index(group) if (group := self.of(item.path)) in order else len(order))

    def scheduler(self, config: pytest.Config, log: Any) -> Any:
        """What ``pytest_xdist_make_scheduler`` has to return."""
        from xdist.scheduler import LoadScopeScheduling

        groups = self

        class Scheduler(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return groups.of(Path(nodeid.partition("::")[0]))

        config.option.loadscopereorder = False
        return Scheduler(config, log)
