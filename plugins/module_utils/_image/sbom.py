# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import logging
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Lock, Package

STATUS = "var/lib/dpkg/status"
SCHEMA_VERSION = "1.6"
_NAMESPACE = uuid.UUID("8f0f6a4c-5d0c-4b52-9d5e-2f3c1f0d7a35")


def build_sbom(
    root: Path, packages: Sequence[Package], lock: Lock, *, product: str, version: str, author: str
) -> dict[str, Any]:
    """The bill of materials of an image, CycloneDX 1.6, as debsbom reads it from dpkg's database.

    It holds the binary packages whose files stay in the image, the source packages they come from, and who depends on
    whom: the minimum elements of NTIA (2021). Time and serial number derive from the content.

    :param root: the root tree, before anything was removed from it; only read.
    :param packages: those that stay (:func:`manifest.kept_packages`).
    :param author: who answers for the product and for this document.
    :raises FleetError: dpkg does not know one of the packages, or the result is not valid.
    """
    document = _scan(root, packages, lock, product=product, version=version, author=author)
    codename = min(release.suite for release in lock.releases)  # the others are named after it: trixie-security
    _complete(document, packages, codename=codename, author=author)
    validate(document)
    return document


def validate(document: Mapping[str, Any]) -> None:
    """Check a bill of materials against the strict schema of CycloneDX.

    :raises FleetError: says which part is not valid.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.from_version(SCHEMA_VERSION)).validate_str(json.dumps(document))
    if error is not None:
        raise FleetError(f"not a valid bill of materials: {str(error)[:300]}")


def _scan(
    root: Path, packages: Sequence[Package], lock: Lock, *, product: str, version: str, author: str
) -> dict[str, Any]:
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from debsbom.generate import Debsbom, SBOMType

    logging.getLogger("debsbom").setLevel(logging.ERROR)  # it warns of each missing supplier; _complete adds them
    seed = _digest.of_data(product, version, author, lock.epoch, [package.sha256 for package in sorted(packages)])
    with tempfile.TemporaryDirectory(prefix="fleet-sbom-") as name:
        status = Path(name) / STATUS
        status.parent.mkdir(parents=True)
        status.write_text(_kept_stanzas(root / STATUS, packages), "utf-8")
        scanner = Debsbom(
            distro_name=product,
            root=name,
            distro_supplier=author,
            distro_version=version,
            distro_arch=lock.architecture,
            distro_summary=f"{product}, an image of Debian",
            cdx_serialnumber=uuid.uuid5(_NAMESPACE, seed),
            timestamp=datetime.fromtimestamp(lock.epoch, UTC),
            recommends_deps=False,
            cdx_schema_version=SCHEMA_VERSION,
        )
        scanner.scan()
        bom = scanner.generate(SBOMType.CycloneDX)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.from_version(SCHEMA_VERSION)).output_as_string()
    document: dict[str, Any] = json.loads(text)
    return document


def _kept_stanzas(status: Path, packages: Sequence[Package]) -> str:
    """Those stanzas of dpkg's database (deb822) that describe ``packages``."""
    from debian.deb822 import Deb822

    wanted = {(package.name, package.version, package.architecture) for package in packages}
    with status.open(encoding="utf-8") as stream:
        found = {
            (stanza["Package"], stanza["Version"], stanza["Architecture"]): stanza.dump()
            for stanza in Deb822.iter_paragraphs(stream, use_apt_pkg=False)
        }
    if missing := sorted(wanted - set(found)):
        raise FleetError(
            f"dpkg does not know {len(missing)} packages, first {'='.join(missing[0][:2])}", where=str(status)
        )
    return "\n".join(found[key] for key in sorted(wanted))


def _complete(document: dict[str, Any], packages: Sequence[Package], *, codename: str, author: str) -> None:
    """Add what debsbom cannot know: digests of the .deb files, the distribution, who wrote this, missing suppliers."""
    from packageurl import PackageURL

    digests = {(package.name, package.version, package.architecture): package.sha256 for package in packages}
    for component in document["components"]:
        purl = PackageURL.from_string(component["purl"])
        architecture = purl.qualifiers["arch"]
        digest = digests.get((component["name"], component["version"], architecture))
        if digest is not None:
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]
        # Sources that were only built into others: dpkg's database does not name their maintainers.
        component.setdefault("supplier", {"name": "Debian"})
        component["purl"] = purl._replace(qualifiers={**purl.qualifiers, "distro": codename}).to_string()
    document["metadata"]["authors"] = [{"name": author}]
    document["metadata"]["supplier"] = {"name": author}
