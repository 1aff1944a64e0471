# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a build begins. The roles are stand-ins that write one file each; the real ones are in test_root_layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils import _sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils._snapshots import Inputs, Snapshots

APPLYING = "applying"


@dataclass
class Product:
    """Roles ``a``, ``b`` and ``c``, each of which names the variable with its own letter doubled."""

    directory: Path
    roles: list[str] = field(default_factory=lambda: ["a", "b", "c"])
    values: dict[str, Any] = field(default_factory=lambda: {"aa": 1, "bb": 1, "cc": 1, "unknown": 1, "ignored": 1})
    ground: str = "ground"
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)  # what differs in the record of a role's task

    @property
    def layer(self) -> Path:
        return self.directory / "layer"

    def write(self, role: str, text: str) -> None:
        path = self.directory / "roles" / role / "tasks/main.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def inputs(self) -> Inputs:
        def find(name: str, _place: str) -> Path:
            return self.directory / "roles" / name

        return Inputs(self.ground, APPLYING, self.roles, dict(self.values), {"ignored"}, find)

    def record(self, name: str, **entry: Any) -> None:
        usual = {
            "origin": f"role {name}",
            "role": name,
            "roles": {APPLYING: "", name: ""},
            "paths": [f"/{name}"],
            "handler": False,
            "left_more": False,
        }
        with (self.layer / "record.jsonl").open("a") as stream:
            stream.write(json.dumps({**usual, **entry}) + "\n")

    def run(self, role: str) -> None:
        (self.layer / "upper").mkdir(exist_ok=True)
        (self.layer / "upper" / role).write_text(str(self.values.get(role * 2)))
        self.record(role, **self.entries.get(role, {}))

    def build(
        self, *, all_roles: bool = False, fails_in: str = "", meanwhile: Callable[[], None] | None = None
    ) -> str | None:
        """Build; return the roles that ran, and what closing said if it said anything."""
        inputs, snapshots = None if all_roles else self.inputs(), Snapshots(self.layer)
        self.layer.mkdir(exist_ok=True)
        start = snapshots.open(inputs, self.values)
        for role in self.roles[start:]:
            self.run(role)
            if role == fails_in:
                return None
            if not all_roles:
                snapshots.keep(role)
        if meanwhile:
            meanwhile()
        said = snapshots.close(inputs)
        return said or "".join(self.roles[start:])

    @property
    def content(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.layer / "upper").iterdir()}


@pytest.fixture
def product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Product:
    monkeypatch.setattr(_sandbox, "namespace", lambda: ["env"])  # files are the test's own: no ids, no mounts needed
    made = Product(tmp_path)
    for role in "abcd":
        made.write(role, f"- command: '{{{{ {role * 2} }}}}'")
    return made


@pytest.mark.parametrize(
    ("changed", "ran"),
    [
        ({}, ""),
        ({"ignored": 2}, ""),
        ({"cc": 2}, "c"),
        ({"bb": 2}, "bc"),
        ({"bb": 2, "cc": 2}, "bc"),
        ({"aa": 2}, "abc"),
        ({"unknown": 2}, "abc"),
        ({"added": 1}, "abc"),
    ],
)
def test_begins_with_the_first_role_reached(product: Product, changed: dict[str, Any], ran: str) -> None:
    assert product.build() == "abc"
    product.values |= changed
    assert product.build() == ran
    assert product.content == {role: str(product.values[role * 2]) for role in "abc"}
    assert [entry["role"] for entry in Snapshots(product.layer).record() if "role" in entry] == ["a", "b", "c"]
    assert product.build() == ""


@pytest.mark.parametrize(
    ("roles", "ran"), [("abcd", "d"), ("ab", ""), ("abdc", "dc"), ("adbc", "dbc"), ("bac", "bac"), ("ac", "c")]
)
def test_other_list_of_roles_begins_where_it_differs(product: Product, roles: str, ran: str) -> None:
    product.values["dd"] = 1
    product.write("a", "- command: '{{ aa }} {{ dd }}'")
    product.build()
    product.roles = list(roles)
    assert product.build() == ran
    assert set(product.content) == set(roles)


def test_variable_that_is_gone_or_named_by_nobody_any_more(product: Product) -> None:
    product.build()
    product.write("c", "- command: 'true'")
    assert product.build() == "c"
    product.values["cc"] = 2
    assert product.build() == "abc"
    del product.values["unknown"]
    assert product.build() == "abc"


def test_new_variable_of_a_role_that_names_it_now(product: Product) -> None:
    product.build()
    product.write("c", "- command: '{{ cc }} {{ added }}'")
    product.values["added"] = 1
    assert product.build() == "c"


def test_nothing_is_left_out_with_other_ground(product: Product) -> None:
    product.build()
    product.ground = "other"
    assert product.build() == "abc"


@pytest.mark.parametrize(
    ("role", "entry", "ran"),
    [
        ("a", {"left_more": True}, "abc"),
        ("b", {"left_more": True}, "bc"),
        ("c", {"left_more": True}, "c"),
        ("b", {"handler": True}, "abc"),
        ("b", {"role": ""}, "abc"),
        ("b", {"role": "", "paths": []}, "c"),
    ],
)
def test_what_else_a_task_did_counts(product: Product, role: str, entry: dict[str, Any], ran: str) -> None:
    product.entries[role] = entry
    product.build()
    product.values["cc"] = 2
    assert product.build() == ran


def test_nothing_is_left_out_after_a_change_that_no_role_made(product: Product) -> None:
    product.build(meanwhile=lambda: product.record("a"))
    product.values["cc"] = 2
    assert product.build() == "abc"


def test_nothing_is_left_out_if_a_role_was_edited_while_it_ran(product: Product) -> None:
    product.build(meanwhile=lambda: product.write("a", "- command: '{{ aa }}' # edited"))
    product.values["cc"] = 2
    assert product.build() == "abc"


def test_role_that_another_includes_is_part_of_it(product: Product) -> None:
    product.entries["b"] = {"roles": {"b": "", "d": ""}}
    product.values["dd"] = 1
    product.build()
    product.values["dd"] = 2
    assert product.build() == "bc"
    product.write("d", "- command: other")
    assert product.build() == "bc"


def test_failed_role_runs_again_on_what_was_before_it(product: Product) -> None:
    product.build()
    product.values["bb"] = 2
    assert product.build(fails_in="b") is None
    assert product.build() == "bc"
    product.values["bb"] = 1
    assert product.build(fails_in="c") is None
    assert product.build() == "bc"


def test_first_build_that_failed_begins_with_nothing(product: Product) -> None:
    product.build(fails_in="c")
    assert product.build() == "abc"


def test_use_of_what_a_role_left_out_tells_shows_when_the_layer_is_closed(product: Product) -> None:
    product.write("a", "- command: '{{ aa }}'\n  register: told")
    product.build()
    product.write("d", "- command: '{{ told }}'")
    product.entries["c"] = {"roles": {"c": "", "d": ""}}
    product.values["cc"] = 2
    assert product.build() == "roles from c on may use what roles before it leave in the play"
    assert product.build() == "abc"
    product.values["cc"] = 3
    assert product.build() == "abc"


def test_snapshots_are_neither_used_nor_taken_where_all_roles_are_asked_for(product: Product) -> None:
    product.build()
    assert product.build(all_roles=True) == "abc"
    assert not (product.layer / "kept").exists()
    assert product.build() == "abc"


def test_snapshot_that_was_removed_is_not_used(product: Product) -> None:
    product.build()
    (product.layer / "kept/002").rename(product.directory / "elsewhere")
    product.values["cc"] = 2
    assert product.build() == "bc"
