# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._image.core import make_file_system
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Layers, Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import StepAction, point


class ActionModule(StepAction):
    """Packs the SDK's tree into one read-only image with the SDK's own tools."""

    SPEC: ClassVar[dict[str, Any]] = {
        "tree": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "epoch": {"type": "int", "required": True},
    }

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Point ``dest``, by which other steps know the SDK, to what this user can run: root the image, else the tree.

        Also when the image is reused: another lock file may have been built with since.
        """
        result = super().run(tmp, task_vars)
        link = Path(self._task.args["dest"])
        if not self._task.check_mode:
            point(link, Path(result["path"]) if os.geteuid() == 0 else Path(self._task.args["tree"]))
        return {**result, "link": str(link)}

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """The image lies beside the tree it was made of."""
        tree = Path(arguments["tree"])
        return Stage(tree.parent / "sdk.erofs", {"tree": digest_of(tree)})

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Pack beside the final name, then take it."""
        tree, work = Path(arguments["tree"]), stage.output.parent
        (work / "mounts").mkdir(exist_ok=True)
        new = stage.output.with_name("new.erofs")
        new.unlink(missing_ok=True)
        make_file_system(
            Sandbox(tree, work / "mounts"),
            Layers((tree,)),
            new,
            root_format="erofs",
            epoch=arguments["epoch"],
            log=work / "sdk_image.log",
        )
        new.rename(stage.output)
        return {"size": stage.output.stat().st_size}
