# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import (
    replacing_directory,
    replacing_file,
    write_json,
    write_text,
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_file_takes_its_name_only_when_complete(tmp_path: Path) -> None:
    dest = tmp_path / "new" / "file"
    with replacing_file(dest, mode=0o640) as temporary:
        temporary.write_text("content")
        assert not dest.exists()
        assert temporary.parent == dest.parent
    assert dest.read_text() == "content"
    assert mode(dest) == 0o640
    assert names(dest.parent) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_writer_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    dest = tmp_path / "file"
    dest.write_text("old")

    def write() -> None:
        with replacing_file(dest) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert dest.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    with replacing_file(tmp_path / "key", mode=0o600) as temporary:
        assert mode(temporary) == 0o600


def test_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_text() == "new"
    assert (tmp_path / "target").read_text() == "old"


def test_directory_is_replaced_whole(tmp_path: Path) -> None:
    dest = tmp_path / "tree"
    dest.mkdir()
    (dest / "old").touch()
    with replacing_directory(dest, mode=0o750) as temporary:
        (temporary / "new").touch()
        assert names(dest) == ["old"]
    assert names(dest) == ["new"]
    assert mode(dest) == 0o750
    assert names(tmp_path) == ["tree"]


def test_interrupted_writer_leaves_the_old_directory(tmp_path: Path) -> None:
    dest = tmp_path / "tree"
    dest.mkdir()
    (dest / "old").touch()

    def write() -> None:
        with replacing_directory(dest) as temporary:
            (temporary / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(dest) == ["old"]
    assert names(tmp_path) == ["tree"]


def test_new_directory_that_vanished_does_not_take_the_old_one_along(tmp_path: Path) -> None:
    dest = tmp_path / "tree"
    dest.mkdir()
    (dest / "old").touch()
    with pytest.raises(FileNotFoundError), replacing_directory(dest) as temporary:
        temporary.rename(tmp_path / "elsewhere")
    assert names(dest) == ["old"]
    assert names(tmp_path) == ["elsewhere", "tree"]


def test_write_text_says_whether_anything_changed(tmp_path: Path) -> None:
    dest = tmp_path / "file"
    assert write_text(dest, "ä\n")
    before = dest.stat().st_ino
    assert not write_text(dest, "ä\n")
    assert dest.stat().st_ino == before
    assert write_text(dest, "ä\n", mode=0o600)
    assert mode(dest) == 0o600
    assert write_text(dest, "other\n", mode=0o600)


@pytest.mark.parametrize("before", [b"\xff\xfe not text", b"line\r\n"], ids=["no UTF-8", "other line ends"])
def test_write_text_compares_bytes(tmp_path: Path, before: bytes) -> None:
    dest = tmp_path / "file"
    dest.write_bytes(before)
    assert write_text(dest, "line\n")
    assert dest.read_bytes() == b"line\n"


def test_equal_data_gives_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": [2, {"b": 0, "a": None}]})
    write_json(tmp_path / "b", {"y": [2, {"a": None, "b": 0}], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
