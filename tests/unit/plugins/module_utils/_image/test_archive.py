# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.archive import (
    TOP,
    Entry,
    collection_files,
    download_wheels,
    write_archive,
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o750)
    return path


def test_same_entries_give_the_same_bytes(tmp_path: Path, script: Path) -> None:
    entries = [Entry("b/script", script), Entry("a", b"text"), Entry("c" * 200, b"long name")]
    write_archive(tmp_path / "first.tar", entries, epoch=1000)
    os.utime(script, (1, 1))
    script.chmod(0o700)
    write_archive(tmp_path / "second.tar", entries[::-1], epoch=1000)
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()
    with tarfile.open(tmp_path / "first.tar") as tar:
        found = {member.name: (member.mode, member.mtime, member.uid, member.uname) for member in tar}
    assert found == {
        f"{TOP}/a": (0o644, 1000, 0, ""),
        f"{TOP}/b/script": (0o755, 1000, 0, ""),
        f"{TOP}/{'c' * 200}": (0o644, 1000, 0, ""),
    }


def test_link_stays_a_link(tmp_path: Path, script: Path) -> None:
    (tmp_path / "link").symlink_to("script")
    write_archive(tmp_path / "archive.tar", [Entry("link", tmp_path / "link")], epoch=0)
    with tarfile.open(tmp_path / "archive.tar") as tar:
        assert tar.getmember(f"{TOP}/link").linkname == "script"


def test_archive_has_its_name_only_when_it_is_whole(tmp_path: Path, script: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_archive(tmp_path / "out/archive.tar", [Entry("a", b""), Entry("b", tmp_path / "gone")], epoch=0)
    assert list((tmp_path / "out").glob("*")) == []


def test_progress_ends_at_the_sum(tmp_path: Path, script: Path) -> None:
    seen: list[tuple[int, int]] = []
    entries = [Entry("a", b"12345"), Entry("b", script)]
    write_archive(tmp_path / "archive.tar", entries, epoch=0, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5, 15), (15, 15)]


def test_checkout_is_what_git_tracks_and_still_exists(tmp_path: Path) -> None:
    for name in ("kept", "deleted", "untracked"):
        (tmp_path / name).touch()
    for command in (["init"], ["add", "kept", "deleted"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, capture_output=True)
    (tmp_path / "deleted").unlink()
    assert collection_files(tmp_path) == [tmp_path / "kept"]


def test_installed_collection_is_what_its_list_names(tmp_path: Path) -> None:
    files = [{"name": ".", "ftype": "dir"}, {"name": "README.md", "ftype": "file"}]
    (tmp_path / "FILES.json").write_text(json.dumps({"files": files}))
    for name in ("MANIFEST.json", "README.md", "other"):
        (tmp_path / name).touch()
    assert [path.name for path in collection_files(tmp_path)] == ["FILES.json", "MANIFEST.json", "README.md"]


def test_directory_that_is_no_collection(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="neither a git checkout nor an installed collection"):
        collection_files(tmp_path)


def test_wheels_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"nosuch==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(FleetError, match=r"pip could not fetch the Python packages:\n.*nosuch==1\.0"):
        download_wheels([requirements], tmp_path / "wheels")
    assert not (tmp_path / "wheels").exists()
