# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Package

APT_HELPER = Path("/usr/lib/apt/apt-helper")
downloads = pytest.mark.skipif(not APT_HELPER.exists(), reason="apt-helper is not installed: this is no Debian system")

Publish = Callable[[str], Package]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "assets")


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Put a file of some name into the mirror and return what a lock file says about it."""

    def call(name: str) -> Package:
        content = f"content of {name}".encode()
        path = f"pool/main/{name}_1.0+b1~2_all.deb"
        file = tmp_path / "mirror" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return Package(name, "1.0", "all", f"{name}=1.0", "debian", path, len(content), digest, ("core",))

    return call


@pytest.fixture
def mirrors(tmp_path: Path) -> dict[str, str]:
    return {"debian": f"file://{tmp_path}/mirror/"}


@downloads
def test_fetched_files_are_files_of_their_own(
    store: Store, publish: Publish, mirrors: dict[str, str], tmp_path: Path
) -> None:
    packages = [publish(f"package{number}") for number in range(30)]
    seen: list[tuple[int, int]] = []
    assert sorted(store.fetch(packages, mirrors, lambda done, total: seen.append((done, total)))) == sorted(packages)
    assert seen[-1] == (sum(package.size for package in packages),) * 2
    for package in packages:
        path = store.path(package.sha256)
        assert not path.is_symlink()
        assert path.read_bytes() == (tmp_path / "mirror" / package.path).read_bytes()
        assert path.stat().st_mode & 0o222 == 0
        assert (tmp_path / "mirror" / package.path).stat().st_mode & 0o200
    assert store.missing(packages) == store.damaged(packages) == []
    assert sorted(os.listdir(store.root)) == ["objects"]


@downloads
def test_what_is_there_needs_no_mirror(store: Store, publish: Publish, mirrors: dict[str, str]) -> None:
    package = publish("apt")
    store.fetch([package], mirrors)
    assert store.fetch([package], {}) == []


@downloads
def test_changed_byte_is_refused(store: Store, publish: Publish, mirrors: dict[str, str], tmp_path: Path) -> None:
    good, bad = publish("good"), publish("bad")
    (tmp_path / "mirror" / bad.path).write_bytes(b"Content of bad")
    with pytest.raises(FleetError, match=r"1 of 2 locked packages.*\n  bad=1\.0: .*Hash Sum mismatch"):
        store.fetch([good, bad], mirrors)
    assert store.missing([good, bad]) == [bad]
    assert not store.path(bad.sha256).exists()


@downloads
def test_missing_files_are_listed_with_the_remedy(store: Store, publish: Publish, mirrors: dict[str, str]) -> None:
    packages = [publish(name) for name in ("here", "gone", "lost")]
    for package in packages[1:]:
        Path(mirrors["debian"].removeprefix("file://"), package.path).unlink()
    with pytest.raises(FleetError) as caught:
        store.fetch(packages, mirrors)
    message = str(caught.value)
    assert "2 of 3 locked packages could not be fetched" in message
    assert "gone=1.0: did not arrive (E: Failed to fetch" in message
    assert "lost=1.0: did not arrive (E: Failed to fetch" in message
    assert "Remedy: if the archive has moved on, run the playbook 'lock' again" in message
    assert "fleet_mirrors" in message
    assert not store.missing(packages[:1])
    assert sorted(os.listdir(store.root)) == ["objects"]


def test_archive_without_a_mirror(store: Store, publish: Publish) -> None:
    with pytest.raises(FleetError, match="fleet_mirrors: no mirror for archive 'debian'"):
        store.fetch([publish("apt")], {"security": "file:///nowhere"})


def test_file_with_other_content_is_not_taken_in(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abd")
    expected = hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(FleetError, match=f"the lock file says {expected}"):
        store.add(tmp_path / "file", expected)
    assert not store.path(expected).exists()


def test_truncated_and_changed_objects(store: Store, publish: Publish) -> None:
    truncated, changed, good = packages = [publish(name) for name in ("truncated", "changed", "good")]
    for package, content in zip(packages, (b"c", b"Content of changed", b"content of good"), strict=True):
        store.path(package.sha256).parent.mkdir(parents=True, exist_ok=True)
        store.path(package.sha256).write_bytes(content)
    assert store.missing(packages) == [truncated]
    assert store.damaged(packages) == [changed]
    assert good not in store.missing([good])
