# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Package
from ansible_collections.vauban.fleet.plugins.module_utils._image.manifest import Artifact

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
# Both name what this project defines (docs/release_manifest.md); nothing is fetched from there.
BUILD_TYPE = "https://vauban.example/fleet/build/v1"
BUILDER = "https://vauban.example/fleet/builder/v1"
COLLECTION = "vauban.fleet"


def build_provenance(
    *,
    product: str,
    version: str,
    inventory_digest: str,
    collection_version: str,
    collection_digest: str,
    packages: Iterable[Package],
    artifacts: Iterable[Artifact],
) -> dict[str, Any]:
    """How the artifacts came to be: an in-toto Statement v1 with a SLSA provenance v1 predicate.

    It holds no time and no name of a machine, so the same inputs give the same statement.

    :param inventory_digest: SHA-256 over the variables and roles that configured the product.
    :param collection_digest: SHA-256 over the files of this collection (:func:`_digest.of_tree`).
    :param packages: everything locked that the build used: the product's packages and the SDK's.
    :param artifacts: the subjects.
    """
    dependencies = [
        {"name": COLLECTION, "digest": {"sha256": collection_digest}, "annotations": {"version": collection_version}},
        *(_package(package) for package in sorted(set(packages))),
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": artifact.file, "digest": {"sha256": artifact.sha256}}
            for artifact in sorted(artifacts, key=lambda each: each.file)
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "product": product,
                    "version": version,
                    "inventory": {"digest": {"sha256": inventory_digest}},
                },
                "internalParameters": {},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {"builder": {"id": BUILDER, "version": {COLLECTION: collection_version}}},
        },
    }


def _package(package: Package) -> Mapping[str, Any]:
    """A ResourceDescriptor (in-toto attestation framework) of a .deb file, named by its path in the archive."""
    return {
        "name": package.path,
        "digest": {"sha256": package.sha256},
        "annotations": {"package": package.name, "version": package.version, "archive": package.archive},
    }
