# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in the core, and what is not; looked at from outside, without booting it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

DEVELOPMENT = ("python*", "perl*", "gcc*", "cc", "c++", "g++", "clang*", "ld", "as", "make", "tclsh*", "ruby*", "lua*")
PACKAGING = ("apt*", "dpkg*", "debconf*")
ACCOUNTS = ("su", "sudo*", "doas", "pkexec", "login", "agetty", "getty", "sulogin", "passwd", "chsh", "newgrp")
PROGRAM_DIRECTORIES = ("usr/bin", "usr/sbin", "usr/libexec", "usr/local/bin", "usr/local/sbin")


@pytest.fixture(scope="module")
def tree(release: Path, manifest: dict[str, Any], sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core, unpacked with its modes and extended attributes."""
    if os.geteuid() != 0:
        pytest.skip("only root can unpack an image with the owners and modes of its files")
    out = tmp_path_factory.mktemp("core")
    binds = [Bind(release / manifest["core"]["file"], "/run/core"), Bind(out, "/run/out", writable=True)]
    command = ["fsck.erofs", "--extract=/run/out/tree", "--preserve", "--xattrs", "/run/core"]
    sandbox.run(command, binds=binds, privileged=True)
    return out / "tree"


def _files(tree: Path) -> list[tuple[Path, os.stat_result]]:
    found = [path for path in tree.rglob("*") if not path.is_symlink()]
    assert len(found) > 1000
    return [(path, path.lstat()) for path in found]


def _programs(tree: Path, patterns: tuple[str, ...]) -> list[str]:
    directories = [tree / name for name in PROGRAM_DIRECTORIES]
    return [str(path.relative_to(tree)) for each in directories for pattern in patterns for path in each.glob(pattern)]


def test_no_setuid_or_setgid_file(tree: Path) -> None:
    assert [path for path, status in _files(tree) if status.st_mode & (stat.S_ISUID | stat.S_ISGID)] == []


def test_no_file_capability(tree: Path) -> None:
    assert [path for path, _status in _files(tree) if "security.capability" in os.listxattr(path)] == []


def test_nothing_is_world_writable(tree: Path) -> None:
    assert [path for path, status in _files(tree) if status.st_mode & stat.S_IWOTH] == []


def test_no_device_node(tree: Path) -> None:
    assert [path for path, status in _files(tree) if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)] == []


def test_no_interpreter_or_compiler(tree: Path) -> None:
    assert _programs(tree, DEVELOPMENT) == []
    assert list(tree.glob("usr/lib/python3*")) == []


def test_no_package_management(tree: Path) -> None:
    assert _programs(tree, PACKAGING) == []
    assert not (tree / "var/lib/dpkg").exists()


def test_no_program_that_changes_the_user(tree: Path) -> None:
    assert _programs(tree, ACCOUNTS) == []


def test_nobody_has_a_password(tree: Path) -> None:
    fields = [line.split(":") for line in (tree / "etc/shadow").read_text().splitlines()]
    assert [name for name, password, *_rest in fields if password not in ("*", "!", "!*")] == []


def test_root_has_no_shell(tree: Path) -> None:
    lines = (tree / "etc/passwd").read_text().splitlines()
    assert [line.rsplit(":", 1)[1] for line in lines if line.startswith("root:")] == ["/usr/sbin/nologin"]


def test_nothing_tells_of_the_machine_that_built_it(tree: Path, manifest: dict[str, Any]) -> None:
    assert (tree / "etc/hostname").read_text() == f"{manifest['product']}\n"
    assert "nameserver" not in (tree / "etc/resolv.conf").read_text()
    assert (tree / "etc/machine-id").read_text() == ""
    assert list(tree.glob("etc/ssh/ssh_host_*")) == []
