# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import time

from ansible.utils.display import Display

_MIB = 1024 * 1024


class Progress:
    """Says how far something is, at most every second.

    :param verb: what happens to the bytes, for example ``fetched``.
    """

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._said >= 1:
            self._said = time.monotonic()
            Display().display(f"    {self._verb} {done // _MIB} of {total // _MIB} MiB")
