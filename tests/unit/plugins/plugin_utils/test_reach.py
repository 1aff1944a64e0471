# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables reach which role. What is missed here would leave an image with what a setting no longer says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.plugin_utils._reach import (
    Position,
    digests,
    explained,
    independent,
    reached,
)

DEFINITIONS = {"color": "red", "shade": "{{ color }} and dark", "size": 3, "place": "/nowhere"}


def role(directory: Path, **files: str) -> Position:
    """A role whose files have these texts; a double underscore stands for a slash, a single one for a dot."""
    for name, text in files.items():
        path = directory / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Position(directory.name, {directory.name: directory})


def tasks(directory: Path, text: str) -> Position:
    return role(directory, tasks__main_yml=text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("- copy: {content: '{{ size }}'}", {"size"}),
        ("- copy: {content: '{{ shade }}'}", {"shade", "color"}),
        ("- command: echo\n  vars:\n    own: 1", set()),
        ("- vauban.fleet.config_tree: {src: x}\n- ansible.builtin.file: {path: /etc/fstab}", set()),
        ("- file: {src: ../../var/lib/vauban}", set()),
    ],
)
def test_role_is_reached_by_what_it_names_and_by_what_that_names(tmp_path: Path, text: str, names: set[str]) -> None:
    assert reached(tasks(tmp_path / "role", text), DEFINITIONS) == names


@pytest.mark.parametrize(
    "text",
    [
        "- debug: {msg: \"{{ vars['co' ~ 'lor'] }}\"}",
        "- debug: {msg: \"{{ lookup('vars', name) }}\"}",
        "- debug: {msg: \"{{ lookup('ansible.builtin.varnames', '.*') }}\"}",
        "- debug: {msg: \"{{ q('ansible.builtin.vars', name) }}\"}",
        '- debug: {msg: "{{ hostvars[inventory_hostname] }}"}',
        '- template: {src: "{{ inventory_dir }}/x.j2"}',
        '- template: {src: "{{ playbook_dir }}/x.j2"}',
        "- community.general.ini_file:\n    path: /x",
        "- {community.general.ini_file: {path: /x}}",
        "- debug: {msg: \"{{ lookup('community.general.dig', name) }}\"}",
        "- name: x\n  collections: [community.general]",
        "- include_vars: ../sibling.yml",
    ],
)
def test_role_that_may_read_more_than_it_names_is_reached_by_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "sibling.yml").touch()
    assert reached(tasks(tmp_path / "role", text), DEFINITIONS) == set(DEFINITIONS)


@pytest.mark.parametrize(
    "value", ["{here}/x.j2", "{here}", "{{{{ vars.color }}}}", "{{{{ lookup('template', 'x') }}}}"]
)
def test_value_that_leads_out_of_a_role_lets_all_reach_it(tmp_path: Path, value: str) -> None:
    (tmp_path / "x.j2").touch()
    definitions = {**DEFINITIONS, "place": value.format(here=tmp_path)}
    assert reached(tasks(tmp_path / "role", "- template: {src: '{{ place }}'}"), definitions) == set(definitions)
    assert reached(tasks(tmp_path / "other", "- debug: {msg: '{{ size }}'}"), definitions) == {"size"}


def test_names_of_files_and_files_of_any_kind_name_variables(tmp_path: Path) -> None:
    position = role(tmp_path / "role", **{"templates__{color}_conf_j2": "x", "files__program": "size"})
    assert reached(position, DEFINITIONS) == {"color", "size"}


def test_link_out_of_a_role_lets_all_reach_it(tmp_path: Path) -> None:
    position = tasks(tmp_path / "role", "- debug: {msg: x}")
    (tmp_path / "role/templates").symlink_to("/etc")
    assert reached(position, DEFINITIONS) == set(DEFINITIONS)


def test_what_is_after_the_first_role_reached_is_not_the_same(tmp_path: Path) -> None:
    texts = ("- debug: {msg: x}", "- debug: {msg: '{{ shade }}'}", "- debug: {msg: '{{ size }}'}")
    positions = [tasks(tmp_path / f"role{number}", text) for number, text in enumerate(texts)]

    def same(ground: str = "same", **changed: Any) -> list[bool]:
        first = digests("same", positions, DEFINITIONS, {"place"})
        other = digests(ground, positions, {**DEFINITIONS, **changed}, {"place"})
        return [one == two for one, two in zip(first, other, strict=True)]

    assert explained(positions, DEFINITIONS) == {"shade", "color", "size"}
    assert same() == [True, True, True]
    assert same(size=4) == [True, True, False]
    assert same(shade="green") == [True, False, False]
    assert same(color="green") == [True, False, False]
    assert same(place="/elsewhere") == [False, False, False]
    assert same(ground="other") == [False, False, False]


def test_changed_file_of_a_role_that_another_includes_counts(tmp_path: Path) -> None:
    inner = tasks(tmp_path / "inner", "- debug: {msg: x}")
    outer = tasks(tmp_path / "outer", "- include_role: {name: inner}")
    before = digests("", [outer, Position("both", {**outer.directories, **inner.directories})], {}, set())
    (tmp_path / "inner/tasks/main.yml").write_text("- debug: {msg: y}")
    after = digests("", [outer, Position("both", {**outer.directories, **inner.directories})], {}, set())
    assert before[0] == after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    ("first", "later", "alone"),
    [
        ("- command: x\n  register: result", "- debug: {msg: x}", True),
        ("- command: x\n  register: result", "- debug: {msg: '{{ result }}'}", False),
        ("- {command: x, register: result}", "- debug: {msg: '{{ result }}'}", False),
        ("- import_role: {name: other}", "- debug: {msg: x}", False),
        ("- include_role:\n    name: other\n    public: true", "- debug: {msg: x}", False),
        ("- command: x\n  delegate_to: localhost", "- debug: {msg: x}", False),
        ("- local_action: command x", "- debug: {msg: x}", False),
        ("- command: x\n  run_once: true", "- debug: {msg: x}", False),
    ],
)
def test_what_a_role_leaves_in_the_play_binds_later_ones_to_it(
    tmp_path: Path, first: str, later: str, alone: bool
) -> None:
    positions = [tasks(tmp_path / "first", first), tasks(tmp_path / "later", later)]
    assert independent(positions, 1) == alone
    assert independent(positions, 0)
    assert independent(positions, 2)


@pytest.mark.parametrize(
    ("handlers", "own", "notified", "alone"),
    [
        ("- name: Reload\n  command: x", "", "Reload", False),
        ("- name: Reload\n  command: x", "", "Restart", True),
        ("- name: Reload\n  command: x", "- name: Reload\n  command: y", "Reload", True),
        ("- name: Reload\n  listen: topic\n  command: x", "- name: Other\n  listen: topic", "topic", False),
        ("- name: Reload\n  listen: [one, topic]\n  command: x", "", "topic", False),
        ("- block:\n  - name: Reload\n    command: x", "", "Reload", False),
        ("- name: !vault x", "", "Restart", False),
    ],
)
def test_handlers_bind_those_that_notify_them(
    tmp_path: Path, handlers: str, own: str, notified: str, alone: bool
) -> None:
    first = role(tmp_path / "first", tasks__main_yml="- debug: {msg: x}", handlers__main_yml=handlers)
    later = role(tmp_path / "later", tasks__main_yml=f"- command: x\n  notify: {notified}", handlers__main_yml=own)
    assert independent([first, later], 1) == alone


@pytest.mark.parametrize(("text", "alone"), [("dependencies: []", True), ("dependencies: [{role: other}]", False)])
def test_dependency_binds_since_it_runs_once_for_several_roles(tmp_path: Path, text: str, alone: bool) -> None:
    first = role(tmp_path / "first", meta__main_yml=text)
    assert independent([first, tasks(tmp_path / "later", "- debug: {msg: x}")], 1) == alone


def test_facts_bind_all_that_follow(tmp_path: Path) -> None:
    first = tasks(tmp_path / "first", "- debug: {msg: x}")
    later = tasks(tmp_path / "later", "- debug: {msg: x}")
    assert not independent([Position("first", first.directories, left_more=True), later], 1)


def test_handler_that_would_see_what_later_roles_told_binds_them(tmp_path: Path) -> None:
    handlers = "- name: Reload\n  command: x\n  when: asked"
    first = role(tmp_path / "first", tasks__main_yml="- command: x\n  notify: Reload", handlers__main_yml=handlers)
    later = tasks(tmp_path / "later", "- command: x\n  register: result")
    asking = tasks(tmp_path / "asking", "- command: x\n  register: asked")
    assert independent([first, later], 1)
    assert not independent([first, asking], 1)
    assert not independent([first, Position("later", later.directories, left_more=True)], 1)
