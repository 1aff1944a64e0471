# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU time of everything a benchmark starts, what runs in a sandbox included."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import time

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs (PR_SET_CHILD_SUBREAPER of prctl(2)).

    bwrap ends without waiting for the first process of a PID namespace, so that the time used in a sandbox would count
    for nobody.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def cpu_seconds() -> float:
    """CPU time of all ended child processes and theirs, orphans included."""
    end = time.monotonic() + 10
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
