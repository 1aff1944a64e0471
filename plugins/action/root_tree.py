# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import bootstrap, lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import owner, remove_tree
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import StepAction, sandbox_at


class ActionModule(StepAction):
    """Installs locked packages into a root tree, from the store alone."""

    SPEC: ClassVar[dict[str, Any]] = {
        "lock_file": {"type": "path", "required": True},
        "package_set": {"type": "str", "required": True},
        "unpacked_set": {"type": "str"},
        "unpacked": {"type": "list", "elements": "str", "default": []},
        "store": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "sdk": {"type": "path"},
    }

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """A tree is named after what is in it, so products with the same packages share it."""
        self._request = _request(arguments)
        inputs = {"packages": self._request.digest}
        if arguments["sdk"]:
            inputs["sdk"] = digest_of(Path(arguments["sdk"]))
        if os.geteuid() != 0:
            inputs["owner"] = owner()
        return Stage(Path(arguments["dest"]) / self._request.digest[:16] / "root", inputs)

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Run mmdebstrap beside the final name, then take it."""
        store = Store(Path(arguments["store"]))
        _check_store(store, [*self._request.packages, *self._request.unpacked])
        work = stage.output.parent / "new"
        remove_tree(work)
        remove_tree(stage.output)
        work.mkdir()
        sandbox = sandbox_at(arguments["sdk"], stage.output.parent) if arguments["sdk"] else None
        log = stage.output.parent / "root_tree.log"
        log.unlink(missing_ok=True)
        bootstrap.make_tree(self._request, store, work / "root", sandbox=sandbox, log=log)
        (work / "root").rename(stage.output)
        work.rmdir()
        return {"packages": len(self._request.packages) + len(self._request.unpacked), "log": str(log)}


def _request(arguments: Mapping[str, Any]) -> bootstrap.TreeRequest:
    locked = lock.read(Path(arguments["lock_file"]))
    packages = locked.of_set(arguments["package_set"])
    unpacked: list[lock.Package] = []
    for name in arguments["unpacked"]:
        found = [package for package in locked.of_set(arguments["unpacked_set"]) if package.name.startswith(name)]
        if len(found) != 1:
            raise FleetError(
                f"{len(found)} locked packages of set {arguments['unpacked_set']} are named {name}*, one is needed",
                where=str(arguments["lock_file"]),
            )
        unpacked += found
    return bootstrap.TreeRequest(packages, tuple(unpacked), locked.epoch)


def _check_store(store: Store, packages: list[lock.Package]) -> None:
    for problem, found in (("missing", store.missing(packages)), ("damaged", store.damaged(packages))):
        if found:
            labels = ", ".join(package.label for package in found[:5])
            for package in found if problem == "damaged" else ():
                store.path(package.sha256).unlink()
            raise FleetError(
                f"{len(found)} files are {problem}: {labels}",
                where=str(store.root),
                remedy="run the playbook 'build' again to fetch them; damaged files were removed",
            )
