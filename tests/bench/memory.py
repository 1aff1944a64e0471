# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory of everything a benchmark starts, at its peak."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import defaultdict
from pathlib import Path

INTERVAL = 0.5  # seconds; each look costs a few milliseconds
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


class Peak:
    """Samples the proportional set size of all descendants (Pss of proc_pid_smaps(5)): what is shared counts once.

    Processes that live shorter than the interval may be missed.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL):
            self.bytes = max(self.bytes, sum(map(_size, _descendants())))


def _descendants() -> list[int]:
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children[int(path.read_text().rpartition(")")[2].split()[1])].append(int(path.parent.name))
    found, pending = [], [os.getpid()]
    while pending:
        below = children[pending.pop()]
        found += below
        pending += below
    return found


def _size(pid: int) -> int:
    try:
        match = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:
        return 0
    return int(match[1]) * 1024 if match else 0
