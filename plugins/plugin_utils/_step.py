# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage
from ansible_collections.vauban.fleet.plugins.module_utils._lock import locked
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import ANOTHER_OWNER, Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction

COLLECTION = Path(__file__).parent.parent.parent


class StepAction(ControllerAction):
    """Base of the actions that make one artifact on the controller.

    They run in the controller's process, since they need the collection's own files, and finding that nothing changed
    must cost next to nothing. A subclass says what goes in (:meth:`stage`) and makes the artifact (:meth:`make`).
    """

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Reuse what is current, else make it; in check mode only say which."""
        started = time.monotonic()
        try:
            result = self._predict(arguments) if self._task.check_mode else self._reuse_or_build(arguments)
        except PermissionError as exc:
            raise FleetError("permission denied", where=str(exc.filename), remedy=ANOTHER_OWNER) from None
        return {**result, "seconds": round(time.monotonic() - started, 1)}

    def _reuse_or_build(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        stage = self.stage(arguments)
        stage.output.parent.mkdir(parents=True, exist_ok=True)
        # Two runs never make the same output at once.
        with locked(stage.output.parent):
            reason = stage.why_stale()
            if reason is not None:
                self.build(arguments, stage)
        return {**stage.result(), **_outcome(stage, reason)}

    def _predict(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What a run would do. Nothing is written, so what earlier steps would make is not there."""
        pending = self._pending(arguments)
        try:
            stage = self.stage(arguments)
        except FleetError:
            if pending is None:
                raise
            path = {"path": arguments["dest"]} if arguments.get("dest") else {}
            return {"changed": True, "reason": pending, **path}
        reason = stage.why_stale() or pending
        return {**(stage.result() if reason is None else {}), **_outcome(stage, reason)}

    def _pending(self, arguments: Mapping[str, Any]) -> str | None:
        """The inputs that an earlier task of this run would make. Only its registered result tells."""
        paths = (result.get(key) for result in _changed(self.task_vars) for key in ("path", "link"))
        made = [Path(path) for path in paths if path]
        inputs = {name: Path(value) for name, value in arguments.items() if value and _is_input(name, self.SPEC[name])}
        found = sorted(
            name
            for name, path in inputs.items()
            if any(path == other or path in other.parents or other in path.parents for other in made)
        )
        return f"would change: {', '.join(found)}" if found else None

    @abstractmethod
    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """What goes in and what comes out."""

    def build(self, arguments: Mapping[str, Any], stage: Stage) -> None:
        """Make the output, and remember that only once it is whole."""
        stage.begin()
        stage.finish(self.make(arguments, stage))

    @abstractmethod
    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Make the output; what this returns is remembered and returned by the task."""


def _outcome(stage: Stage, reason: str | None) -> dict[str, Any]:
    return {
        "changed": reason is not None,
        "reason": reason or "inputs unchanged",
        "path": str(stage.output),
        "digest": stage.digest,
    }


def _is_input(name: str, option: Mapping[str, Any]) -> bool:
    return option.get("type") == "path" and name not in ("dest", "work", "store")


def _changed(task_vars: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Results of tasks that changed something, loops unrolled."""
    for value in task_vars.values():
        if isinstance(value, dict) and value.get("changed") is True:
            results = value.get("results")
            yield from (item for item in results if item.get("changed")) if isinstance(results, list) else [value]


def sandbox_at(sdk: str, work: Path) -> Sandbox:
    """A sandbox whose mounts are arranged over ``work``/mounts."""
    scratch = work / "mounts"
    scratch.mkdir(parents=True, exist_ok=True)
    return Sandbox(Path(sdk).resolve(), scratch)


def point(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to ``target``; whoever reads it sees the old one or the new one."""
    wanted = os.path.relpath(target, link.parent)
    if link.is_symlink() and os.readlink(link) == wanted:
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}.new")  # products that share a link are built side by side
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(wanted)
    temporary.rename(link)
