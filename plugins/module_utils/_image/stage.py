# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json

UNBUILT = "unbuilt"


@dataclass(frozen=True)
class Stage:
    """One step of a build: what goes in, what comes out, and a stamp beside the output that remembers both.

    :param output: file or directory the step makes; its stamp is the hidden ``.<output>.stage.json``.
    :param inputs: digest of each input by name, so that the step can say what changed.
    :param others: further files the step makes.
    """

    output: Path
    inputs: Mapping[str, str]
    others: Sequence[Path] = ()

    @property
    def stamp(self) -> Path:
        """Where the step's memory lies."""
        return stamp_of(self.output)

    @property
    def digest(self) -> str:
        """Stands for the output wherever it is an input."""
        return _digest.of_data(dict(self.inputs))

    def why_stale(self) -> str | None:
        """Why the step has to run, or None if what it made is still there and made from the same inputs."""
        known = _read(self.stamp)
        if known is None:
            return "first build"
        before = known["inputs"]
        if changed := sorted(name for name in {*before, *self.inputs} if before.get(name) != self.inputs.get(name)):
            return f"changed: {', '.join(changed)}"
        for name, state in known["outputs"].items():
            if _state(self.output.parent / name) != state:
                return f"{name} is gone" if _state(self.output.parent / name) is None else f"{name} was modified"
        return None

    def result(self) -> dict[str, Any]:
        """What the step returned when it last ran."""
        known = _read(self.stamp)
        return known["result"] if known else {}

    def begin(self) -> None:
        """Forget the last run: an interrupted one must not look finished."""
        self.stamp.unlink(missing_ok=True)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Remember a run that succeeded."""
        outputs = {path.name: _state(path) for path in (self.output, *self.others)}
        write_json(self.stamp, {"inputs": dict(self.inputs), "outputs": outputs, "result": dict(result)})


def stamp_of(output: Path) -> Path:
    """Path of the stamp of a step's output."""
    return output.with_name(f".{output.name}.stage.json")


def digest_of(output: Path) -> str:
    """Digest of the stage that made ``output``; :data:`UNBUILT` if there is none yet."""
    known = _read(stamp_of(output.resolve()))
    return _digest.of_data(known["inputs"]) if known else UNBUILT


def result_of(output: Path) -> dict[str, Any]:
    """What the stage that made ``output`` returned; empty if there is none yet."""
    known = _read(stamp_of(output.resolve()))
    return known["result"] if known else {}


def _read(stamp: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(stamp.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return known if isinstance(known, dict) and {"inputs", "outputs", "result"} <= set(known) else None


def _state(path: Path) -> list[int] | None:
    """Size and modification time: cheap, and any careless change shows."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return [status.st_size, status.st_mtime_ns] if path.is_file() else [0, 0]
