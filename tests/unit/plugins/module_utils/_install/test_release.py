# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import release

FILE = {"file": "core_0.1.0.erofs", "size": 4096, "sha256": "ab" * 32}
GOOD: dict[str, Any] = {
    "format": 1,
    "product": "gateway",
    "version": "0.1.0+shell",
    "core": {**FILE, "verity": {"root_hash": "cd" * 32, "hash_offset": 4096}},
    "uki": FILE,
    "boot_loader": FILE,
    "volume_group": "fleet",
    "state": {"places": [], "pcrs": [7], "pcr_public_key": "-----BEGIN PUBLIC KEY-----"},
    "escrow": {"recipients": ["age1"]},
    "further": "keys are for others",
}
MISSING = object()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PATHS = [
    "format", "product", "version", "core", "core.file", "core.size", "core.verity", "core.verity.root_hash", "uki",
    "boot_loader.sha256", "volume_group", "state", "state.places", "state.pcrs", "escrow", "escrow.recipients",
]  # fmt: skip


def changed(path: str, value: Any) -> str:
    data = json.loads(json.dumps(GOOD))
    item = data
    *parents, last = path.split(".")
    for key in parents:
        item = item[key]
    if value is MISSING:
        del item[last]
    else:
        item[last] = value
    return json.dumps(data)


def test_good_manifest() -> None:
    assert release.parse(json.dumps(GOOD)) == GOOD


@given(st.text() | JSON.map(json.dumps))
def test_arbitrary_text_is_refused(text: str) -> None:
    with pytest.raises(FleetError):
        release.parse(text)


@given(st.sampled_from(PATHS), JSON)
def test_arbitrary_value_is_refused_or_read_as_it_is(path: str, value: Any) -> None:
    text = changed(path, value)
    try:
        parsed = release.parse(text)
    except FleetError:
        return
    assert json.dumps(parsed) == text


@pytest.mark.parametrize("path", PATHS)
def test_missing_key_is_named(path: str) -> None:
    with pytest.raises(FleetError, match=f"manifest.json: {path}"):
        release.parse(changed(path, MISSING))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "only manifests of format 1"),
        ("core.size", "4096", "manifest.json: core.size: must be a number"),
        ("core.size", True, "manifest.json: core.size: must be a number"),
        ("uki", [], "manifest.json: uki: must be an object"),
        ("core.file", "../core", "manifest.json: core.file: not a plain file name"),
        ("core.file", "", "manifest.json: core.file: not a plain file name"),
        (
            "escrow",
            {"recipients": ["age1"], "threshold": 2},
            "escrow.threshold: must be a number from 1 to 1",
        ),
        (
            "escrow",
            {"recipients": ["age1", "age2"], "threshold": 0},
            "manifest.json: escrow.threshold: must be a number",
        ),
        ("escrow", {"recipients": ["age1"], "threshold": True}, "manifest.json: escrow.threshold: must be a number"),
        ("escrow", {"recipients": ["age1"], "threshold": "1"}, "manifest.json: escrow.threshold: must be a number"),
        ("uki.file", "a/b", "manifest.json: uki.file: not a plain file name"),
        ("uki.file", ".hidden", "manifest.json: uki.file: not a plain file name"),
        ("boot_loader.file", "/etc/passwd", "manifest.json: boot_loader.file: not a plain file name"),
        ("product", "../x", "manifest.json: product: not a plain name"),
        ("version", "1/2", "manifest.json: version: not a plain name"),
        ("version", "1~rc", "manifest.json: version: not a plain name"),
        ("volume_group", "--force", "manifest.json: volume_group: not a plain name"),
        ("state.pcrs", {}, "manifest.json: state.pcrs: must be a list"),
    ],
)
def test_bad_value_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(FleetError) as caught:
        release.parse(changed(path, value))
    assert message in str(caught.value)


def test_file_that_the_manifest_describes(tmp_path: Path) -> None:
    (tmp_path / "core").write_bytes(b"content")
    release.check_file(tmp_path / "core", {"size": 7, "sha256": hashlib.sha256(b"content").hexdigest()})


@pytest.mark.parametrize("content", [b"Content", b"conten", b"contents", b"", None])
def test_other_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "core").write_bytes(content)
    with pytest.raises(FleetError) as caught:
        release.check_file(tmp_path / "core", {"size": 7, "sha256": hashlib.sha256(b"content").hexdigest()})
    assert caught.value.where == str(tmp_path / "core")


@pytest.mark.parametrize("present", [[], [release.MANIFEST], [release.SIGNATURE]])
def test_release_without_manifest_or_signature(tmp_path: Path, present: list[str]) -> None:
    for name in present:
        (tmp_path / name).touch()
    with pytest.raises(FleetError, match="the file is missing"):
        release.open_release(tmp_path, tmp_path / "release.crt")
