# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Which variables reach which role of a product, so that a build can begin with the first role that a change reaches.

Nothing tells what a role will read: what it says is searched for names, and every doubt counts as "reached".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.vauban.fleet.plugins.module_utils import _digest

# Words that reach a variable without its name, or files that are not the role's. An argument `vars:` names its own.
_UNNAMED = re.compile(
    r"\bhostvars\b|\bvarnames\b|\btask_vars\b|(?<![\w-])vars(?!\w|\s*:)|\bplaybook_dir\b|\binventory_(dir|file)\b"
    r"|\bcollections\b[\"']?\s*:"
)
# A plugin or a role of another collection may read any variable; what these hold is known.
_FOREIGN_CONTENT = re.compile(
    r"(?:^|[\s\"'(\[{])(?!ansible\.builtin\.|vauban\.fleet\.)[a-z_][a-z0-9_]*\.[a-z0-9_]+\.[a-z0-9_]+[\"']?\s*[:,)]",
    re.MULTILINE,
)
_ABSOLUTE = re.compile(r"(?<![\w.}/-])/[\w.+@-]+(?:/[\w.+@-]+)+")
_RELATIVE = re.compile(r"(?:\.\./)+[\w./+@-]*")
_SYSTEM = re.compile(r"/(bin|boot|dev|etc|lib|lib64|proc|run|sbin|sys|usr|var)/")
# What stays in the play after a role, and reaches the roles after it.
_STAYS = re.compile(
    r"\b(import_role|local_action)\b|\b(public|allow_duplicates|delegate_to|delegate_facts|run_once)\b[\"']?\s*:"
    r"|\bdependencies\b[\"']?\s*:(?!\s*\[\s*\])"
)
_REGISTERED = re.compile(r"\bregister[\"']?\s*:\s*[\"']?(\w+)")


@dataclass(frozen=True)
class Position:
    """A role in the order of the product, with the roles that it includes.

    :param directories: of all of them, by name.
    :param left_more: one of its tasks told the play something, a fact or a host.
    """

    name: str
    directories: Mapping[str, Path]
    left_more: bool = False

    @cached_property
    def files(self) -> list[tuple[Path, str]]:
        """Path in its role and text of each file."""
        found = []
        for directory in self.directories.values():
            for path in sorted(path for path in directory.rglob("*") if path.is_file()):
                found.append((path.relative_to(directory), path.read_text("utf-8", "replace")))
        return found

    @cached_property
    def text(self) -> str:
        """All that the roles say. Names of files count: some stand for one file for each element of a variable."""
        return "\n".join(part for path, text in self.files for part in (str(path), text))

    @cached_property
    def stays(self) -> bool:
        """Whether later roles may see something of this one that has no name to search for."""
        if self.left_more or self._handlers is None:
            return True
        return any(_STAYS.search(text) for path, text in self.files if path.parts[0] in ("tasks", "handlers", "meta"))

    @cached_property
    def leaves(self) -> set[str]:
        """Names under which later roles find what this one leaves: registered results, and topics of handlers."""
        handlers = self._handlers or []
        topics = [topic for handler in handlers for topic in _listed(handler.get("listen"))]
        return {*_REGISTERED.findall(self.text), *topics}

    @cached_property
    def handlers(self) -> set[str]:
        """Names of handlers. If several roles have one of a name, that of the role read last is meant."""
        return {name for handler in self._handlers or [] for name in _listed(handler.get("name"))}

    @cached_property
    def _handlers(self) -> list[dict[str, Any]] | None:
        """None if they cannot be read without Ansible."""
        found: list[dict[str, Any]] = []
        for path, text in self.files:
            if path.parts[0] == "handlers" and path.suffix in (".yml", ".yaml"):
                try:
                    found += _tasks(yaml.safe_load(text))
                except (yaml.YAMLError, AttributeError, TypeError):
                    return None
        return found

    @cached_property
    def leaves_its_directory(self) -> bool:
        """Whether the roles may read more than their own files, or variables that they do not name."""
        for path, text in self.files:
            if path.suffix == ".md":
                continue
            if _UNNAMED.search(text) or _reads_elsewhere(text):
                return True
            if path.suffix in (".yml", ".yaml") and _FOREIGN_CONTENT.search(text):
                return True
            if any(self._exists(match) for match in _RELATIVE.findall(text)):
                return True
        return any(path.is_symlink() for directory in self.directories.values() for path in directory.rglob("*"))

    def _exists(self, relative: str) -> bool:
        places = [place for path in self.directories.values() for place in (path, *path.iterdir()) if place.is_dir()]
        return any((place / relative).exists() for place in places)

    def digest(self) -> str:
        """Stands for the files of the roles."""
        return _digest.of_data({name: _digest.of_tree(path) for name, path in self.directories.items()})

    def newest(self) -> int:
        """When a file of the roles last changed in any way, in nanoseconds."""
        paths = [found for path in self.directories.values() for found in (path, *path.rglob("*"))]
        return max(path.lstat().st_ctime_ns for path in paths)


def reached(position: Position, definitions: Mapping[str, Any]) -> set[str]:
    """Names of the variables that a position or the value of another that reaches it names; all of them in doubt.

    :param definitions: variables of the host and of the role that applies the others, with values as written.
    """
    values = {name: json.dumps(value, default=str, ensure_ascii=False) for name, value in definitions.items()}
    if position.leaves_its_directory:
        return set(values)
    found: set[str] = set()
    texts = [position.text]
    while texts:
        text = texts.pop()
        new = {name for name in values.keys() - found if name in text}
        if any(_UNNAMED.search(values[name]) or _reads_elsewhere(values[name]) for name in new):
            return set(values)
        if any("template" in values[name] and "lookup" in values[name] for name in new):
            return set(values)
        found |= new
        texts += [values[name] for name in new]
    return found


def explained(positions: Sequence[Position], definitions: Mapping[str, Any]) -> set[str]:
    """Names of the variables that some position is reached by."""
    return set[str]().union(*(reached(position, definitions) for position in positions))


def digests(ground: str, positions: Sequence[Position], definitions: Mapping[str, Any], all_by: Set[str]) -> list[str]:
    """For each position what stands for all that reaches the tree up to the end of it.

    :param ground: digest of what reaches every role.
    :param all_by: names of variables that reach every role.
    """
    current = _digest.of_data(ground, {name: definitions[name] for name in sorted(all_by)})
    found = []
    for position in positions:
        values = {name: definitions[name] for name in sorted(reached(position, definitions))}
        current = _digest.of_data(current, position.name, position.digest(), values)
        found.append(current)
    return found


def independent(positions: Sequence[Position], start: int) -> bool:
    """Whether the roles from ``start`` on do the same without those before them in the play."""
    before, after = positions[:start], positions[start:]
    if not after:
        return True
    if any(position.stays for position in before):
        return False
    # A handler of one left out would run late enough to see what roles after it told the play.
    handlers = "\n".join(text for position in before for path, text in position.files if path.parts[0] == "handlers")
    if handlers and any(position.left_more for position in after):
        return False
    if any(name in handlers for position in after for name in position.leaves):
        return False
    text = "\n".join(position.text for position in after)
    own = set[str]().union(*(position.handlers for position in after))
    left = set[str]().union(*(position.leaves | (position.handlers - own) for position in before))
    return not any(name in text for name in left)


def _tasks(block: Any) -> Iterator[dict[str, Any]]:
    for task in block or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from _tasks(task.get(part))


def _listed(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)] if value else []


def _reads_elsewhere(text: str) -> bool:
    """Whether a path is there, on the controller, that no machine has of itself: a template may be read from it."""
    return any(_is_own(Path(found)) for found in _paths(text))


def _paths(text: str) -> Iterator[str]:
    yield from _ABSOLUTE.findall(text)


def _is_own(path: Path) -> bool:
    if _SYSTEM.match(f"{path}/") and path.suffix != ".j2":
        return False
    try:
        return path.exists()
    except OSError:
        return False
