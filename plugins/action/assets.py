# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import apt, lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import OFFLINE, Store
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._progress import Progress

_MIB = 1024 * 1024


class ActionModule(ControllerAction):
    """Brings the files that the lock file names into the store. Needs no network when they are there."""

    SPEC: ClassVar[dict[str, Any]] = {
        "lock_file": {"type": "path", "required": True},
        "package_sets": {"type": "list", "elements": "str", "required": True},
        "store": {"type": "path", "required": True},
        "mirrors": {"type": "dict", "default": {}},
        "verify": {"type": "bool", "default": False},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Fetch what is missing; with ``verify``, first drop what is damaged."""
        started = time.monotonic()
        store = Store(Path(arguments["store"]))
        locked = lock.read(Path(arguments["lock_file"]))
        packages = list({p.sha256: p for name in arguments["package_sets"] for p in locked.of_set(name)}.values())
        damaged = store.damaged(packages) if arguments["verify"] else []
        missing = [*store.missing(packages), *damaged]
        if not self._task.check_mode:
            for package in damaged:
                store.path(package.sha256).unlink()
            if missing:
                store.fetch(packages, _mirrors(arguments, missing), Progress("fetched"))
        size = sum(package.size for package in missing) // _MIB
        reason = f"{len(missing)} of {len(packages)} files, {size} MiB" if missing else "all files in the store"
        return {
            "changed": bool(missing),
            "fetched": [package.label for package in missing],
            "damaged": [package.label for package in damaged],
            "reason": reason,
            "epoch": locked.epoch,
            "seconds": round(time.monotonic() - started, 1),
        }


def _mirrors(arguments: Mapping[str, Any], missing: Sequence[lock.Package]) -> Mapping[str, str]:
    try:
        return arguments["mirrors"] or apt.host_mirrors()
    except FleetError as exc:
        labels = ", ".join(package.label for package in missing[:3])
        raise FleetError(
            f"{len(missing)} locked packages are not in the store, first {labels}; {exc.message}",
            where=str(arguments["store"]),
            remedy=f"{exc.remedy}; {OFFLINE}",
        ) from exc
