# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packageurl import PackageURL

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import sbom
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Lock, Package, Release

STATUS = """\
Package: bash
Essential: yes
Status: install ok installed
Priority: required
Section: shells
Maintainer: Matthias Klose <doko@debian.org>
Architecture: amd64
Version: 5.2.37-2+b8
Source: bash (5.2.37-2)
Depends: base-files (>= 2.1.12), debianutils (>= 5.6-0.1)
Pre-Depends: libc6 (>= 2.38)
Built-Using: rust-libc (= 0.2.169-1)
Description: GNU Bourne Again SHell

Package: base-files
Status: install ok installed
Maintainer: Santiago Vila <sanvila@debian.org>
Architecture: amd64
Version: 13.8+deb13u7
Description: Debian base system miscellaneous files

Package: debianutils
Status: install ok installed
Maintainer: Ileana Dumitrescu <ileanadumitrescu95@gmail.com>
Architecture: amd64
Version: 5.23.2
Description: Miscellaneous utilities specific to Debian

Package: libc6
Status: install ok installed
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Multi-Arch: same
Version: 2.41-12+deb13u3
Source: glibc
Description: GNU C Library: Shared libraries

"""
KEPT = {"bash": "5.2.37-2+b8", "base-files": "13.8+deb13u7", "libc6": "2.41-12+deb13u3"}
PACKAGES = [
    Package(name, version, "amd64", f"{name}={version}", "debian", f"pool/{name}.deb", 1, digit * 64, ("gateway",))
    for digit, (name, version) in zip("abc", KEPT.items(), strict=True)
]
LOCK = Lock(
    "amd64",
    (
        Release("trixie", "debian", "2026-09-12T07:55:41+00:00", "0" * 64),
        Release("trixie-security", "security", "2026-11-20T00:12:42+00:00", "0" * 64),
    ),
    tuple(PACKAGES),
)
AUTHOR = "Example Fleet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    status = tmp_path / sbom.STATUS
    status.parent.mkdir(parents=True)
    status.write_text(STATUS)
    return tmp_path


@pytest.fixture
def document(root: Path) -> dict[str, Any]:
    return build(root)


def build(root: Path, packages: list[Package] = PACKAGES) -> dict[str, Any]:
    return sbom.build_sbom(root, packages, LOCK, product="gateway", version="0.1.0", author=AUTHOR)


def binaries(document: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in document["components"] if "arch=source" not in each["purl"]}


def dependencies(document: dict[str, Any], reference: str) -> set[str]:
    return {name for each in document["dependencies"] if each["ref"] == reference for name in each.get("dependsOn", ())}


def test_ntia_minimum_elements(document: dict[str, Any]) -> None:
    """Supplier, name, version, unique identifier, relationship, author, time (NTIA, The Minimum Elements, 2021)."""
    metadata = document["metadata"]
    assert metadata["authors"] == [{"name": AUTHOR}]
    assert metadata["timestamp"] == "2026-11-20T00:12:42+00:00"
    for component in [metadata["component"], *document["components"]]:
        assert component["supplier"]["name"]
        assert component["name"]
        assert component["version"]
    purls = [component["purl"] for component in document["components"]]
    assert len(set(purls)) == len(purls)
    related = dependencies(document, metadata["component"]["bom-ref"])
    assert {each["bom-ref"] for each in binaries(document).values()} <= related
    assert {each["bom-ref"] for each in document["components"]} >= related


def test_only_packages_that_stay_are_listed(document: dict[str, Any]) -> None:
    assert {name: each["version"] for name, each in binaries(document).items()} == KEPT


def test_binary_package_carries_digest_and_distribution(document: dict[str, Any]) -> None:
    bash = binaries(document)["bash"]

    assert bash["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    purl = PackageURL.from_string(bash["purl"])
    assert (purl.type, purl.namespace, purl.name, purl.version) == ("deb", "debian", "bash", "5.2.37-2+b8")
    assert purl.qualifiers == {"arch": "amd64", "distro": "trixie"}


def test_dependencies_and_source_are_related(document: dict[str, Any]) -> None:
    names = {each["bom-ref"]: each["purl"] for each in document["components"]}
    needed = {names[ref] for ref in dependencies(document, binaries(document)["bash"]["bom-ref"])}

    assert needed == {
        "pkg:deb/debian/base-files@13.8%2Bdeb13u7?arch=amd64&distro=trixie",
        "pkg:deb/debian/bash@5.2.37-2?arch=source&distro=trixie",
        "pkg:deb/debian/libc6@2.41-12%2Bdeb13u3?arch=amd64&distro=trixie",
        "pkg:deb/debian/rust-libc@0.2.169-1?arch=source&distro=trixie",
    }


def test_source_that_was_only_built_in_has_a_supplier(document: dict[str, Any]) -> None:
    source = next(each for each in document["components"] if each["name"] == "rust-libc")

    assert source["supplier"] == {"name": "Debian"}


def test_same_bytes_whatever_the_order_of_hashing(root: Path) -> None:
    script = (
        "import sys, json; from pathlib import Path; sys.path[:0] = json.loads(sys.argv[1])\n"
        "import importlib.util as u\n"
        "spec = u.spec_from_file_location('t', sys.argv[2]); t = u.module_from_spec(spec); spec.loader.exec_module(t)\n"
        "print(json.dumps(t.build(Path(sys.argv[3])), sort_keys=True))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script, json.dumps(sys.path), __file__, str(root)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(printed) == 1
    assert json.loads(printed.pop()) == build(root, PACKAGES[::-1])


def test_serial_number_changes_with_a_package(root: Path, document: dict[str, Any]) -> None:
    fewer = build(root, PACKAGES[1:])

    assert fewer["serialNumber"] != document["serialNumber"]


def test_package_that_dpkg_does_not_know_is_refused(root: Path) -> None:
    stranger = Package("zsh", "1", "amd64", "zsh=1", "debian", "pool/zsh.deb", 1, "d" * 64, ("gateway",))

    with pytest.raises(FleetError, match="zsh=1"):
        build(root, [*PACKAGES, stranger])


def test_validation_refuses_what_cyclonedx_does_not_know(document: dict[str, Any]) -> None:
    document["components"][0]["supplied-by"] = "nobody"

    with pytest.raises(FleetError, match="not a valid bill of materials"):
        sbom.validate(document)
