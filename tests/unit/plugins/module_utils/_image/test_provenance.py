# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Sequence

from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Package
from ansible_collections.vauban.fleet.plugins.module_utils._image.manifest import Artifact
from ansible_collections.vauban.fleet.plugins.module_utils._image.provenance import build_provenance

PACKAGES = tuple(
    Package(name, "1", "amd64", f"{name}=1", "debian", f"pool/main/{name}_1_amd64.deb", 1, digit * 64, (set_name,))
    for name, digit, set_name in (("zlib1g", "2", "gateway"), ("bash", "1", "sdk"))
)
ARTIFACTS = (Artifact("uki.efi", 1, "4" * 64, "x/y"), Artifact("core.erofs", 1, "3" * 64, "x/y"))


def provenance(*, packages: Sequence[Package] = PACKAGES, artifacts: Sequence[Artifact] = ARTIFACTS) -> str:
    statement = build_provenance(
        product="gateway",
        version="0.1.0",
        inventory_digest="5" * 64,
        collection_version="0.1.0",
        collection_digest="6" * 64,
        packages=packages,
        artifacts=artifacts,
    )
    return json.dumps(statement, sort_keys=True)


def test_statement_has_the_types_of_in_toto_and_slsa() -> None:
    statement = json.loads(provenance())

    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert set(statement) == {"_type", "subject", "predicateType", "predicate"}
    assert set(statement["predicate"]) == {"buildDefinition", "runDetails"}
    assert statement["predicate"]["runDetails"]["builder"]["id"].startswith("https://")


def test_subjects_are_the_artifacts() -> None:
    assert json.loads(provenance())["subject"] == [
        {"name": "core.erofs", "digest": {"sha256": "3" * 64}},
        {"name": "uki.efi", "digest": {"sha256": "4" * 64}},
    ]


def test_every_package_and_the_collection_are_dependencies() -> None:
    definition = json.loads(provenance())["predicate"]["buildDefinition"]

    assert {each["name"]: each["digest"]["sha256"] for each in definition["resolvedDependencies"]} == {
        "vauban.fleet": "6" * 64,
        "pool/main/bash_1_amd64.deb": "1" * 64,
        "pool/main/zlib1g_1_amd64.deb": "2" * 64,
    }
    assert definition["externalParameters"] == {
        "product": "gateway",
        "version": "0.1.0",
        "inventory": {"digest": {"sha256": "5" * 64}},
    }


def test_order_and_repetition_of_inputs_do_not_matter() -> None:
    assert provenance(packages=PACKAGES[::-1] * 2, artifacts=ARTIFACTS[::-1]) == provenance()
