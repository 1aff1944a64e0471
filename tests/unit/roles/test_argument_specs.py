# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The public face of a role: its specification, its defaults and its data agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.vauban.fleet.plugins.module_utils import _errors

COLLECTION = Path(_errors.__file__).parents[2]
ROLES = sorted(path.name for path in (COLLECTION / "roles").iterdir())
TYPES = {"str": str, "path": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def entry_points(role: str) -> dict[str, Any]:
    specs: dict[str, Any] = read(COLLECTION / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    return specs


def options(role: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry_point in entry_points(role).values():
        yield from entry_point["options"].items()


def defaults(role: str) -> dict[str, Any]:
    values: dict[str, Any] = read(COLLECTION / "roles" / role / "defaults/main.yml")
    return values


def is_template(value: Any) -> bool:
    return "{{" in str(value)


@pytest.mark.parametrize("role", ROLES)
def test_every_entry_point_has_a_specification(role: str) -> None:
    tasks = {path.stem for path in (COLLECTION / "roles" / role / "tasks").glob("*.yml")}
    assert set(entry_points(role)) == tasks


@pytest.mark.parametrize("role", ROLES)
def test_specification_and_defaults_name_the_same_variables(role: str) -> None:
    assert {name for name, _option in options(role)} == set(defaults(role))


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_of_the_specification(role: str) -> None:
    """A default that is a template is described in words."""
    literal = {name: value for name, value in defaults(role).items() if not is_template(value)}
    assert {name: option["default"] for name, option in options(role) if "default" in option} == literal


@pytest.mark.parametrize("role", ROLES)
def test_defaults_have_the_type_of_the_specification(role: str) -> None:
    known = dict(options(role))
    for name, value in defaults(role).items():
        if is_template(value):
            continue
        option = known[name]
        assert isinstance(value, TYPES[option["type"]]), name
        if option["type"] == "list":
            assert all(isinstance(item, TYPES[option["elements"]]) for item in value), name
            assert set(value) <= set(option.get("choices", value)), name


@pytest.mark.parametrize("role", ROLES)
def test_an_option_means_the_same_in_every_entry_point(role: str) -> None:
    seen: dict[str, Any] = {}
    for name, option in options(role):
        assert seen.setdefault(name, option) == option, name


def test_choices_of_instrumentation_are_the_features_there_are() -> None:
    features = sorted(read(COLLECTION / "files/instrumentation.yml"))
    chosen = {
        role: dict(options(role))[name]["choices"]
        for role, name in (
            ("core", "core_instrumentation"),
            ("instrumentation", "instrumentation_features"),
            ("product", "product_instrumentation"),
        )
    }
    assert chosen == dict.fromkeys(chosen, features)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_a_readme(role: str) -> None:
    text = (COLLECTION / "roles" / role / "README.md").read_text("utf-8")
    assert f"ansible-doc -t role vauban.fleet.{role}" in text
    assert "## Undo" in text
