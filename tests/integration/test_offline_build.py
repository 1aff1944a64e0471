# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds without a network, and what they say when something is missing that only a network could bring."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import builds
import pytest
from builds import Built, Place

from ansible_collections.vauban.fleet.plugins.module_utils._image import lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.archive import TOP
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store

NO_NETWORK = ("unshare", "--net", "--")
# How pip reaches an index on this machine.
PIP = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower().endswith("_proxy")}

Fail = Callable[..., str]


@pytest.fixture(scope="session")
def archive(reference: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What playbook export_assets writes. Wheels stay beside it between test runs."""
    place = Place.below(tmp_path_factory.mktemp("export"), **builds.REFERENCE, environment=PIP)
    builds.copy_checkout(place)
    done = place.play("export_assets")
    assert done.returncode == 0, done.stdout + done.stderr
    return builds.REFERENCE["build"] / "export/vauban.fleet-offline.tar"


@pytest.fixture
def offline(reference: Built, tmp_path: Path) -> Place:
    """An empty place with a checkout and the packages, and no network."""
    place = Place.below(tmp_path / "offline", prefix=NO_NETWORK)
    builds.copy_checkout(place)
    builds.link_assets(place)
    return place


@pytest.fixture
def fail(offline: Place) -> Fail:
    """Build, which has to fail with one error that says what to do; return all that was printed."""

    def call(**variables: object) -> str:
        done = offline.play("build", **variables)
        printed = done.stdout + done.stderr
        assert done.returncode != 0
        assert printed.count("Remedy:") == 1, printed
        assert "Traceback" not in printed
        return printed

    return call


def package_of(name: str) -> lock.Package:
    return next(package for package in lock.read(builds.LOCK).packages if package.name == name)


def test_archive_holds_what_it_says_and_is_the_same_each_time(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        members = {member.name.removeprefix(f"{TOP}/"): member for member in tar if member.isfile()}
    locked = lock.read(builds.LOCK)
    packages = {package.sha256 for name in builds.SETS for package in locked.of_set(name)}
    assert {Path(name).name for name in members if name.startswith("assets/")} == packages
    assert {"README", "python-version", "collection/Makefile", "collection/files/lock/trixie.lock.json"} <= set(members)
    for package in ("ansible_core", "ansible"):
        assert any(name.startswith(f"wheels/{package}-") for name in members), package
    assert not any(name.startswith(("collection/.git/", "collection/build/")) for name in members)
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, locked.epoch)}
    assert {member.mode for member in members.values()} <= {0o644, 0o755}

    again = Place.below(tmp_path / "again", **builds.REFERENCE, prefix=NO_NETWORK, environment={"TZ": "Asia/Tokyo"})
    builds.copy_checkout(again)
    before = builds.digest(archive)
    stamp = archive.with_name(f".{archive.name}.stage.json")
    stamp.unlink()
    done = again.play("export_assets")
    assert done.returncode == 0, done.stdout + done.stderr
    assert builds.digest(archive) == before


def test_damaged_archive_is_not_imported(archive: Path, tmp_path: Path) -> None:
    locked = package_of("systemd")
    with tarfile.open(archive) as tar:
        place = tar.getmember(f"{TOP}/assets/objects/{locked.sha256[:2]}/{locked.sha256}").offset_data
    damaged = tmp_path / "damaged.tar"
    shutil.copy(archive, damaged)
    with damaged.open("r+b") as stream:
        stream.seek(place + 1000)
        byte = stream.read(1)
        stream.seek(place + 1000)
        stream.write(bytes([byte[0] ^ 1]))
    script = Place.below(tmp_path / "importer")
    builds.copy_checkout(script)
    done = script.run("scripts/import-assets", str(damaged), str(tmp_path / "assets"))
    assert done.returncode != 0
    assert "damaged: " in done.stderr
    assert locked.sha256 in done.stderr
    assert "Remedy: copy it again, or export it again" in done.stderr
    assert not list((tmp_path / "assets").iterdir())


@pytest.mark.extended
def test_machine_without_a_network_builds_the_same_image_from_the_archive(
    archive: Path, reference: Built, tmp_path: Path
) -> None:
    """As docs/offline.md says: unpack, import, build; with an empty home and nothing else of the first machine."""
    subprocess.run(["tar", "--extract", f"--file={archive}", f"--directory={tmp_path}"], check=True)
    home, collection = tmp_path / "home", tmp_path / TOP / "collection"
    shutil.copytree(builds.REFERENCE["keys"], home / ".local/share/vauban.fleet/keys")
    environment = {
        "ANSIBLE_COLLECTIONS_PATH": "",
        "PIP_CONFIG_FILE": "/dev/null",
        "PYTHON": f"/usr/bin/python{builds.PYTHON_VERSION}",
    }
    place = Place.below(home, prefix=NO_NETWORK, environment=environment)
    build = ["build", f"PRODUCT={builds.PRODUCT}", "ARGS=--skip-tags disk_image"]
    for words in (["import", f"ARCHIVE={archive}"], build):
        done = place.run("make", *words, cwd=collection)
        assert done.returncode == 0, done.stdout + done.stderr
    built = Built(collection / "build" / builds.PRODUCT, done.stdout)
    assert built.digests() == reference.digests()
    assert built.provenance() == reference.provenance()
    assert (built.release / "manifest.json.p7s").is_file()
    done = place.run("make", "collections", cwd=collection)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (collection / "build/collections/ansible_collections/community/crypto/MANIFEST.json").is_file()
    again = place.run("make", *build, cwd=collection)
    assert again.returncode == 0
    assert "made:" not in again.stdout


def test_second_build_needs_no_network(reference: Built, tmp_path: Path) -> None:
    """Not even after a build with another lock file, which has left the link to the SDK on its own."""
    place = Place.below(tmp_path, **{**builds.REFERENCE, "build": tmp_path / "build"}, prefix=NO_NETWORK)
    builds.copy_checkout(place)
    _show(builds.REFERENCE["build"], place.build)
    (place.build / "sdk").unlink()
    _show(builds.REFERENCE["build"] / "sdk", place.build / "sdk")
    link, other = place.build / "sdk/current", Path("other/sdk.erofs")
    link.unlink()
    link.symlink_to(other)
    assert "made:" not in place.built().printed
    assert link.readlink() != other
    assert link.resolve().is_file()


def _show(source: Path, dest: Path) -> None:
    """Make a directory of links to what another has; its relative links are copied. Other tests use the original."""
    dest.mkdir()
    for path in source.iterdir():
        local = path.is_symlink() and not path.readlink().parts[0].startswith("..")
        (dest / path.name).symlink_to(path.readlink() if local else path.resolve())


def test_missing_package_without_a_network(offline: Place, fail: Fail) -> None:
    package = package_of("systemd")
    Store(offline.assets).path(package.sha256).unlink()
    mirrors = {"debian": "http://mirror.invalid/debian", "security": "http://mirror.invalid/debian-security"}
    printed = fail(fleet_mirrors=mirrors)
    assert "1 of 1 locked packages could not be fetched" in printed
    assert f"{package.label}: " in printed
    assert "import" in printed.partition("Remedy:")[2]


def test_damaged_package(offline: Place, fail: Fail) -> None:
    package = package_of("mmdebstrap")
    path = Store(offline.assets).path(package.sha256)
    content = path.read_bytes()
    path.unlink()  # it is a link into the cache
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    printed = fail()
    assert f"1 files are damaged: {package.label}" in printed
    assert not path.exists()


def test_package_that_left_the_archive(offline: Place, fail: Fail, tmp_path: Path) -> None:
    """Its successor is what the mirror serves now; what the mirror still has is taken."""
    gone, kept = package_of("systemd"), package_of("mmdebstrap")
    mirror = tmp_path / "mirror"
    for package in (gone, kept):
        path = Store(offline.assets).path(package.sha256)
        if package is kept:
            (mirror / package.path).parent.mkdir(parents=True)
            shutil.copy(path, mirror / package.path)
        path.unlink()
    printed = fail(fleet_mirrors={"debian": f"file://{mirror}", "security": f"file://{mirror}"})
    assert "1 of 2 locked packages could not be fetched" in printed
    assert f"{gone.label}: " in printed
    assert gone.path in printed
    remedy = printed.partition("Remedy:")[2]
    assert "'lock'" in remedy
    assert "snapshot mirror" in remedy
    assert not Store(offline.assets).missing([kept])


def test_python_that_the_wheels_are_not_for(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho 3.99\n")
    other.chmod(0o755)
    script = Place.below(tmp_path / "importer", environment={"PYTHON": str(other)})
    builds.copy_checkout(script)
    done = script.run("scripts/import-assets", str(archive), str(tmp_path / "assets"))
    assert done.returncode != 0
    assert "Remedy: export on a machine with Python 3.99" in done.stderr


def test_lock_without_a_network(offline: Place) -> None:
    done = offline.play(
        "lock",
        fleet_lock_file=str(offline.root / "lock.json"),
        fleet_mirrors={"debian": "http://mirror.invalid/debian", "security": "http://mirror.invalid/security"},
    )
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert printed.count("Remedy:") == 1, printed
    assert "fleet_mirrors: apt could not fetch the package indexes" in printed
    assert not (offline.root / "lock.json").exists()
