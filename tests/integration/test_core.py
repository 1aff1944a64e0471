# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Core images, made and judged by the tools of the SDK (environment FLEET_SDK, else build/sdk/current)."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._image.core import (
    BLOCK,
    FORMATS,
    Verity,
    add_verity,
    make_file_system,
)
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, Sandbox

EPOCH = 1795305600
SIZE = 1_500_000  # bytes of incompressible content

pytestmark = [
    pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: set FLEET_SDK, or build it with 'make build'"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed: run 'make host'"),
    pytest.mark.parametrize("root_format", FORMATS),
]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    (tmp_path / "scratch").mkdir()
    return Sandbox(SDK, tmp_path / "scratch")


def make_tree(root: Path, *, backwards: bool = False) -> Path:
    """A small tree; its files may be made in another order and at another time."""
    content = {f"usr/lib/file{number}": b"%d\n" % number for number in range(20)}
    content["usr/lib/large"] = random.Random(1).randbytes(SIZE)
    for name, data in reversed(content.items()) if backwards else content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o644)
        if backwards:
            os.utime(path, (1, 1))
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin").mkdir()
    os.link(root / "usr/lib/file1", root / "usr/bin/hard")
    return root


def build(sandbox: Sandbox, tree: Path, directory: Path, root_format: str) -> tuple[Path, Verity]:
    directory.mkdir()
    image, log = directory / "core.img", directory.parent / "log"
    make_file_system(sandbox, Layers((tree,)), image, root_format=root_format, epoch=EPOCH, log=log)
    verity = add_verity(sandbox, image, salt_seed="seed", log=log)
    assert os.listdir(directory) == ["core.img"]
    return image, verity


def verify(sandbox: Sandbox, image: Path, verity: Verity, *, repair: bool) -> Completed:
    path = "/run/in"
    parity = [f"--fec-device={path}", f"--fec-offset={verity.fec_offset}", f"--fec-roots={verity.fec_roots}"]
    return sandbox.run(
        ["veritysetup", "verify", f"--hash-offset={verity.hash_offset}", *(parity if repair else []), path, path,
         verity.root_hash],
        binds=[Bind(image, path)],
        check=False,
    )  # fmt: skip


def damage(image: Path, offset: int, length: int) -> None:
    with image.open("r+b") as stream:
        stream.seek(offset)
        before = stream.read(length)
        stream.seek(offset)
        stream.write(bytes(byte ^ 0xFF for byte in before))


def test_same_tree_gives_the_same_bytes(sandbox: Sandbox, tmp_path: Path, root_format: str) -> None:
    one, verity = build(sandbox, make_tree(tmp_path / "tree"), tmp_path / "one", root_format)
    other, again = build(sandbox, make_tree(tmp_path / "copy", backwards=True), tmp_path / "other", root_format)
    assert verity == again
    assert one.read_bytes() == other.read_bytes()


def test_one_changed_byte_of_a_file_changes_the_root_hash(sandbox: Sandbox, tmp_path: Path, root_format: str) -> None:
    tree = make_tree(tmp_path / "tree")
    _image, before = build(sandbox, tree, tmp_path / "one", root_format)
    (tree / "usr/lib/file3").write_bytes(b"4\n")
    _image, after = build(sandbox, tree, tmp_path / "other", root_format)
    assert before.root_hash != after.root_hash


def test_layout_is_as_the_command_line_says(sandbox: Sandbox, tmp_path: Path, root_format: str) -> None:
    image, verity = build(sandbox, make_tree(tmp_path / "tree"), tmp_path / "out", root_format)
    assert image.stat().st_size == verity.size
    assert verity.hash_offset % BLOCK == verity.fec_offset % BLOCK == 0
    assert SIZE < verity.hash_offset < verity.fec_offset < verity.size
    with image.open("rb") as stream:
        stream.seek(verity.hash_offset)
        assert stream.read(6) == b"verity"  # the superblock that superblock=yes speaks of


def test_smaller_tree_over_a_larger_image(sandbox: Sandbox, tmp_path: Path, root_format: str) -> None:
    """What an earlier run left under the name does not shine through."""
    tree = make_tree(tmp_path / "tree")
    image, _verity = build(sandbox, tree, tmp_path / "out", root_format)
    (tree / "usr/lib/large").unlink()
    make_file_system(sandbox, Layers((tree,)), image, root_format=root_format, epoch=EPOCH, log=tmp_path / "log")
    verity = add_verity(sandbox, image, salt_seed="seed", log=tmp_path / "log")
    assert verity.size < SIZE
    _fresh, expected = build(sandbox, tree, tmp_path / "fresh", root_format)
    assert verity == expected


@pytest.mark.parametrize("place", ["data", "hash tree"])
def test_damage_is_found_and_can_be_repaired(sandbox: Sandbox, tmp_path: Path, root_format: str, place: str) -> None:
    image, verity = build(sandbox, make_tree(tmp_path / "tree"), tmp_path / "out", root_format)
    assert verify(sandbox, image, verity, repair=False).returncode == 0
    # The first block behind the superblock is the root of the hash tree.
    damage(image, 5 * BLOCK + 100 if place == "data" else verity.hash_offset + BLOCK + 3, 1)
    found = verify(sandbox, image, verity, repair=False)
    assert found.returncode != 0
    assert "Verification" in found.stderr
    repaired = verify(sandbox, image, verity, repair=True)
    assert repaired.returncode == 0, repaired.stderr
    assert "repairable errors with FEC device" in repaired.stderr


def test_without_its_parity_damage_stays(sandbox: Sandbox, tmp_path: Path, root_format: str) -> None:
    """It is the stored parity that repairs: with that destroyed too, nothing does."""
    image, verity = build(sandbox, make_tree(tmp_path / "tree"), tmp_path / "out", root_format)
    damage(image, 5 * BLOCK, 1)
    damage(image, verity.fec_offset, verity.size - verity.fec_offset)
    assert verify(sandbox, image, verity, repair=True).returncode != 0


def test_more_damage_than_the_parity_covers(sandbox: Sandbox, tmp_path: Path, root_format: str) -> None:
    image, verity = build(sandbox, make_tree(tmp_path / "tree"), tmp_path / "out", root_format)
    damage(image, BLOCK, 200 * BLOCK)
    assert verify(sandbox, image, verity, repair=True).returncode != 0


def test_other_root_hash_opens_nothing(sandbox: Sandbox, tmp_path: Path, root_format: str) -> None:
    image, verity = build(sandbox, make_tree(tmp_path / "tree"), tmp_path / "out", root_format)
    forged = Verity(**{**verity.as_dict(), "root_hash": "0" * 64})  # type: ignore[arg-type]
    assert verify(sandbox, image, forged, repair=True).returncode != 0
