# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases are published whole or not at all, and leave by rule."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from releases import write_release

from ansible_collections.vauban.fleet.plugins.module_utils import _release_store
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._release_store import Release, Store, read


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def published(store: Store) -> list[str]:
    return sorted(str(path.relative_to(store.path)) for path in store.path.glob("[!.]*/*"))


def publish(store: Store, directory: Path, *, seed: int = 0) -> Release:
    product, version = directory.name.split("_")
    write_release(directory, product, version, seed=seed)
    release = read(directory)
    store.publish(release, directory)
    return release


def test_published_release_has_all_files_and_nothing_else(store: Store, tmp_path: Path) -> None:
    release = publish(store, tmp_path / "gateway_0.1.0")
    place = store.path / "gateway/0.1.0"
    assert {path.name for path in place.iterdir()} == {path.name for path in (tmp_path / "gateway_0.1.0").iterdir()}
    for path in place.iterdir():
        assert path.read_bytes() == (tmp_path / "gateway_0.1.0" / path.name).read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert {stat.S_IMODE(path.stat().st_mode) for path in (store.path, place.parent, place)} == {0o755}
    assert stat.S_IMODE((store.path / _release_store.INCOMING).stat().st_mode) == 0o700
    assert list((store.path / _release_store.INCOMING).iterdir()) == []
    assert store.missing([release], replace=False) == []


@pytest.mark.parametrize("name", ["core.erofs", "gateway_0.1.0_installer.efi", "manifest.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damaged_release_is_not_published(store: Store, tmp_path: Path, name: str, damage: str) -> None:
    source = write_release(tmp_path / "release", "gateway", "0.1.0")
    release = read(source)
    content = (source / name).read_bytes()
    if damage == "missing":
        (source / name).unlink()
    else:
        (source / name).write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if damage == "changed" else b""))
    with pytest.raises((FleetError, FileNotFoundError)):
        store.publish(release, source)
    assert published(store) == []
    assert list((store.path / _release_store.INCOMING).iterdir()) == []


def test_what_an_interrupted_run_left_is_removed(store: Store, tmp_path: Path) -> None:
    left = store.path / _release_store.INCOMING / "gateway-cut"
    left.mkdir(parents=True)
    (left / "core.erofs").write_bytes(b"half")
    publish(store, tmp_path / "gateway_0.1.0")
    assert not left.exists()
    assert published(store) == ["gateway/0.1.0"]


def test_another_release_of_the_same_version_takes_its_place_only_when_told(store: Store, tmp_path: Path) -> None:
    publish(store, tmp_path / "gateway_0.1.0")
    other = read(write_release(tmp_path / "other", "gateway", "0.1.0", seed=1))
    with pytest.raises(FleetError, match="another release of this version is published"):
        store.missing([other], replace=False)
    assert store.missing([other], replace=True) == [other]
    store.publish(other, tmp_path / "other")
    assert store.missing([other], replace=False) == []
    assert published(store) == ["gateway/0.1.0"]


@pytest.mark.parametrize("name", ["core.erofs", "manifest.json"])
def test_release_that_lost_a_file_counts_as_another(store: Store, tmp_path: Path, name: str) -> None:
    release = publish(store, tmp_path / "gateway_0.1.0")
    (store.path / "gateway/0.1.0" / name).unlink()
    with pytest.raises((FleetError, FileNotFoundError)):
        store.missing([release], replace=False)


@pytest.mark.parametrize(
    ("held", "keep", "gone"),
    [
        ([], 0, ["gateway/1", "gateway/2", "server/1"]),
        ([], 1, ["gateway/1"]),
        ([], 5, []),
        (["gateway/1"], 0, ["gateway/2", "server/1"]),
        (["gateway/1"], 1, []),
        (["gateway/2", "server/1", "server/7"], 0, ["gateway/1"]),
    ],
)
def test_old_releases_leave_by_rule(store: Store, tmp_path: Path, held: list[str], keep: int, gone: list[str]) -> None:
    releases = {name: publish(store, tmp_path / name) for name in ("gateway_1", "gateway_2", "gateway_3", "server_1")}
    for age, name in enumerate(releases):
        os.utime(store.path / name.replace("_", "/"), (1000 + age, 1000 + age))
    assert store.surplus([releases["gateway_3"]], held, keep) == gone
    for name in gone:
        store.remove(name)
    names = {name.replace("_", "/") for name in releases}
    assert published(store) == sorted(names - set(gone))
    # A product without releases has no directory, either.
    assert {path.name for path in store.path.iterdir()} >= {name.split("/")[0] for name in names - set(gone)}
    assert ("server" in os.listdir(store.path)) == ("server/1" not in gone)


def test_names_of_the_manifest_are_plain(tmp_path: Path) -> None:
    source = write_release(tmp_path / "release", "gateway", "0.1.0")
    manifest = json.loads((source / "manifest.json").read_text())
    for place, value in (("product", "../x"), ("version", ".hidden")):
        (source / "manifest.json").write_text(json.dumps({**manifest, place: value}))
        with pytest.raises(FleetError, match="not a plain name"):
            read(source)
    (source / "manifest.json").write_text(json.dumps({**manifest, "sbom": {**manifest["sbom"], "file": "../x"}}))
    with pytest.raises(FleetError, match="not a plain name"):
        read(source)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.p7s", "core.erofs"])
def test_incomplete_release_is_named(tmp_path: Path, name: str) -> None:
    source = write_release(tmp_path / "release", "gateway", "0.1.0")
    (source / name).unlink()
    with pytest.raises(FleetError, match="missing") as caught:
        read(source)
    assert name in str(caught.value)


def test_links_are_not_followed_out_of_the_store(store: Store, tmp_path: Path) -> None:
    """What is removed is the link."""
    publish(store, tmp_path / "gateway_1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    shutil.rmtree(store.path / "gateway/1")
    (store.path / "gateway/1").mkdir()
    (store.path / "gateway/1/link").symlink_to(outside)
    store.remove("gateway/1")
    assert (outside / "kept").exists()


def test_full_disk_is_named_and_what_was_published_stays(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, tmp_path / "gateway_1")

    def full(source: Path, dest: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(dest))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(FleetError, match=r"No space left on device\nRemedy: gateway/2 has [0-9]+ bytes: make room"):
        publish(store, tmp_path / "gateway_2")
    assert published(store) == ["gateway/1"]


def test_moved_files_need_no_room_twice(store: Store, tmp_path: Path) -> None:
    write_release(tmp_path / "release", "gateway", "1")
    release = read(tmp_path / "release")
    inodes = {path.stat().st_ino for path in (tmp_path / "release").iterdir()}
    store.publish(release, tmp_path / "release", move=True)
    assert {path.stat().st_ino for path in (store.path / "gateway/1").iterdir()} == inodes
