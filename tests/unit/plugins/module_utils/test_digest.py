# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    assert _digest.of_file(tmp_path / "file", size=3) == ABC
    assert _digest.of_file(tmp_path / "file") == "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"


def test_size_beyond_the_end_reads_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert _digest.of_file(tmp_path / "file", size=10_000) == ABC


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_order_of_a_dictionary_does_not_count(value: dict[str, Any]) -> None:
    assert _digest.of_data(value) == _digest.of_data(dict(reversed(list(value.items()))))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("ab",)),
        (("a", "b"), ("b", "a")),
        ((["a"], "b"), (["a", "b"],)),
        ((None,), ("null",)),
        ((1,), ("1",)),
        ((True,), (1,)),
        (({},), ([],)),
    ],
)
def test_different_data_have_different_digests(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert _digest.of_data(*one) != _digest.of_data(*other)


def test_sets_and_paths_count_by_what_they_hold() -> None:
    assert _digest.of_data({"b", "a"}) == _digest.of_data(["a", "b"])
    assert _digest.of_data(Path("/a")) == _digest.of_data("/a")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub/file").write_text("content")
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o755)
    (root / "link").symlink_to("sub/file")
    (root / "linked_directory").symlink_to("sub")
    return root


def retarget(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)


def rename(path: Path) -> None:
    path.rename(path.with_name("renamed"))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "content": lambda root: (root / "sub/file").write_text("Content"),
    "name": lambda root: rename(root / "sub/file"),
    "directory name": lambda root: rename(root / "sub"),
    "executable": lambda root: (root / "script").chmod(0o644),
    "link target": lambda root: retarget(root / "link", "script"),
    "target of a linked directory": lambda root: retarget(root / "linked_directory", "/sub"),
    "link becomes a file": lambda root: ((root / "link").unlink(), (root / "link").write_text("content")),
    "new file": lambda root: (root / "sub/new").touch(),
    "deleted file": lambda root: (root / "script").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_change_of_a_tree_shows(tree: Path, change: Callable[[Path], Any]) -> None:
    before = _digest.of_tree(tree)
    change(tree)
    assert _digest.of_tree(tree) != before


def test_what_reaches_no_artifact_does_not_count(tree: Path) -> None:
    before = _digest.of_tree(tree)
    (tree / "sub/__pycache__").mkdir()
    (tree / "sub/__pycache__/x.pyc").touch()
    (tree / "sub/file").chmod(0o600)
    (tree / "sub/file").touch()
    assert _digest.of_tree(tree) == before


def test_place_of_a_tree_does_not_count(tree: Path) -> None:
    before = _digest.of_tree(tree)
    assert _digest.of_tree(tree.rename(tree.with_name("elsewhere"))) == before


def test_file_that_moves_from_one_root_to_another_counts(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    before = _digest.of_tree(tree, other)
    (tree / "sub").rename(other / "sub")
    assert _digest.of_tree(tree, other) != before


def test_odd_names_are_told_apart(tmp_path: Path) -> None:
    for name, links in {"one": {"a": "b\nlink c d"}, "two": {"a": "b", "c": "d"}}.items():
        (tmp_path / name).mkdir()
        for link, target in links.items():
            (tmp_path / name / link).symlink_to(target)
    assert _digest.of_tree(tmp_path / "one") != _digest.of_tree(tmp_path / "two")


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9").touch()
    assert _digest.of_tree(tmp_path) != _digest.of_tree()


def test_single_file_as_root(tree: Path) -> None:
    assert _digest.of_tree(tree / "script") != _digest.of_tree(tree / "sub/file")


def test_root_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="missing: no such file or directory"):
        _digest.of_tree(tmp_path / "missing")
