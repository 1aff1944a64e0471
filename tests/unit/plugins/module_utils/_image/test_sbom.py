# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import subprocess
import sys
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
def document() -> dict[str, Any]:
    return build()


def build(packages: list[Package] = PACKAGES, *databases: str, **others: list[Package]) -> dict[str, Any]:
    """A bill of materials of an artifact ``core`` with these packages, and of others."""
    contents = {"core": packages, **others}
    told = {"product": "gateway", "version": "0.1.0", "author": AUTHOR}
    return sbom.build_sbom([STATUS, *databases], contents, LOCK, **told)


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


def test_packages_of_all_artifacts_are_listed_with_the_artifacts() -> None:
    """Those of the installer come from a tree with a database of its own."""
    age = Package("age", "1.2.1-1", "amd64", "age=1.2.1-1", "debian", "pool/age.deb", 1, "e" * 64, ("sdk",))
    database = (
        "Package: age\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.2.1-1\nMaintainer: A <a@a>\n"
    )
    found = binaries(build(PACKAGES, database, installer=[age, PACKAGES[2]]))

    held = {name: [each["value"] for each in component["properties"]] for name, component in found.items()}
    assert held == {"age": ["installer"], "base-files": ["core"], "bash": ["core"], "libc6": ["core", "installer"]}
    assert found["age"]["hashes"] == [{"alg": "SHA-256", "content": "e" * 64}]


def test_package_that_is_only_unpacked_is_listed() -> None:
    """The kernel: its files are in the image, its scripts never ran."""
    kernel = Package("linux-image", "6.12", "amd64", "linux=6.12", "debian", "pool/l.deb", 1, "f" * 64, ("kernel",))
    database = (
        "Package: linux-image\nStatus: install ok unpacked\nArchitecture: amd64\nVersion: 6.12\nMaintainer: A <a@a>\n"
    )
    assert "linux-image" in binaries(build([*PACKAGES, kernel], database))


def test_package_that_debsbom_leaves_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = sbom._scan

    def forgetful(*arguments: Any, **settings: Any) -> dict[str, Any]:
        document = scan(*arguments, **settings)
        document["components"] = [each for each in document["components"] if each["name"] != "libc6"]
        return document

    monkeypatch.setattr(sbom, "_scan", forgetful)
    with pytest.raises(FleetError, match=r"left out 1 packages, first libc6=2.41"):
        build()


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


def test_same_bytes_whatever_the_order_of_hashing() -> None:
    script = (
        "import sys, json; sys.path[:0] = json.loads(sys.argv[1])\n"
        "import importlib.util as u\n"
        "spec = u.spec_from_file_location('t', sys.argv[2]); t = u.module_from_spec(spec); spec.loader.exec_module(t)\n"
        "print(json.dumps(t.build(), sort_keys=True))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script, json.dumps(sys.path), __file__],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(printed) == 1
    assert json.loads(printed.pop()) == build(PACKAGES[::-1])


def test_serial_number_changes_with_a_package(document: dict[str, Any]) -> None:
    fewer = build(PACKAGES[1:])

    assert fewer["serialNumber"] != document["serialNumber"]


def test_package_that_dpkg_does_not_know_is_refused() -> None:
    stranger = Package("zsh", "1", "amd64", "zsh=1", "debian", "pool/zsh.deb", 1, "d" * 64, ("gateway",))

    with pytest.raises(FleetError, match="zsh=1"):
        build([*PACKAGES, stranger])


def test_validation_refuses_what_cyclonedx_does_not_know(document: dict[str, Any]) -> None:
    document["components"][0]["supplied-by"] = "nobody"

    with pytest.raises(FleetError, match="not a valid bill of materials"):
        sbom.validate(document)
