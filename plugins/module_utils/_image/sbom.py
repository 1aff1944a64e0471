# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import logging
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Lock, Package
from ansible_collections.vauban.fleet.plugins.module_utils._image.packages import STATUS

SCHEMA_VERSION = "1.6"
ARTIFACT = "vauban.fleet:artifact"  # property of a component: a file of the release that holds some of it
_NAMESPACE = uuid.UUID("8f0f6a4c-5d0c-4b52-9d5e-2f3c1f0d7a35")


def build_sbom(
    databases: Sequence[str],
    contents: Mapping[str, Iterable[Package]],
    lock: Lock,
    *,
    product: str,
    version: str,
    author: str,
) -> dict[str, Any]:
    """The bill of materials of a release, CycloneDX 1.6, as debsbom reads it from dpkg's database.

    It holds the binary packages whose files are in an artifact, the source packages they come from, and who depends on
    whom: the minimum elements of NTIA (2021). A property of each binary package names the artifacts. Time and serial
    number derive from the content.

    :param databases: dpkg's (``/var/lib/dpkg/status``) of the root trees that files were taken from.
    :param contents: packages by name of the artifact that holds files of them.
    :param author: who answers for the product and for this document.
    :raises FleetError: dpkg does not know one of the packages, or the result is not valid.
    """
    packages = sorted({package for found in contents.values() for package in found})
    document = _scan(databases, packages, lock, product=product, version=version, author=author)
    codename = min(release.suite for release in lock.releases)  # the others are named after it: trixie-security
    _complete(document, contents, codename=codename, author=author)
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
    databases: Sequence[str], packages: Sequence[Package], lock: Lock, *, product: str, version: str, author: str
) -> dict[str, Any]:
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from debsbom.generate import Debsbom, SBOMType

    logging.getLogger("debsbom").setLevel(logging.ERROR)  # it warns of each missing supplier; _complete adds them
    seed = _digest.of_data(product, version, author, lock.epoch, [package.sha256 for package in sorted(packages)])
    with tempfile.TemporaryDirectory(prefix="fleet-sbom-") as name:
        status = Path(name) / STATUS
        status.parent.mkdir(parents=True)
        status.write_text(_stanzas(databases, packages), "utf-8")
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


def _stanzas(databases: Sequence[str], packages: Sequence[Package]) -> str:
    """Those stanzas of dpkg's databases (deb822) that describe ``packages``."""
    from debian.deb822 import Deb822

    wanted = {(package.name, package.version, package.architecture) for package in packages}
    found = {
        (stanza["Package"], stanza["Version"], stanza["Architecture"]): stanza
        for text in reversed(databases)
        for stanza in Deb822.iter_paragraphs(text, use_apt_pkg=False)
    }
    if missing := sorted(wanted - set(found)):
        raise FleetError(f"dpkg does not know {len(missing)} packages, first {'='.join(missing[0][:2])}")
    for key in wanted:
        # debsbom leaves out what is only unpacked, as the kernel is.
        found[key]["Status"] = "install ok installed"
    return "\n".join(found[key].dump() for key in sorted(wanted))


def _complete(
    document: dict[str, Any], contents: Mapping[str, Iterable[Package]], *, codename: str, author: str
) -> None:
    """Add what debsbom cannot know.

    Digests of the .deb files, the artifacts, the distribution, who wrote this, and suppliers that are missing.
    """
    from packageurl import PackageURL

    artifacts: dict[tuple[str, str, str], list[str]] = {}
    digests: dict[tuple[str, str, str], str] = {}
    for artifact, packages in sorted(contents.items()):
        for package in packages:
            key = (package.name, package.version, package.architecture)
            artifacts.setdefault(key, []).append(artifact)
            digests[key] = package.sha256
    for component in document["components"]:
        purl = PackageURL.from_string(component["purl"])
        architecture = purl.qualifiers["arch"]
        key = (component["name"], component["version"], architecture)
        if key in digests:
            component["hashes"] = [{"alg": "SHA-256", "content": digests[key]}]
            component["properties"] = [{"name": ARTIFACT, "value": name} for name in artifacts[key]]
        # Sources that were only built into others: dpkg's database does not name their maintainers.
        component.setdefault("supplier", {"name": "Debian"})
        component["purl"] = purl._replace(qualifiers={**purl.qualifiers, "distro": codename}).to_string()
        digests.pop(key, None)
    if digests:
        raise FleetError(f"debsbom left out {len(digests)} packages, first {'='.join(min(digests)[:2])}")
    document["metadata"]["authors"] = [{"name": author}]
    document["metadata"]["supplier"] = {"name": author}
