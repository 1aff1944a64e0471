# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._image import packages

STATUS = """\
Package: age
Version: 1.2.1-1
Description: one
 Version: not this

Package: libc6
Version: 2.41-12
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (tmp_path / packages.STATUS).write_text(STATUS)
    (info / "age.list").write_text("/.\n/usr\n/usr/bin\n/usr/bin/age\n")
    (info / "libc6:amd64.list").write_text("/.\n/lib\n/lib/x86_64-linux-gnu/libc.so.6\n")
    (info / "gone.list").write_text("/etc/gone\n")
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ([], {}),
        (["usr/bin/age"], {"age": "1.2.1-1"}),
        (["/usr/bin/age", "usr/lib/x86_64-linux-gnu/libc.so.6"], {"age": "1.2.1-1", "libc6": "2.41-12"}),
        (["/lib/x86_64-linux-gnu/libc.so.6"], {"libc6": "2.41-12"}),
        (["/etc/ld.so.cache", "/etc/gone"], {}),
    ],
)
def test_package_of_a_file_is_found_through_the_merged_usr(tree: Path, paths: list[str], found: dict[str, str]) -> None:
    assert packages.owning(tree, paths) == found


def test_versions_are_read_from_the_status_file(tree: Path) -> None:
    assert packages.installed(tree) == {"age": "1.2.1-1", "libc6": "2.41-12"}
