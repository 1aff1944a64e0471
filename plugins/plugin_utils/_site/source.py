# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Reads a site file: fast when it is right, and to the line when it is not."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from ansible_collections.vauban.fleet.plugins.plugin_utils._pydantic import BaseModel, ValidationError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import KINDS, Site
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Keys, Problem, SiteError, shown

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# How an error of pydantic reads to the person who wrote the file: what is wrong, what to do.
_WORDS = {
    "missing": ("is missing", "add it"),
    "bool_parsing": ("{value} is neither on nor off", "write on or off"),
    "bool_type": ("{value} is neither on nor off", "write on or off"),
    "int_parsing": ("{value} is no whole number", "write a whole number"),
    "int_type": ("{value} is no whole number", "write a whole number"),
    "int_from_float": ("{value} is no whole number", "write a whole number"),
    "greater_than_equal": ("{value} is too small", "choose {ge} or more"),
    "less_than_equal": ("{value} is too large", "choose {le} or less"),
    "literal_error": ("{value} is no choice", "choose {expected}"),
    "list_type": ("{value} is no list", "write a list, as [a, b]"),
    "dict_type": ("{value} is no mapping", "write keys and values"),
    "model_type": ("{value} is no mapping", "write keys and values"),
    "string_type": ("{value} is no text", "write it in quotes"),
    "string_too_long": ("{value} is too long", "use at most {max_length} characters"),
    "string_too_short": ("is empty", "give a value or take the key away"),
    "too_short": ("is empty or has too few elements", "give at least {min_length}"),
    "too_long": ("has too many elements", "give at most {max_length}"),
}
_ADDRESS = ("ip_v4_address", "ip_v6_address", "ip_any_address")
_NETWORK = ("ip_v4_network", "ip_v6_network", "ip_any_network")


@dataclass(frozen=True)
class Source:
    """A site file that has the right shape.

    :param file: its path as given.
    :param digest: SHA-256 of its bytes.
    """

    file: str
    digest: str
    text: str
    site: Site

    def error(self, problems: Iterable[Problem]) -> SiteError:
        """The problems with their lines."""
        return _located(self.file, self.text, problems)

    def lines(self, problems: Collection[Problem]) -> list[str]:
        """The problems as lines for people. Finding their places takes as long as reading the file."""
        return str(self.error(problems)).splitlines() if problems else []


def read(file: Path) -> Source:
    """Read a site file and check its shape.

    :raises SiteError: all that is wrong with it.
    """
    try:
        content = file.read_bytes()
        text = content.decode("utf-8")
    except OSError as exc:
        raise _whole(file, exc.strerror or "cannot be read", "name a site file that can be read") from None
    except UnicodeDecodeError as exc:
        raise _whole(file, f"byte {exc.start} is not UTF-8", "save the file as UTF-8") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
        said = " ".join(str(getattr(exc, "problem", None) or exc).split())
        problem = Problem((), f"not YAML: {said}", "correct the line")
        raise SiteError(str(file), [(mark.line + 1 if mark else 0, problem)]) from None
    except (ValueError, RecursionError, OverflowError) as exc:  # a date of month 13, a thousand brackets
        raise _whole(file, f"not YAML: {exc}", "put quotes around the value") from None
    if not isinstance(data, dict):
        raise _whole(file, "the top level is no mapping", "start from inventories/example_site")
    try:
        site = Site.model_validate(data)
    except ValidationError as exc:
        raise _located(str(file), text, _problems(exc, data)) from None
    except RecursionError:
        raise _whole(file, "is nested too deeply", "start from inventories/example_site") from None
    return Source(str(file), hashlib.sha256(content).hexdigest(), text, site)


class _UniqueKeys(_Loader):
    """A key given twice is an error: the second would silently take the place of the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            seen: set[Any] = set()
            for key, _value in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return mapping


def _whole(file: Path, message: str, remedy: str) -> SiteError:
    return SiteError(str(file), [(0, Problem((), message, remedy))])


def _problems(error: ValidationError, data: Any) -> Iterator[Problem]:
    """One problem for each place, whatever number of alternatives failed there."""
    seen: set[Keys] = set()
    for item in error.errors(include_url=False):
        keys, value, is_key = _existing(item["loc"], data)
        if item["type"] == "missing":
            keys = (*keys, str(item["loc"][-1]))
        if keys in seen:
            continue
        seen.add(keys)
        yield _problem(item, keys, keys[-1] if is_key else value)


def _existing(location: Keys, data: Any) -> tuple[Keys, Any, bool]:
    """The part of a location of pydantic that is in the data, the value there, and whether the key itself is meant.

    The rest names alternatives of a type, or marks a key.
    """
    keys: list[str | int] = []
    for key in location:
        within = key in data if isinstance(data, dict) else isinstance(data, list) and key in range(len(data))
        if not within:
            break
        data = data[key]
        keys.append(key)
    return tuple(keys), data, location[-1] == "[key]"


def _problem(item: Any, keys: Keys, value: Any) -> Problem:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), known, 1)
        choice = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
        return Problem(keys, "unknown key", f"{choice} (or take it away)" if near else choice)
    if kind == "string_pattern_mismatch":
        what, remedy = KINDS[context["pattern"]]
        return Problem(keys, f"{shown(value)} is no {what}", remedy)
    if kind.startswith(_NETWORK):
        return Problem(keys, f"{shown(value)} is no network", "write it as 192.0.2.0/24, with all host bits zero")
    if kind.startswith(_ADDRESS):
        return Problem(keys, f"{shown(value)} is no address", "write one address, without a prefix length")
    if kind in ("value_error", "assertion_error"):
        message, _separator, remedy = str(context.get("error", item["msg"])).partition("; ")
        return Problem(keys, message, remedy or "correct the value")
    message, remedy = _WORDS.get(kind, (item["msg"].lower().rstrip("."), "correct the value"))
    words = {"value": shown(value), **context}
    return Problem(keys, message.format_map(words), remedy.format_map(words))


def _known_keys(keys: Keys) -> list[str]:
    """The keys of the part at a place of the model."""
    part: Any = Site
    for key in keys:
        if isinstance(part, type) and issubclass(part, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in part.model_fields.items()}
            part = _inner(fields.get(str(key)))
        else:
            part = _inner(get_args(part)[-1])
    return [field.alias or name for name, field in part.model_fields.items()]


def _inner(annotation: Any) -> Any:
    """The part or container within an annotation."""
    if get_origin(annotation) in (dict, list) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return annotation
    found = [inner for argument in get_args(annotation) if (inner := _inner(argument)) is not None]
    return found[0] if found else None


def _located(file: str, text: str, problems: Iterable[Problem]) -> SiteError:
    root = yaml.compose(text, Loader=_Loader)
    return SiteError(file, [(_line(root, problem.path), problem) for problem in problems])


def _line(node: Any, keys: Keys) -> int:
    """Line of the key or element at the path, or of the nearest part above it that is there."""
    line = int(node.start_mark.line) + 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(name, value) for name, value in node.value if name.value == str(key)]
            if not found:
                break
            line, node = int(found[0][0].start_mark.line) + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = int(node.start_mark.line) + 1
        else:
            break
    return line
