# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bill of materials of a release names the package of every file that the release brings, as dpkg knows it."""

from __future__ import annotations

import filecmp
import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import builds
import pytest
from builds import Built

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import remove_tree

SDK = builds.REFERENCE["build"] / "sdk/current"
SYSTEMD = Path("usr/lib/systemd/boot/efi")
MODULE = re.compile(r"\.ko$")  # compressed in the package, but not in an initrd


def owners(tree: Path, paths: Iterable[str]) -> dict[str, set[str]]:
    """Packages by path, as dpkg-query(1) finds them in the database of a tree."""
    asked = [name for path in paths for name in ("/" + path, "/" + path.removeprefix("usr/"))]
    command = ["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "--search", "--", *asked]
    listed = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    found: dict[str, set[str]] = {}
    for line in listed.stdout.splitlines():
        names, _colon, path = line.partition(": /")
        if names.startswith("diversion by "):
            continue
        place = path if path.startswith(("usr/", "etc/", "var/")) else f"usr/{path}"
        found.setdefault(place, set()).update(name.partition(":")[0] for name in names.split(", "))
    return found


def unlisted(document: Mapping[str, Any], artifact: str, needed: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Those files whose package the bill of materials does not name for the artifact."""
    named = {
        component["name"]
        for component in document["components"]
        for each in component.get("properties", [])
        if each == {"name": "vauban.fleet:artifact", "value": artifact}
    }
    return {path: names for path, names in needed.items() if not names & named}


@pytest.fixture(scope="module")
def document(reference: Built) -> dict[str, Any]:
    (path,) = reference.release.glob("*.cdx.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def sdk_tree(reference: Built) -> Path:
    return SDK.resolve().parent / "root"


def from_packages(root: Path, trees: Iterable[Path]) -> dict[str, set[str]]:
    """Packages of each file that is in one of the trees with the same content, the first tree that has it."""
    paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    found: dict[str, set[str]] = {}
    for tree in trees:
        same = [path for path in paths if path not in found and _same(root / path, tree / path)]
        modules = {path: f"{path}.xz" for path in paths if MODULE.search(path)}
        known = owners(tree, [*same, *modules.values()])
        found |= {path: known[path] for path in same if path in known}
        found |= {path: known[packed] for path, packed in modules.items() if packed in known}
    return found


def _same(path: Path, other: Path) -> bool:
    if path.is_symlink() or other.is_symlink():
        return path.is_symlink() and other.is_symlink() and os.readlink(path) == os.readlink(other)
    return other.is_file() and filecmp.cmp(path, other, shallow=False)


@pytest.mark.parametrize(("kind", "suffix"), [("system", ""), ("installer", "_installer")])
def test_packages_of_all_files_of_an_initrd_are_listed_for_the_uki(
    reference: Built, document: dict[str, Any], base: Path, sdk_tree: Path, tmp_path: Path, kind: str, suffix: str
) -> None:
    work = reference.directory / "work" / reference.release.name
    root = builds.extract_initrd(SDK, work / f"{kind}.initrd", tmp_path)
    found = from_packages(root, [base, sdk_tree])
    remove_tree(tmp_path / "out")
    packages = set[str]().union(*found.values())
    assert {"systemd", "libc6", "lvm2"} <= packages
    assert any(name.startswith("linux-image-") for name in packages)
    assert ("age" in packages) == (kind == "installer")
    artifact = f"{builds.PRODUCT}_{reference.release.name}{suffix}.efi"
    assert not unlisted(document, artifact, found)
    for name in ("lvm2", *(["age"] if kind == "installer" else [])):
        fewer = {**document, "components": [each for each in document["components"] if each["name"] != name]}
        assert set[str]().union(*unlisted(fewer, artifact, found).values()) == {name}


def test_boot_loader_and_stub_are_listed_with_their_package(
    reference: Built, document: dict[str, Any], sdk_tree: Path
) -> None:
    name = f"{builds.PRODUCT}_{reference.release.name}"
    loader = owners(sdk_tree, [str(SYSTEMD / "systemd-bootx64.efi")])
    stub = owners(sdk_tree, [str(SYSTEMD / "linuxx64.efi.stub")])
    assert loader
    assert stub
    assert not unlisted(document, "systemd-bootx64.efi", loader)
    assert not unlisted(document, f"{name}.efi", stub)
    assert not unlisted(document, f"{name}_installer.efi", stub)
    assert unlisted(document, "core.erofs", loader)


def test_each_package_of_the_core_is_listed_for_it(reference: Built, document: dict[str, Any]) -> None:
    manifest = json.loads((reference.release / "manifest.json").read_text())
    needed = {package["name"]: {package["name"]} for package in manifest["packages"]}
    assert len(needed) > 50
    assert not unlisted(document, "core.erofs", needed)
