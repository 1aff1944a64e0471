# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of an archive reaches the state volume. Who has it mounted: tests/integration/test_host_configuration.py."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import configuration
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import archive

FILE, LINK, DIRECTORY = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A core: chrony's directory is not for everybody, and swanctl's lists are on the state volume."""
    root = tmp_path / "core"
    for name, mode in (("etc/chrony", 0o750), ("etc/swanctl", 0o755), ("usr/lib", 0o755), ("home", 0o755)):
        (root / name).mkdir(parents=True)
        (root / name).chmod(mode)
    (root / "etc/chrony/chrony.conf").write_text("of the core\n")
    (root / "etc/resolv.conf").symlink_to("/run/resolv.conf")
    (root / "etc/swanctl/x509crl").symlink_to("../../var/lib/vauban/ipsec/x509crl")
    (root / "etc/library").symlink_to("../usr/lib")
    (root / "etc/root").symlink_to("/")
    (root / "etc/circle").symlink_to("circle")
    return root


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """As the installer has made it."""
    for name in ("configuration/etc", "var"):
        (tmp_path / "state" / name).mkdir(parents=True)
    return tmp_path / "state"


def entry(name: str, kind: bytes = FILE, target: str = "", **more: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, 0o755 if kind == DIRECTORY else 0o644
    for key, value in more.items():
        setattr(made, key, value)
    return made


def packed(directory: Path, *entries: tarfile.TarInfo, data: bytes = b"") -> tuple[Path, str]:
    """An archive that nobody judged."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for each in entries:
            each.size = len(data) if each.type == FILE else 0
            tar.addfile(each, io.BytesIO(data))
    path = directory / "archive"
    path.write_bytes(gzip.compress(stream.getvalue()))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def written(state: Path) -> list[str]:
    return sorted(str(path.relative_to(state)) for path in state.rglob("*") if path.is_symlink() or path.is_file())


def test_a_tree_arrives_as_it_was_rendered(core: Path, state: Path, tmp_path: Path) -> None:
    tree = tmp_path / "trees/host"
    for name, text in {"chrony/chrony.conf": "server a\n", "vauban/tunnels/admin.inside": "x\n", "run": "#!\n"}.items():
        (tree / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "etc" / name).write_text(text)
        (tree / "etc" / name).chmod(0o555 if name == "run" else 0o444)
    (tree / "etc/systemd").mkdir()
    (tree / "etc/systemd/off.service").symlink_to("/dev/null")
    (tmp_path / "host").symlink_to(tree)
    digest = archive.write(tmp_path / "host", tmp_path / "archive", {"etc/swanctl/x509crl/root.crl": b"list"})
    evidence = configuration.unpack(tmp_path / "archive", digest, state, core)
    assert evidence == {"sha256": digest, "files": 4, "links": 1}
    etc = state / "configuration/etc"
    assert (etc / "chrony/chrony.conf").read_text() == "server a\n"
    assert (etc / "systemd/off.service").readlink() == Path("/dev/null")
    assert (state / "var/lib/vauban/ipsec/x509crl/root.crl").read_bytes() == b"list"
    assert not (etc / "swanctl").exists()
    modes = {name: stat.S_IMODE((etc / name).stat().st_mode) for name in ("", "chrony", "vauban", "vauban/tunnels")}
    assert modes == {"": 0o755, "chrony": 0o750, "vauban": 0o755, "vauban/tunnels": 0o755}
    files = {name: stat.S_IMODE((etc / name).stat().st_mode) for name in ("chrony/chrony.conf", "run")}
    assert files == {"chrony/chrony.conf": 0o644, "run": 0o755}


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for name, mode in (("one", 0o444), ("two", 0o644)):
        tree = tmp_path / name
        (tree / "etc").mkdir(parents=True)
        for file in ("b", "a") if name == "one" else ("a", "b"):
            (tree / "etc" / file).write_text("text\n")
            (tree / "etc" / file).chmod(mode)
        digests.add(archive.write(tree, tmp_path / f"{name}.tar.gz"))
    assert len(digests) == 1
    assert digests == {hashlib.sha256((tmp_path / "two.tar.gz").read_bytes()).hexdigest()}


def test_a_tree_with_more_than_configuration_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "tree/usr").mkdir(parents=True)
    with pytest.raises(FleetError, match="is not below etc"):
        archive.write(tmp_path / "tree", tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_a_file_takes_the_place_of_a_link_of_the_core(core: Path, state: Path, tmp_path: Path) -> None:
    configuration.unpack(*packed(tmp_path, entry("etc/resolv.conf")), state, core)
    assert written(state) == ["configuration/etc/resolv.conf"]


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([entry("usr/lib/x")], "none below etc/"),
        ([entry("/etc/x")], "none below etc/"),
        ([entry("etc/../usr/x")], "none below etc/"),
        ([entry("etc/./x")], "none below etc/"),
        ([entry("etc//x")], "none below etc/"),
        ([entry("../etc/x")], "none below etc/"),
        ([entry("etc/machine-id")], "none below etc/"),
        ([entry("etc")], "it is no directory"),
        ([entry("etc", LINK, "/")], "it is no directory"),
        ([entry("etc/x", tarfile.CHRTYPE)], "neither a file"),
        ([entry("etc/x", tarfile.BLKTYPE)], "neither a file"),
        ([entry("etc/x", tarfile.FIFOTYPE)], "neither a file"),
        ([entry("etc/y"), entry("etc/x", tarfile.LNKTYPE, "etc/y")], "neither a file"),
        ([entry("etc/x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/usr"})], "neither a file"),
        ([entry("etc/x", mode=0o4755)], "more rights"),
        ([entry("etc/x", mode=0o2755)], "more rights"),
        ([entry("etc/x", mode=0o664)], "others than root"),
        ([entry("etc/x", DIRECTORY, mode=0o777)], "others than root"),
        ([entry("etc/x", uid=1000)], "does not belong to root"),
        ([entry("etc/x", gid=1000)], "does not belong to root"),
        ([entry("etc/x"), entry("etc/x")], "twice"),
        ([entry("etc/x", LINK, "/usr"), entry("etc/x/y")], "no directory"),
        ([entry("etc/x/y"), entry("etc/x", LINK, "/usr")], "no directory"),
        ([entry("etc/x"), entry("etc/x/y")], "no directory"),
        ([entry("etc/chrony")], "directory of the core"),
        ([entry("etc/chrony", LINK, "/run")], "directory of the core"),
        ([entry("etc/chrony/chrony.conf/x")], "below a file of the core"),
        ([entry("etc/chrony/chrony.conf", DIRECTORY)], "below a file of the core"),
        ([entry("etc/library/x")], "no place for this file"),
        ([entry("etc/root/home/x")], "no place for this file"),
        ([entry("etc/circle/x")], "in a circle"),
    ],
)
def test_what_is_no_configuration_is_refused(
    core: Path, state: Path, tmp_path: Path, entries: list[tarfile.TarInfo], problem: str
) -> None:
    """With it, nothing at all is written."""
    path, digest = packed(tmp_path, entry("etc/good"), *entries)
    with pytest.raises(FleetError, match=problem):
        configuration.unpack(path, digest, state, core)
    assert written(state) == []


def test_another_archive_is_refused(core: Path, state: Path, tmp_path: Path) -> None:
    path, _digest = packed(tmp_path, entry("etc/x"))
    with pytest.raises(FleetError, match="should have aaaa"):
        configuration.unpack(path, "aa" * 32, state, core)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no archive", "no gzip file"),
        (gzip.compress(b"no archive" * 1000), "no tar archive"),
        (gzip.compress(bytes(20 * 1024))[:-20], "no gzip file"),
        (bytes(configuration.LARGEST + 1), "more than 16777216 bytes"),
        (gzip.compress(bytes(65 * 1024 * 1024)), "holds more than 67108864 bytes"),
    ],
)
def test_damaged_and_oversized_archives_are_refused(
    core: Path, state: Path, tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "archive"
    path.write_bytes(content)
    with pytest.raises(FleetError, match=problem):
        configuration.unpack(path, hashlib.sha256(content).hexdigest(), state, core)


def test_cut_off_entry_is_refused(core: Path, state: Path, tmp_path: Path) -> None:
    path, _digest = packed(tmp_path, entry("etc/x"), data=bytes(100_000))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:50_000]))
    with pytest.raises(FleetError, match="no tar archive"):
        configuration.unpack(path, hashlib.sha256(path.read_bytes()).hexdigest(), state, core)
    assert written(state) == []


def test_too_many_files_are_refused(core: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "_MOST", 3)
    path, digest = packed(tmp_path, *(entry(f"etc/{number}") for number in range(4)))
    with pytest.raises(FleetError, match="more than 3 files"):
        configuration.unpack(path, digest, state, core)


def test_second_configuration_is_refused(core: Path, state: Path, tmp_path: Path) -> None:
    path, digest = packed(tmp_path, entry("etc/x"))
    configuration.unpack(path, digest, state, core)
    with pytest.raises(FleetError, match="already"):
        configuration.unpack(path, digest, state, core)


def test_configuration_takes_the_place_of_another_as_a_whole(core: Path, state: Path, tmp_path: Path) -> None:
    lists = "etc/swanctl/x509crl/issuing.crl"  # lies below /var/lib
    first, digest = packed(tmp_path, entry("etc/old", size=1), entry(lists, size=1), data=b"1")
    configuration.unpack(first, digest, state, core)
    (state / "configuration/etc/made_by_hand").write_text("")
    (state / "var/lib/data").write_text("kept")
    second, digest = packed(tmp_path, entry("etc/new", size=1), entry(lists, size=1), data=b"2")
    configuration.unpack(second, digest, state, core, replace=True)
    assert written(state) == ["configuration/etc/new", "var/lib/data", "var/lib/vauban/ipsec/x509crl/issuing.crl"]
    assert (state / "var/lib/vauban/ipsec/x509crl/issuing.crl").read_text() == "2"


@pytest.mark.parametrize("place", ["configuration/etc", "configuration", "var/lib"])
def test_links_of_a_volume_that_was_in_use_lead_nowhere(core: Path, state: Path, tmp_path: Path, place: str) -> None:
    """Whoever had the machine before may have left them, to have the installer write elsewhere."""
    outside = tmp_path / "outside"
    (outside / "etc").mkdir(parents=True)
    (outside / "etc/of_others").write_text("")
    if (state / place).is_dir():
        shutil.rmtree(state / place)
    (state / place).symlink_to(outside)
    lists = "etc/swanctl/x509crl/issuing.crl"
    archive, digest = packed(tmp_path, entry("etc/new", size=1), entry(lists, size=1), data=b"2")
    with pytest.raises(FleetError, match="is no directory"):
        configuration.unpack(archive, digest, state, core, replace=True)
    assert [path.name for path in outside.rglob("*")] == ["etc", "of_others"]
