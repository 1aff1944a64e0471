# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Lock, Package, Release

WORD = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,20}", fullmatch=True)
VERSION = st.from_regex(r"([0-9]:)?[0-9][0-9A-Za-z.+~-]{0,20}", fullmatch=True)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
ARCHIVE = st.sampled_from(["debian", "security"])
PACKAGES = st.builds(
    Package,
    name=WORD,
    version=VERSION,
    architecture=st.sampled_from(["amd64", "all"]),
    source=st.builds("{}={}".format, WORD, VERSION),
    archive=ARCHIVE,
    path=st.builds("pool/main/{0}/{0}/{0}_{1}_all.deb".format, WORD, st.from_regex(r"[0-9][0-9.+~-]*", fullmatch=True)),
    size=st.integers(min_value=1),
    sha256=SHA256,
    sets=st.lists(st.sampled_from(["sdk", "core", "kernel"]), max_size=3).map(tuple),
)
RELEASES = st.builds(
    Release,
    suite=WORD,
    archive=ARCHIVE,
    date=st.datetimes(timezones=st.timezones()).map(lambda moment: moment.isoformat()),
    sha256=SHA256,
)
LOCKS = st.builds(
    lambda architecture, releases, packages: Lock(architecture, tuple(sorted(releases)), tuple(sorted(packages))),
    WORD,
    st.lists(RELEASES, min_size=1, max_size=3),
    st.lists(PACKAGES, max_size=4, unique_by=lambda package: (package.name, package.architecture)),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

PACKAGE: dict[str, Any] = {
    "name": "libc6",
    "version": "2.41-12",
    "architecture": "amd64",
    "source": "glibc=2.41-12",
    "archive": "debian",
    "path": "pool/main/g/glibc/libc6_2.41-12_amd64.deb",
    "size": 2847160,
    "sha256": "ab" * 32,
    "sets": ["core", "sdk"],
}
RELEASE = {"suite": "trixie", "archive": "debian", "date": "2026-09-12T07:55:41+00:00", "sha256": "cd" * 32}
GOOD: dict[str, Any] = {"format": 1, "architecture": "amd64", "releases": [RELEASE], "packages": [PACKAGE]}
MISSING = object()


def changed(path: str, value: Any) -> str:
    """The good lock file with one value replaced or missing."""
    data = copy.deepcopy(GOOD)
    item: Any = data
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in parents:
        item = item[key]
    if value is MISSING:
        del item[last]
    else:
        item[last] = value
    return json.dumps(data)


@given(LOCKS)
def test_what_is_written_is_read_back(locked: Lock) -> None:
    assert lock.parse(locked.as_text()) == locked


@given(LOCKS)
def test_order_of_packages_does_not_reach_the_file(locked: Lock) -> None:
    shuffled = Lock(locked.architecture, locked.releases[::-1], locked.packages[::-1])
    assert shuffled.as_text() == locked.as_text()


@given(st.text() | JSON.map(json.dumps))
def test_arbitrary_text_is_refused(text: str) -> None:
    with pytest.raises(FleetError):
        lock.parse(text)


@given(st.sampled_from(["architecture", "releases", "packages", "releases.0", "packages.0"]), JSON)
def test_arbitrary_part_is_refused_or_survives_a_round_trip(path: str, value: Any) -> None:
    text = changed(path, value)
    try:
        parsed = lock.parse(text)
    except FleetError:
        return
    assert json.loads(parsed.as_text()) == json.loads(text)


@given(st.sampled_from([*(f"packages.0.{key}" for key in PACKAGE), *(f"releases.0.{key}" for key in RELEASE)]), JSON)
def test_arbitrary_field_is_refused_or_survives_a_round_trip(path: str, value: Any) -> None:
    text = changed(path, value)
    try:
        parsed = lock.parse(text)
    except FleetError:
        return
    assert json.loads(parsed.as_text()) == json.loads(text)
    assert isinstance(parsed.epoch, int)


@pytest.mark.parametrize(
    ("path", "value", "where", "message"),
    [
        ("format", 2, "format", "format 2 is not supported"),
        ("format", True, "format", "format True is not supported"),
        ("format", MISSING, "format", "format None is not supported"),
        ("architecture", None, "architecture", "must be a string"),
        ("architecture", "amd64;", "architecture", "not a valid architecture"),
        ("architecture", MISSING, None, "missing or unknown keys: architecture"),
        ("comment", "hello", None, "missing or unknown keys: comment"),
        ("releases", {}, "releases", "must be a list"),
        ("releases", [], "releases", "at least one Release file"),
        ("releases.0.date", "yesterday", "releases[0].date", "not an ISO 8601 date"),
        ("releases.0.date", "2026-09-12T07:55:41", "releases[0].date", "needs a time zone"),
        ("releases.0.sha256", "CD" * 32, "releases[0].sha256", "not a SHA-256"),
        ("packages", None, "packages", "must be a list"),
        ("packages.0", [], "packages[0]", "must be an object"),
        ("packages.0.sha256", "ab" * 31, "packages[0].sha256", "not a SHA-256 in hexadecimal: 'abab"),
        ("packages.0.sha256", "ab" * 32 + "\n", "packages[0].sha256", "not a SHA-256"),
        ("packages.0.sha256", 12, "packages[0].sha256", "must be a str"),
        ("packages.0.path", "pool/../../x.deb", "packages[0].path", "not the pool path"),
        ("packages.0.path", "../x.deb", "packages[0].path", "not the pool path"),
        ("packages.0.path", "pool/%2e%2e/x.deb", "packages[0].path", "not the pool path"),
        ("packages.0.path", "pool/./x.deb", "packages[0].path", "not the pool path"),
        ("packages.0.path", "/etc/x.deb", "packages[0].path", "not the pool path"),
        ("packages.0.path", "pool/x.tar", "packages[0].path", "not the pool path"),
        ("packages.0.path", "pool/x.deb?y.deb", "packages[0].path", "not the pool path"),
        ("packages.0.size", 0, "packages[0].size", "positive number of bytes"),
        ("packages.0.size", -1, "packages[0].size", "positive number of bytes"),
        ("packages.0.size", True, "packages[0].size", "must be a int"),
        ("packages.0.size", 1.5, "packages[0].size", "must be a int"),
        ("packages.0.sets", "core", "packages[0].sets", "must be a list"),
        ("packages.0.sets", [1], "packages[0].sets", "list of strings"),
        ("packages.0.sets", ["a b"], "packages[0].sets", "not a valid set"),
        ("packages.0.name", "libc6,evil", "packages[0].name", "not a valid name"),
        ("packages.0.name", "?essential", "packages[0].name", "not a valid name"),
        ("packages.0.name", "--option", "packages[0].name", "not a valid name"),
        ("packages.0.version", "1 || 2", "packages[0].version", "not a valid version"),
        ("packages.0.source", "glibc", "packages[0].source", "not a valid source"),
        ("packages.0.archive", "file:///x", "packages[0].archive", "not a valid archive"),
        ("packages.0.name", MISSING, "packages[0]", "missing or unknown keys: name"),
        ("packages.0.md5", "x", "packages[0]", "missing or unknown keys: md5"),
    ],
)
def test_bad_value_is_named(path: str, value: Any, where: str | None, message: str) -> None:
    with pytest.raises(FleetError) as caught:
        lock.parse(changed(path, value))
    assert caught.value.where == where
    assert message in caught.value.message


def test_package_that_is_listed_twice() -> None:
    with pytest.raises(FleetError, match=r"packages\[1\]: libc6 is listed twice"):
        lock.parse(changed("packages", [PACKAGE, {**PACKAGE, "version": "2.42-1"}]))


def test_same_name_of_another_architecture_is_another_package() -> None:
    assert len(lock.parse(changed("packages", [PACKAGE, {**PACKAGE, "architecture": "all"}])).packages) == 2


def test_key_that_is_written_twice() -> None:
    """JSON readers differ in which of the two they take."""
    text = json.dumps(GOOD).replace('"size":', '"size": 1, "size":')
    with pytest.raises(FleetError, match="same key twice"):
        lock.parse(text)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": 1}garbage', "1" * 5000, "\ufeff{}"])
def test_no_json(text: str) -> None:
    with pytest.raises(FleetError, match="not JSON"):
        lock.parse(text)


def test_message_names_file_entry_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "trixie.lock.json"
    path.write_text(changed("packages.0.path", "../../etc/passwd"))
    with pytest.raises(FleetError) as caught:
        lock.read(path)
    assert f"{path}: packages[0].path: not the pool path of a .deb file: '../../etc/passwd'\n" in str(caught.value)
    assert "Remedy: run 'ansible-playbook vauban.fleet.lock'" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"\xff\xfe", "not UTF-8"), (b"[]", "must be an object")]
)
def test_unusable_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "trixie.lock.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FleetError, match=message) as caught:
        lock.read(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy is not None


def test_writing_says_whether_anything_changed(tmp_path: Path) -> None:
    locked = lock.parse(json.dumps(GOOD))
    assert locked.write(tmp_path / "lock.json")
    assert not locked.write(tmp_path / "lock.json")
    assert lock.read(tmp_path / "lock.json") == locked


def test_new_version_is_one_changed_line() -> None:
    other = {**PACKAGE, "name": "zlib1g", "path": "pool/z.deb"}
    before = lock.parse(changed("packages", [PACKAGE, other])).as_text().splitlines()
    after = lock.parse(changed("packages", [{**PACKAGE, "version": "2.42-1"}, other])).as_text().splitlines()
    assert len([1 for old, new in zip(before, after, strict=True) if old != new]) == 1


def test_epoch_is_that_of_the_newest_release() -> None:
    dates = ["2026-09-12T07:55:41+00:00", "2026-11-20T02:12:42+02:00", "2026-11-20T00:11:10+00:00"]
    locked = lock.parse(changed("releases", [{**RELEASE, "date": date} for date in dates]))
    assert locked.epoch == 1795133562


def test_set_and_its_digest() -> None:
    other = {**PACKAGE, "name": "mkosi", "path": "pool/m.deb", "sets": ["sdk"], "sha256": "ef" * 32}
    locked = lock.parse(changed("packages", [PACKAGE, other]))
    assert [package.label for package in locked.of_set("core")] == ["libc6=2.41-12"]
    newer = lock.parse(changed("packages", [PACKAGE, {**other, "sha256": "01" * 32}]))
    assert newer.digest("core") == locked.digest("core")
    assert newer.digest("sdk") != locked.digest("sdk")


def test_set_the_lock_file_does_not_know() -> None:
    with pytest.raises(FleetError, match=r"no package set 'server' in the lock file \(it holds: core, sdk\)\nRemedy"):
        lock.parse(json.dumps(GOOD)).of_set("server")
