# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._image import finalize


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tree"
    for name in ("etc", "usr/bin", "usr/lib/tmpfiles.d", "usr/sbin", "var/lib/dpkg/info"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    monkeypatch.setattr(finalize, "TREE", root)
    return root


def write(root: Path, name: str, text: str = "", mode: int = 0o644) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def link(root: Path, name: str, target: str) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(target)
    return root / name


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


@pytest.mark.parametrize(
    ("links", "path", "exists"),
    [
        ({}, "usr/bin/sh", True),
        ({}, "usr/bin/bash", False),
        ({"usr/bin/a": "sh"}, "usr/bin/a", True),
        ({"usr/bin/a": "/usr/bin/sh"}, "usr/bin/a", True),
        ({"usr/bin/a": "/bin/sh"}, "usr/bin/a", True),
        ({"usr/bin/a": "../../bin/sh"}, "usr/bin/a", True),
        ({"usr/bin/a": "../../../../../../bin/sh"}, "usr/bin/a", True),
        ({"usr/bin/a": "b", "usr/bin/b": "sh"}, "usr/bin/a", True),
        ({"usr/bin/a": "b", "usr/bin/b": "c"}, "usr/bin/a", False),
        ({"usr/bin/a": "b", "usr/bin/b": "a"}, "usr/bin/a", False),
        ({"usr/bin/a": "a"}, "usr/bin/a", False),
        ({"opt": "/usr/bin", "usr/bin/a": "/opt/sh"}, "usr/bin/a", True),
        ({"opt": "/usr/lib", "usr/bin/a": "/opt/sh"}, "usr/bin/a", False),
        ({"usr/bin/a": "/etc/hostname"}, "usr/bin/a", False),
        ({"usr/bin/a": "/"}, "usr/bin/a", True),
    ],
)
def test_links_are_followed_as_on_the_running_machine(
    tree: Path, links: Mapping[str, str], path: str, exists: bool
) -> None:
    """The last but one names a file that the building machine may have and the tree has not."""
    write(tree, "usr/bin/sh")
    for name, target in links.items():
        link(tree, name, target)
    assert finalize._exists(tree / path) is exists


@pytest.mark.parametrize(
    ("name", "target", "stays"),
    [
        ("etc/alternatives/awk", "/usr/bin/mawk", False),
        ("usr/bin/awk", "../bin/mawk", False),
        ("usr/bin/sh2", "sh", True),
        ("usr/lib/directory", "../bin", True),
        ("etc/mtab", "../proc/self/mounts", True),
        ("etc/mtab", "/proc/self/mounts", True),
        ("etc/resolv.conf", "/run/systemd/resolve/stub-resolv.conf", True),
        ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf", True),
        ("etc/devices", "/dev/null", True),
        ("etc/machine", "/state/etc/machine", True),
        ("etc/spool", "../var/spool/nothing", True),
        ("etc/variable", "/variable/nothing", False),
        ("usr/lib/runner", "../running/nothing", False),
    ],
)
def test_dangling_links_go_unless_they_lead_to_a_mount(tree: Path, name: str, target: str, stays: bool) -> None:
    write(tree, "usr/bin/sh")
    path = link(tree, name, target)
    finalize._remove_dangling_links()
    assert path.is_symlink() is stays


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (0o4755, 0o755),
        (0o2755, 0o755),
        (0o6711, 0o711),
        (0o666, 0o664),
        (0o777, 0o775),
        (0o1644, 0o1644),
        (0o640, 0o640),
        (0o000, 0o000),
    ],
)
def test_modes_of_files(tree: Path, before: int, after: int) -> None:
    path = write(tree, "usr/bin/x", mode=before)
    finalize._normalise({})
    assert mode(path) == after


@pytest.mark.parametrize(
    ("before", "after"), [(0o1777, 0o1775), (0o2775, 0o775), (0o777, 0o775), (0o700, 0o700), (0o1755, 0o1755)]
)
def test_modes_of_directories(tree: Path, before: int, after: int) -> None:
    (tree / "srv").mkdir()
    (tree / "srv").chmod(before)
    finalize._normalise({})
    assert mode(tree / "srv") == after


def test_link_to_the_building_machine_is_left_alone(tree: Path, tmp_path: Path) -> None:
    outside = write(tmp_path, "outside", mode=0o666)
    link(tree, "etc/outside", str(outside))
    finalize._normalise({})
    assert mode(outside) == 0o666


def test_mount_points_are_made_empty(tree: Path) -> None:
    write(tree, "boot/vmlinuz")
    link(tree, "tmp", "/var/tmp")
    before = os.umask(0o077)
    try:
        finalize._normalise({"/boot": "0700", "/tmp": "0755", "/state": "0755", "/proc": "0555"})
    finally:
        os.umask(before)
    for name, expected in {"boot": 0o700, "tmp": 0o755, "state": 0o755, "proc": 0o555}.items():
        assert mode(tree / name) == expected
        assert not (tree / name).is_symlink()
        assert not list((tree / name).iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set file capabilities")
def test_file_capability_is_removed(tree: Path) -> None:
    path = write(tree, "usr/bin/ping", mode=0o755)
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    finalize._normalise({})
    assert "security.capability" not in os.listxattr(path)


def test_scripts_of_removed_interpreters_go(tree: Path) -> None:
    scripts = {
        "usr/bin/a": ("#!/usr/bin/perl -w\n", 0o755),
        "usr/bin/b": ("#! /usr/bin/env python3\n", 0o755),
        "usr/bin/c": ("#!/bin/sh\nexec perl\n", 0o755),
        "usr/bin/d": ("#!/usr/bin/perl\n", 0o644),
        "usr/bin/e": ("\x7fELF perl", 0o755),
    }
    for name, (text, bits) in scripts.items():
        write(tree, name, text, bits)
    finalize._remove_interpreted(("perl", "python"))
    assert sorted(path.name for path in (tree / "usr/bin").iterdir()) == ["c", "d", "e"]


def test_owners_are_found_through_the_merged_usr(tree: Path) -> None:
    write(tree, "var/lib/dpkg/info/bash.list", "/.\n/bin\n/bin/bash\n/usr/share/doc\n/etc/missing\n")
    write(tree, "var/lib/dpkg/info/libc6:amd64.list", "/lib/ld.so\n")
    write(tree, "var/lib/dpkg/info/removed.list", "/usr/bin/removed\n")
    for name in ("usr/bin/bash", "usr/lib/ld.so", "usr/bin/removed"):
        write(tree, name)
    (tree / "usr/share/doc").mkdir(parents=True)
    owners = finalize._owners({"bash": "5", "libc6": "2"})
    assert owners["usr/bin/bash"] == "bash"
    assert owners["usr/lib/ld.so"] == "libc6"
    assert "usr/share/doc" not in owners
    assert "usr/bin/removed" not in owners


def test_origin_of_each_file(tree: Path) -> None:
    for name in ("etc/fstab", "etc/group", "usr/bin/bash", "usr/bin/stranger"):
        write(tree, name)
    aliases = dict.fromkeys(("bin", "lib", "sbin"), "base-files")
    origin, unexplained = finalize._origin(
        {"usr/bin/bash": "bash", "etc/fstab": "util-linux", **aliases},
        {"bash": "5.2", "base-files": "13", "util-linux": "2"},
        {"/etc/fstab": "role core: lay down"},
        {"/etc/g*": "maintainer scripts"},
    )
    assert origin["/etc/fstab"] == "role core: lay down"
    assert origin["/etc/group"] == "generated: maintainer scripts"
    assert origin["/usr/bin/bash"] == "package bash=5.2"
    assert origin["/bin"] == "package base-files=13"
    assert unexplained == ["/usr/bin/stranger"]


def test_directories_of_state_become_tmpfiles_entries(tree: Path) -> None:
    for name in ("lib/chrony", "lib/other", "log", "cache/apt"):
        (tree / "var" / name).mkdir(parents=True, exist_ok=True)
    (tree / "var/lib/chrony").chmod(0o750)
    link(tree, "var/run", "/run")
    finalize._write_var_skeleton(["/var/lib", "/var/lib/chrony", "/var/log", "/var/run", "/var/cache/apt"])
    lines = (tree / "usr/lib/tmpfiles.d/vauban-var.conf").read_text().splitlines()[1:]
    owner = f"{os.geteuid()} {os.getegid()}"
    assert lines == [f"d /var/lib 0755 {owner} -", f"d /var/lib/chrony 0750 {owner} -", f"d /var/log 0755 {owner} -"]
