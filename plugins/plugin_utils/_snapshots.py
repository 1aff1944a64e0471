# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json
from ansible_collections.vauban.fleet.plugins.module_utils._image import layer as layers
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import remove_tree
from ansible_collections.vauban.fleet.plugins.plugin_utils._reach import Position, digests, explained, independent

_NOTHING: Mapping[str, Any] = {
    "start": 0,
    "digests": [],
    "roles": {},
    "left_more": [],
    "variables": [],
    "explained": [],
}


@dataclass(frozen=True)
class Inputs:
    """What reaches the layer.

    :param ground: digest of what reaches every role.
    :param applying: the role that applies the others. It names all variables and is none of them.
    :param definitions: variables by name, with values as written.
    :param ignored: variables that reach no role unless one names them.
    :param find: gives the directory of a role by its name and the directory where it last was.
    """

    ground: str
    applying: str
    roles: Sequence[str]
    definitions: Mapping[str, Any]
    ignored: Set[str]
    find: Callable[[str, str], Path]


class Snapshots:
    """What the layer was after each role of the last build, so that the next one begins where something changed.

    They count only after the layer was closed, since only then is known which roles each role included. An index says
    what reached each of them; one whose inputs are the same now can take the place of a run of the roles up to it.

    :param layer: directory of the layer; the snapshots are in ``kept``.
    """

    def __init__(self, layer: Path) -> None:
        self._layer = layer
        self._directory = layer / "kept"
        self._index = self._directory / "index.json"
        self._opened = layer / "opened.json"

    def open(self, inputs: Inputs | None, names: Iterable[str]) -> int:
        """Bring the layer to the last snapshot that still holds, else empty it; return how many roles are in it.

        :param inputs: None to begin with nothing, whatever there is.
        :param names: of the variables that there are before any role runs.
        """
        index = self._known()
        start = 0 if inputs is None else self._holding(inputs, index)
        # What is not known to hold is forgotten before anything changes, in case this is interrupted.
        self._directory.mkdir(parents=True, exist_ok=True)
        write_json(self._index, {**index, "start": start, "digests": index["digests"][:start]})
        for path in self._directory.iterdir():
            if path.is_dir() and int(path.name) > start:
                remove_tree(path)
        if start:
            layers.restore(self._layer, self._of(start))
        else:
            layers.empty(self._layer)
        self._opened.unlink(missing_ok=True)
        write_json(self._opened, sorted(names))
        return start

    def names(self) -> set[str] | None:
        """Names of the variables that there were when the layer was opened; None if it was not."""
        try:
            return set(json.loads(self._opened.read_text("utf-8")))
        except FileNotFoundError:
            return None

    def keep(self, role: str) -> None:
        """Keep what the layer is after this role."""
        number = sum("applied" in entry for entry in self.record()) + 1
        with (self._layer / layers.RECORD).open("a") as stream:
            stream.write(json.dumps({"applied": role, "paths": []}) + "\n")
        layers.keep(self._layer, self._of(number))

    def close(self, inputs: Inputs | None) -> str | None:
        """Write down what reached each snapshot, or forget them all if a later build could not rely on that.

        :returns: None, or what is wrong with the layer itself: roles that ran need some that did not.
        """
        start = self._known()["start"]
        self._index.unlink(missing_ok=True)
        if inputs is None or not inputs.roles:
            self.forget()
            return None
        record = self.record()
        found = _applied(record, inputs)
        positions = _positions(inputs, found)
        complete = [entry["applied"] for entry in record if "applied" in entry] == list(inputs.roles)
        if start and not (complete and independent(positions, start)):
            self.forget()
            return f"roles from {inputs.roles[start]} on may use what roles before it leave in the play"
        edited = max(position.newest() for position in positions) > self._opened.stat().st_ctime_ns
        if not complete or edited or _changed_by_others(record):
            self.forget()
            return None
        known = {**found, "variables": sorted(inputs.definitions), "explained": sorted(_explained(inputs, positions))}
        write_json(self._index, {**known, "start": 0, "digests": _digests(inputs, positions, known)})
        return None

    def forget(self) -> None:
        """Remove all snapshots."""
        remove_tree(self._directory)

    def record(self) -> list[dict[str, Any]]:
        """What callback origin wrote, with a line after each role that was kept."""
        try:
            return [json.loads(line) for line in (self._layer / layers.RECORD).read_text("utf-8").splitlines()]
        except FileNotFoundError:
            return []

    def _of(self, number: int) -> Path:
        return self._directory / f"{number:03}"

    def _known(self) -> dict[str, Any]:
        try:
            known = json.loads(self._index.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return dict(_NOTHING)
        return known if isinstance(known, dict) and known.keys() == _NOTHING.keys() else dict(_NOTHING)

    def _holding(self, inputs: Inputs, index: Mapping[str, Any]) -> int:
        if not index["digests"]:
            return 0
        positions = _positions(inputs, index)
        start = 0
        for now, then in zip(_digests(inputs, positions, index), index["digests"], strict=False):
            if now != then or not self._of(start + 1).is_dir():
                break
            start += 1
        while not independent(positions, start):
            start -= 1
        return start


def _applied(record: Sequence[Mapping[str, Any]], inputs: Inputs) -> dict[str, Any]:
    """The roles that each role included, and those that left more than files."""
    included: dict[str, dict[str, str]] = {}
    left_more: set[str] = set()
    pending: list[Mapping[str, Any]] = []
    for entry in record:
        if "applied" not in entry:
            pending.append(entry)
            continue
        name = entry["applied"]
        for task in pending:
            roles = {role: place for role, place in task["roles"].items() if role != inputs.applying}
            included.setdefault(name, {}).update(roles)
            left_more |= {name} if task["left_more"] else set()
        pending = []
    return {"roles": included, "left_more": sorted(left_more)}


def _changed_by_others(record: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the tree holds what no role wrote while it was applied: a handler, a task of the play, one after all."""
    last = max(number for number, entry in enumerate(record) if "applied" in entry)
    tasks = [entry for entry in record if "applied" not in entry]
    return (
        any(task["handler"] for task in tasks)
        or any(task["paths"] and not task["role"] for task in tasks)
        or any(entry["paths"] for entry in record[last:])
    )


def _positions(inputs: Inputs, known: Mapping[str, Any]) -> list[Position]:
    positions = []
    for name in inputs.roles:
        places = {name: "", **known["roles"].get(name, {})}
        found = {role: inputs.find(role, place) for role, place in sorted(places.items())}
        present = {role: path for role, path in found.items() if path.is_dir()}
        positions.append(Position(name, present, left_more=name in known["left_more"]))
    return positions


def _explained(inputs: Inputs, positions: Sequence[Position]) -> set[str]:
    return explained(positions, inputs.definitions)


def _digests(inputs: Inputs, positions: Sequence[Position], known: Mapping[str, Any]) -> list[str]:
    """What reaches each position. A variable that no role names reaches all, for who knows which one reads it.

    That is judged as when the snapshots were taken, except for variables that were not there.
    """
    new = _explained(inputs, positions) - set(known["variables"])
    all_by = inputs.definitions.keys() - set(known["explained"]) - new - inputs.ignored
    return digests(inputs.ground, positions, inputs.definitions, all_by)


def ground_of(*parts: str, trees: Sequence[Path]) -> str:
    """Digest of what reaches every role: digests, versions, and code."""
    return _digest.of_data(parts, _digest.of_tree(*trees))
