# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot import uki
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import manifest
from ansible_collections.vauban.fleet.plugins.module_utils._image.core import Verity
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Lock, Package, Release
from ansible_collections.vauban.fleet.plugins.module_utils._image.manifest import Artifact, State, Uki
from ansible_collections.vauban.fleet.plugins.module_utils._install import release

DIGEST = "a" * 64
RELEASES = (
    Release("trixie", "debian", "2026-09-12T07:55:41+00:00", DIGEST),
    Release("trixie-security", "security", "2026-11-20T00:12:42+00:00", DIGEST),
)


def package(name: str, version: str = "1", *, sets: tuple[str, ...] = ("gateway",)) -> Package:
    return Package(
        name=name,
        version=version,
        architecture="amd64",
        source=f"{name}={version}",
        archive="debian",
        path=f"pool/main/{name}_{version}_amd64.deb",
        size=1,
        sha256=DIGEST,
        sets=sets,
    )


LOCK = Lock("amd64", RELEASES, (package("bash"), package("perl-base"), package("zlib1g")))


def artifact(name: str) -> Artifact:
    return Artifact(name, 1, DIGEST, "application/octet-stream")


def image(name: str, *ways: str) -> Uki:
    ways_of, phases = dict.fromkeys(ways, DIGEST), dict.fromkeys(uki.PHASES, DIGEST)
    return Uki(artifact(name), DIGEST, DIGEST, b"der", [DIGEST], "6.12.1", "ro", ways_of, phases)


def arguments() -> dict[str, Any]:
    return {
        "product": "gateway",
        "version": "0.1.0",
        "security_epoch": 1,
        "instrumentation": (),
        "key_kind": "development",
        "lock": LOCK,
        "lock_sha256": DIGEST,
        "packages": manifest.kept_packages(LOCK, {"zlib1g": "1", "bash": "1"}),
        "core": artifact("core.erofs"),
        "core_format": "erofs",
        "verity": Verity(DIGEST, 4096, 8192, 2, 12288),
        "uki": image("gateway_0.1.0.efi", "boot_loader", "direct"),
        "installer": image("installer.efi", "direct"),
        "bundle": artifact("gateway_0.1.0.raucb"),
        "boot_loader": artifact("systemd-bootx64.efi"),
        "volume_group": "fleet",
        "state": State(
            ({"path": "/var", "kind": "directory", "mode": "0755"},), (7, 12), "-----BEGIN PUBLIC KEY-----\n"
        ),
        "recipients": ("age1b", "age1a"),
        "certificates": {"release": DIGEST, "db": DIGEST, "root": DIGEST},
        "sbom": artifact("sbom.cdx.json"),
        "provenance": artifact("provenance.intoto.json"),
        "origin": artifact("origin.json"),
    }


def test_manifest_says_what_an_installer_reads() -> None:
    text = json.dumps(manifest.build_manifest(**arguments()))

    parsed = release.parse(text)

    assert parsed["core"]["verity"]["root_hash"] == DIGEST
    assert parsed["state"]["pcrs"] == [7, 12]
    assert parsed["escrow"]["recipients"] == ["age1a", "age1b"]


def test_only_packages_of_the_image_are_listed_in_order() -> None:
    packages = manifest.build_manifest(**arguments())["packages"]

    assert [each["name"] for each in packages] == ["bash", "zlib1g"]
    assert set(packages[0]) == {"name", "version", "architecture", "source", "sha256"}


def test_time_is_the_newest_release_file() -> None:
    assert manifest.build_manifest(**arguments())["source_date_epoch"] == 1795133562


def test_order_of_arguments_does_not_reach_the_manifest() -> None:
    given = arguments()
    given["packages"] = tuple(reversed(given["packages"]))
    given["recipients"] = tuple(reversed(given["recipients"]))
    given["lock"] = Lock("amd64", tuple(reversed(RELEASES)), LOCK.packages)

    assert manifest.build_manifest(**given) == manifest.build_manifest(**arguments())


def test_officers_who_open_keys_together_are_counted_in_the_manifest_and_those_who_do_it_alone_are_not() -> None:
    alone, together = (manifest.build_manifest(**arguments(), threshold=number) for number in (1, 2))
    assert alone == manifest.build_manifest(**arguments())
    assert "threshold" not in alone["escrow"]
    assert together["escrow"]["threshold"] == 2


def test_package_outside_the_lock_file_is_refused() -> None:
    with pytest.raises(FleetError, match="bash=2"):
        manifest.kept_packages(LOCK, {"bash": "2"})


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("version",), "0.1.0 beta", "manifest.json: version"),
        (("core", "file"), "../core", "manifest.json: core.file"),
        (("core", "verity", "root_hash"), "", "manifest.json: core.verity.root_hash"),
        (("core", "unknown"), 1, "manifest.json: core"),
        (("uki", "pcr", "11", "ready"), "0", "manifest.json: uki.pcr['11'].ready"),
        (("uki", "pcr", "4"), {"direct": DIGEST}, "manifest.json: uki.pcr['4']"),
        (("installer", "pcr", "4"), {"boot_loader": DIGEST}, "manifest.json: installer.pcr['4']"),
        (("packages", 0, "sha256"), None, "manifest.json: packages[0].sha256"),
        (("escrow", "recipients"), [], "manifest.json: escrow.recipients"),
        (("escrow", "threshold"), 1, "manifest.json: escrow.threshold"),
        (("escrow", "threshold"), 17, "manifest.json: escrow.threshold"),
        (("unknown",), 1, "manifest.json"),
    ],
)
def test_impossible_value_is_refused_by_name(path: tuple[Any, ...], value: Any, where: str) -> None:
    broken = copy.deepcopy(manifest.build_manifest(**arguments()))
    place: Any = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    with pytest.raises(FleetError) as caught:
        manifest.validate(broken)

    assert caught.value.where == where


@pytest.mark.parametrize("key", list(manifest.build_manifest(**arguments())))
def test_every_key_is_needed(key: str) -> None:
    incomplete = manifest.build_manifest(**arguments())
    del incomplete[key]

    with pytest.raises(FleetError, match=f"'{key}' is a required property"):
        manifest.validate(incomplete)


def test_schema_describes_every_key() -> None:
    def undescribed(schema: Any, name: str) -> list[str]:
        found = []
        for key, value in schema.get("properties", {}).items():
            told = "description" in value or "$ref" in value or "properties" in value
            found += [] if told else [f"{name}.{key}"]
            found += undescribed(value, f"{name}.{key}")
        if "items" in schema:
            found += undescribed(schema["items"], f"{name}[]")
        return found

    schema = json.loads(manifest.SCHEMA.read_text("utf-8"))

    assert undescribed(schema, "manifest") == []
    assert [name for name, part in schema["$defs"].items() if undescribed(part, name)] == []


def test_artifact_describes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sbom.cdx.json"
    path.write_bytes(b"{}")

    found = Artifact.of(path)

    assert found.file == "sbom.cdx.json"
    assert found.size == 2
    assert found.sha256 == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert found.media_type == "application/vnd.cyclonedx+json"


def test_artifact_of_unknown_kind_is_octets(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"x")

    assert Artifact.of(path).media_type == "application/octet-stream"


def test_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"core\.erofs: the file is not there"):
        Artifact.of(tmp_path / "core.erofs")
