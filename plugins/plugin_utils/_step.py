# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import fcntl
import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import ANOTHER_OWNER, Sandbox

COLLECTION = Path(__file__).parent.parent.parent


class StepAction(ActionBase):
    """Base of the actions that make one artifact on the controller.

    They run in the controller's process, since they need the collection's own files, and finding that nothing changed
    must cost next to nothing. A subclass says what goes in (:meth:`stage`) and makes the artifact (:meth:`make`).
    """

    SPEC: ClassVar[dict[str, Any]] = {}
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Reuse what is current, else make it; in check mode only say which."""
        result = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=self.SPEC)
        self.task_vars = task_vars or {}
        started = time.monotonic()
        try:
            stage = self.stage(arguments)
            with _locked(stage):
                reason = stage.why_stale()
                if reason is not None and not self._task.check_mode:
                    stage.begin()
                    stage.finish(self.make(arguments, stage))
        except PermissionError as exc:
            denied = FleetError("permission denied", where=str(exc.filename), remedy=ANOTHER_OWNER)
            raise AnsibleActionFail(str(denied), result={"failure": denied.as_failure()}) from exc
        except FleetError as exc:
            raise AnsibleActionFail(str(exc), result={"failure": exc.as_failure()}) from exc
        result.update(stage.result())
        result.update(
            changed=reason is not None,
            reason=reason or "inputs unchanged",
            seconds=round(time.monotonic() - started, 1),
            path=str(stage.output),
            digest=stage.digest,
        )
        return result

    @abstractmethod
    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """What goes in and what comes out."""

    @abstractmethod
    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Make the output; what this returns is remembered and returned by the task."""


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
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(wanted)
    temporary.rename(link)


@contextmanager
def _locked(stage: Stage) -> Iterator[None]:
    """Two runs never make the same output at once (flock(2) on its directory)."""
    stage.output.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(stage.output.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
