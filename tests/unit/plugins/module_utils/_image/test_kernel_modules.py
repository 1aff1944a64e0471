# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.kernel_modules import (
    KernelModules,
    read_module,
    release_of,
)

RELEASE = "6.12.0-amd64"
# File name as the package holds it, and what modules.order (written when the kernel was built) calls it.
FILES = {
    "kernel/drivers/md/dm-crypt.ko.xz": "kernel/drivers/md/dm-crypt.o",
    "kernel/drivers/md/dm-mod.ko.xz": "kernel/drivers/md/dm-mod.ko",
    "kernel/fs/ext4/ext4.ko": "kernel/fs/ext4/ext4.ko",
    "kernel/fs/jbd2/jbd2.ko": "kernel/fs/jbd2/jbd2.ko",
    "kernel/lib/crc32c_generic.ko": "kernel/lib/crc32c_generic.ko",
    "kernel/arch/crc32c-intel.ko": "kernel/arch/crc32c-intel.ko",
    "kernel/fs/nls/nls_iso8859-1.ko": "kernel/fs/nls/nls_iso8859-1.ko",
}
TEXTS = {
    "modules.order": "\n".join([*FILES.values(), "kernel/drivers/gone/gone.o"]),
    "modules.builtin": "kernel/fs/configfs/configfs.ko\n",
    "modules.builtin.modinfo": "configfs.license=GPL\0",
    "modules.dep": (
        "kernel/drivers/md/dm-crypt.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n"
        "kernel/drivers/md/dm-mod.ko.xz:\n"
        "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\n"
    ),
    "modules.softdep": (
        "# Soft dependencies extracted from modules themselves.\n"
        "softdep ext4 pre: crc32c\n"
        "softdep jbd2 post: configfs no-such-thing\n"
        "softdep dm_mod\n"
    ),
    "modules.alias": "alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias fs-ext4 ext4\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "tree/usr/lib/modules" / RELEASE
    for name in FILES:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        content = f"code of {name}".encode()
        (directory / name).write_bytes(lzma.compress(content) if name.endswith(".xz") else content)
    for name, text in TEXTS.items():
        (directory / name).write_text(text)
    return tmp_path / "tree"


@pytest.fixture
def modules(tree: Path) -> KernelModules:
    return KernelModules(tree, RELEASE)


def names(paths: list[Path]) -> set[str]:
    return {path.name.split(".")[0] for path in paths}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([], set()),
        (["jbd2"], {"jbd2"}),
        (["dm-crypt"], {"dm-crypt", "dm-mod"}),
        (["dm_crypt"], {"dm-crypt", "dm-mod"}),
        (["dm-crypt", "dm_mod", "dm_crypt"], {"dm-crypt", "dm-mod"}),
        (["nls_iso8859-1"], {"nls_iso8859-1"}),
        (["ext4"], {"ext4", "jbd2", "crc32c-intel", "crc32c_generic"}),
        (["configfs"], set()),
    ],
    ids=["none", "alone", "dash", "underscore", "repeated", "dash in the file name", "soft alias", "built in"],
)
def test_closure(modules: KernelModules, wanted: list[str], found: set[str]) -> None:
    assert names(modules.closure(wanted)) == found


def test_closure_names_files_as_they_are(modules: KernelModules) -> None:
    assert modules.closure(["dm-crypt"]) == [
        Path("kernel/drivers/md/dm-crypt.ko.xz"),
        Path("kernel/drivers/md/dm-mod.ko.xz"),
    ]


def test_unknown_names_are_all_listed(modules: KernelModules) -> None:
    """One is only in modules.order: the package does not hold its file."""
    with pytest.raises(FleetError, match=f"kernel {RELEASE} has no module named: e1000x, gone, no_such\nRemedy"):
        modules.closure(["no-such", "ext4", "gone", "e1000x"])


def test_module_bytes(tree: Path) -> None:
    directory = tree / "usr/lib/modules" / RELEASE
    assert read_module(directory / "kernel/fs/ext4/ext4.ko") == b"code of kernel/fs/ext4/ext4.ko"
    assert read_module(directory / "kernel/drivers/md/dm-mod.ko.xz") == b"code of kernel/drivers/md/dm-mod.ko.xz"


def test_the_one_kernel_of_a_tree(tree: Path) -> None:
    assert release_of(tree) == RELEASE


@pytest.mark.parametrize("releases", [[], ["6.12.0", "6.13.0"]])
def test_tree_without_exactly_one_kernel(tmp_path: Path, releases: list[str]) -> None:
    for release in releases:
        (tmp_path / "usr/lib/modules" / release).mkdir(parents=True)
    with pytest.raises(FleetError, match=f"found: {', '.join(releases) or 'none'}"):
        release_of(tmp_path)
