# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module config_tree in a tree under construction."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from .conftest import Play, Task

SOURCES = {
    "etc/plain": b"{{ not_a_template }}\n",
    "etc/binary": bytes(range(256)),
    "etc/name.conf.j2": b"name = {{ inventory_hostname }}\n",
    "etc/loop.j2": b"{% for item in [1, 2] %}\nitem {{ item }}\n{% endfor %}\n",
    "etc/escapes.j2": rb"""{{ "a\tb" }} c\td""" + b"\n",
    "etc/data.j2": b"{{ site_text }}\n",
    "etc/empty.j2": b"",
    "usr/lib/script": b"#!/bin/sh\n",
}
# A value that came from outside the inventory: Ansible trusts it no template.
BRACES = "{{ '{' ~ '{ braces }' ~ '}' }}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, content in SOURCES.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "root/usr/lib/script").chmod(0o755)
    return tmp_path / "root"


def lay_down(source: Path, **arguments: Any) -> Task:
    return {"vauban.fleet.config_tree": {"src": str(source), **arguments}}


def test_check_do_check_do(play_in_tree: Play, source: Path, layer: Path) -> None:
    task = lay_down(source, modes={"/etc/na*": "0600"})
    runs = play_in_tree(task, site_text=BRACES, options=("--check", "--diff")).results
    runs += play_in_tree(task, {**task, "check_mode": True}, task, site_text=BRACES).results
    assert [run["changed"] for run in runs] == [True, True, False, False]
    names = sorted(f"/{name.removesuffix('.j2')}" for name in SOURCES)
    assert sorted(runs[0]["paths"]) == sorted(runs[1]["paths"]) == names
    assert runs[2]["paths"] == []


def test_contents_and_modes(play_in_tree: Play, source: Path, layer: Path) -> None:
    """Templates read as those of ansible.builtin.template, and what variables hold is never a template."""
    play_in_tree(lay_down(source, modes={"/etc/na*": "0600"}), site_text=BRACES)
    written = {name: (layer / "upper" / name).read_bytes() for name in ("etc/plain", "etc/binary", "etc/empty")}
    assert written == {name: SOURCES.get(name, b"") for name in written}
    texts = {name: (layer / "upper/etc" / name).read_text() for name in ("name.conf", "loop", "escapes", "data")}
    assert texts == {
        "name.conf": "name = product\n",
        "loop": "item 1\nitem 2\n",
        "escapes": "a\tb c\\td\n",
        "data": "{{ braces }}\n",
    }
    for name, mode in {"etc/plain": 0o644, "etc/name.conf": 0o600, "usr/lib/script": 0o755}.items():
        assert stat.S_IMODE((layer / "upper" / name).stat().st_mode) == mode


def test_check_mode_writes_nothing_and_diff_shows_it(play_in_tree: Play, source: Path, layer: Path) -> None:
    printed = play_in_tree(lay_down(source), site_text="x", options=("--check", "--diff")).printed
    assert "+name = product" in printed
    assert "/etc/name.conf (absent)" in printed
    assert not (layer / "upper/etc").exists()


def test_what_was_spoilt_is_set_right(play_in_tree: Play, source: Path, layer: Path) -> None:
    play_in_tree(lay_down(source), site_text="x")
    spoilt = {name: layer / "upper" / name for name in ("etc/binary", "etc/empty", "etc/plain")}
    spoilt["etc/plain"].write_text("other\n")
    spoilt["etc/empty"].chmod(0o666)
    os.chown(spoilt["etc/binary"], 4711, 0)
    assert play_in_tree(lay_down(source), site_text="x").results[0]["paths"] == [f"/{name}" for name in spoilt]
    for name, path in spoilt.items():
        status = path.stat()
        content = SOURCES.get(name, b"")
        assert (path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_uid) == (content, 0o644, 0), name


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"modes": {"/etc/*": 0o640}}, "modes: /etc/*: 416 is no mode. Remedy: write it quoted"),
    ({"modes": {"/etc/*": "u=rw"}}, "modes: /etc/*: 'u=rw' is no mode"),
    ({"src": "/no/such/directory"}, "/no/such/directory"),
    ({"src": "/etc/passwd"}, "/etc/passwd: not a directory"),
    ({"unknown": 1}, "Unsupported parameters"),
]


def test_wrong_argument_is_named(play_in_tree: Play, source: Path) -> None:
    done = play_in_tree(*(lay_down(source, **arguments) for arguments, _message in WRONG), site_text="x")
    for (arguments, message), result in zip(WRONG, done.results, strict=True):
        assert result["failed"], arguments
        assert message in result["msg"]


def test_undefined_variable_names_the_file(play_in_tree: Play, source: Path, layer: Path) -> None:
    done = play_in_tree(lay_down(source))
    assert done.results[0]["failed"]
    assert "'site_text' is undefined" in done.results[0]["msg"]
    assert "etc/data.j2" in done.printed
    assert not (layer / "upper/etc").exists()


def test_directory_in_the_place_of_a_file(play_in_tree: Play, source: Path, layer: Path) -> None:
    (layer / "upper/etc/plain").mkdir(parents=True)
    result = play_in_tree(lay_down(source), site_text="x").results[0]
    assert result["failed"]
    assert "/etc/plain: Is a directory. Remedy" in result["msg"]


def test_one_file_for_each_element_of_a_list(play_in_tree: Play, tmp_path: Path, layer: Path) -> None:
    """An element that left the list leaves the target, if the role says that it owns the files."""
    path = tmp_path / "root/etc/greetings/{greetings}.d/text.j2"
    path.parent.mkdir(parents=True)
    path.write_text("{{ item.text }} from {{ inventory_hostname }}\n")
    task = lay_down(tmp_path / "root", purge=["/etc/greetings/*.d/*"])
    both, one = ([{"name": name, "text": f"good {name}"} for name in names] for names in (("a", "b"), ("b",)))
    written = layer / "upper/etc/greetings"
    first = play_in_tree({**task, "vars": {"greetings": both}}).results[0]
    assert first["paths"] == ["/etc/greetings/a.d/text", "/etc/greetings/b.d/text"]
    assert (written / "a.d/text").read_text() == "good a from product\n"
    task = {**task, "vars": {"greetings": one}}
    runs = [*play_in_tree(task, options=("--check", "--diff")).results, *play_in_tree(task, task).results]
    assert [run["paths"] for run in runs] == [["/etc/greetings/a.d/text"]] * 2 + [[]]
    assert not (written / "a.d/text").exists()
    assert (written / "b.d/text").read_text() == "good b from product\n"


NO_NAMES = [
    ("text", "greetings: must be a list"),
    ([{"text": "no name"}], "greetings: name: None cannot name a file"),
    ([{"name": "../passwd"}], "greetings: name: '../passwd' cannot name a file"),
    ([".."], "greetings: name: '..' cannot name a file"),
]


def test_names_stay_inside_the_directory(play_in_tree: Play, tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/{greetings}").write_text("x")
    task = lay_down(tmp_path / "root")
    done = play_in_tree(*({**task, "vars": {"greetings": value}} for value, _message in NO_NAMES))
    for (value, message), result in zip(NO_NAMES, done.results, strict=True):
        assert result["failed"], value
        assert message in result["msg"]


def test_file_that_its_program_refuses_replaces_nothing(play_in_tree: Play, tmp_path: Path, layer: Path) -> None:
    """The program gets a copy with the mode of the file, beside it, of which nothing stays."""
    for name, text in (("a", "new"), ("b.sh", "{{ text }}")):
        (tmp_path / "root/etc/checked").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"root/etc/checked/{name}.j2").write_text(text)
    task = lay_down(tmp_path / "root", modes={"*.sh": "0640"}, validate={"/etc/checked/*.sh": "sh -n %s"})
    written = layer / "upper/etc/checked"
    (result,) = play_in_tree(task, options=("--check",), text="case").results
    assert (result["changed"], written.exists()) == (True, False)
    (result,) = play_in_tree(task, text="case").results
    assert result["failed"]
    assert "/etc/checked/b.sh: refused by 'sh': " in result["msg"]
    assert "yntax error" in result["msg"]
    assert list(written.iterdir()) == []
    first, second = play_in_tree(task, task, text="true").results
    assert (first["changed"], second["changed"]) == (True, False)
    assert stat.S_IMODE((written / "b.sh").stat().st_mode) == 0o640
    (result,) = play_in_tree(task, text="case").results
    assert result["failed"]
    assert {path.name: path.read_text() for path in written.iterdir()} == {"a": "new", "b.sh": "true"}


def test_command_that_names_no_file_is_a_mistake(play_in_tree: Play, source: Path) -> None:
    (result,) = play_in_tree(lay_down(source, validate={"/etc/plain": "true"}), site_text="x").results
    assert result["failed"]
    assert "validate: /etc/plain: no %s in 'true'. Remedy" in result["msg"]
