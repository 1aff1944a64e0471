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
  - Also writes which roles took part, and whether a task left more than files. M(vauban.fleet.root_layer) finds from
    that where a later build may begin.
requirements:
  - enabled in configuration (C(callbacks_enabled = vauban.fleet.origin))
"""

import json
from pathlib import Path
from typing import Any

from ansible.playbook.handler import Handler
from ansible.plugins.callback import CallbackBase

from ansible_collections.vauban.fleet.plugins.module_utils._image.layer import RECORD, inodes, seen_before

_LEFT = {"ansible_facts", "add_host", "add_group"}  # in results of tasks that tell the play something


class CallbackModule(CallbackBase):
    """Looks at the layer after each task; it is small, since it only holds what differs from the base tree."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "vauban.fleet.origin"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, dict[str, str]] = {}
        self._roles: dict[str, dict[str, str]] = {}
        self._last: dict[str, str] = {}
        self._play: Any = None

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Variables are looked up in the play that runs."""
        self._play = play

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Remember every role that has a task, skipped or not."""
        role = task._role
        if role and not isinstance(task, Handler) and self._last.get(host.name) != role.get_name():
            self._roles.setdefault(host.name, {})[role.get_name()] = role._role_path
            self._last[host.name] = role.get_name()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record the files whose inode changed since the last look."""
        self._record(result, ran=True)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A role whose tasks are all skipped took part, too."""
        if self._roles.get(result._host.name):
            self._record(result, ran=False)

    def _record(self, result: Any, *, ran: bool) -> None:
        host, task = result._host, result._task
        variables = self._play.get_variable_manager().get_vars(play=self._play, host=host, task=task)
        layer = variables.get("rootfs_layer")
        if variables.get("ansible_connection") != "vauban.fleet.rootfs" or not layer:
            self._roles.pop(host.name, None)
            return
        if layer not in self._seen:
            self._seen[layer] = seen_before(Path(layer))
        before, after = self._seen[layer], inodes(Path(layer) / "upper")
        self._seen[layer] = after
        role = task._role
        entry = {
            "origin": f"role {role.get_name() if role else '(play)'}: {task.get_name().rpartition(' : ')[2]}",
            "role": role.get_name() if role else "",
            "roles": self._roles.pop(host.name, {}),
            "paths": sorted(path for path, changed in after.items() if before.get(path) != changed),
            "handler": ran and isinstance(task, Handler),
            "left_more": any(_LEFT & set(item) for item in _items(result._result)),
        }
        with (Path(layer) / RECORD).open("a") as stream:
            stream.write(json.dumps(entry) + "\n")


def _items(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The result, and those of a loop."""
    return [result, *(item for item in result.get("results") or [] if isinstance(item, dict))]
