# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What changes in the files of many hosts, for ``--diff``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

_MOST = 50  # distinct changes; more are read with diff(1)

Change = tuple[str, str]  # path and text


def between(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    """Path and text of each change, from contents by path."""
    for path in sorted({*old, *new}):
        if old.get(path) != new.get(path):
            lines = difflib.unified_diff(
                old.get(path, "").splitlines(keepends=True),
                new.get(path, "").splitlines(keepends=True),
                "before" if path in old else "(absent)",
                "after" if path in new else "(absent)",
            )
            yield path, "".join(lines)


def shown(found: Mapping[Change, Sequence[str]]) -> list[dict[str, str]]:
    """As a module's ``diff``: each change once with the hosts that it concerns, first what concerns most of them."""
    listed = []
    for (path, text), hosts in sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:_MOST]:
        more = f" and {len(hosts) - 1} more" if len(hosts) > 1 else ""
        listed.append({"prepared": f"{hosts[0]}{more}: /{path}\n{text}"})
    if len(found) > _MOST:
        listed.append({"prepared": f"and {len(found) - _MOST} more changes\n"})
    return listed
