# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: origin
type: notification
short_description: Record which task wrote which file of an image
version_added: 0.1.0
author: The vauban.fleet contributors (@vauban)
description:
  - After each task that ran through connection P(vauban.fleet.rootfs#connection), writes the files it changed to the
    layer's record, with the role and the task. The core image's C(origin.json) is made from it.
requirements:
  - enabled in configuration (C(callbacks_enabled = vauban.fleet.origin))
"""

import json
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import run_with_ids


class CallbackModule(CallbackBase):
    """Looks at the layer after each task; it is small, since it only holds what differs from the base tree."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "vauban.fleet.origin"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, dict[str, str]] = {}
        self._play: Any = None

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Variables are looked up in the play that runs."""
        self._play = play

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record the files whose inode changed since the last look."""
        host, task = result._host, result._task
        variables = self._play.get_variable_manager().get_vars(play=self._play, host=host, task=task)
        layer = variables.get("rootfs_layer")
        if variables.get("ansible_connection") != "vauban.fleet.rootfs" or not layer:
            return
        before, after = self._seen.get(layer, {}), _state(Path(layer) / "upper")
        self._seen[layer] = after
        role = task._role
        entry = {
            "origin": f"role {role.get_name() if role else '(play)'}: {task.get_name().rpartition(' : ')[2]}",
            "role": role.get_name() if role else "",
            "role_path": role._role_path if role else "",
            "paths": sorted(path for path, changed in after.items() if before.get(path) != changed),
        }
        with (Path(layer) / "record.jsonl").open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def _state(upper: Path) -> dict[str, str]:
    """Path of each file and when its inode changed. Some directories are open to the users of the tree only."""
    if not upper.is_dir():
        return {}
    listed = run_with_ids(["find", upper, "!", "-type", "d", "-printf", "/%P\\0%C@\\0"]).stdout_bytes
    words = listed.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return dict(zip(words[::2], words[1::2], strict=True))
