# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the enrolment service has to know before machines come: which they are, and what they are to become."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._boot import signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import manifest as manifests
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import (
    MANIFEST,
    PARTS,
    SIGNATURE,
    check_file,
    parse,
)
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._signatures import Trust
from ansible_collections.vauban.fleet.plugins.module_utils._tpm import expectation
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import contents
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

CONFIGURATIONS = "configurations"  # below the root of the web server


@dataclass(frozen=True)
class Release:
    """A release that is whole, and signed by whom the site believes.

    :param pcrs: the values that a machine has to show, by when it shows them.
    :param recipients: of age, of those who read recovery keys.
    :param threshold: how many of them it takes.
    """

    product: str
    version: str
    manifest_sha256: str
    pcrs: Mapping[str, Mapping[str, str]]
    recipients: tuple[str, ...]
    threshold: int = 1

    @property
    def name(self) -> str:
        """Its place in the store of the server, and at the service."""
        return f"{self.product}/{self.version}"

    @property
    def content(self) -> dict[str, Any]:
        """For the service."""
        return {"manifest_sha256": self.manifest_sha256, "pcrs": {key: dict(each) for key, each in self.pcrs.items()}}


def read_release(directory: Path, keys: Path, sandbox: Sandbox) -> Release:
    """Verify a release: its signature, every file of it that machines get, and what it promises.

    :param keys: ``PRODUCT/root.pem`` below it says whose signatures are believed.
    :raises FleetError: names the file that is missing, changed or not signed.
    """
    path = directory / MANIFEST
    for each in (path, directory / SIGNATURE):
        if not each.is_file():
            raise FleetError("the file is missing", where=str(each), remedy="name releases in provision_releases")
    content = path.read_bytes()
    manifest = parse(content.decode("utf-8", "replace"))
    root = ProductKeys(keys / manifest["product"]).trust("release").root
    if not root.is_file():
        remedy = "bring the certificate of the product's root there, with its list, or set provision_keys_dir"
        raise FleetError("is not there", where=str(root), remedy=remedy)
    try:
        signing.verify_cms(sandbox, path, directory / SIGNATURE, Trust(root, "release"))
        manifests.validate(manifest)
        for part in (*PARTS, "installer"):
            check_file(directory / manifest[part]["file"], manifest[part])
    except FleetError as exc:
        remedy = f"bring the release as it was built; {root} says whose signature is believed"
        raise FleetError(exc.message, where=exc.where or str(path), remedy=remedy) from exc
    pcrs = {
        "installer": _demanded(expectation.of_installer(manifest)),
        "installed": _demanded(expectation.of_product(manifest)),
    }
    escrow = manifest["escrow"]
    return Release(
        manifest["product"],
        manifest["version"],
        hashlib.sha256(content).hexdigest(),
        pcrs,
        tuple(escrow["recipients"]),
        escrow.get("threshold", 1),
    )


def require_listed(plan: Plan, hosts: Iterable[str]) -> None:
    """Whether the site says which TPM each host has: recovery keys are for no other, whatever the server says.

    :raises FleetError: it does not.
    """
    for name in hosts:
        machine = plan.members[name].host.machine
        if machine is None or machine.ek_sha256 is None:
            remedy = "write the SHA-256 of the new TPM's endorsement key there; a machine in quarantine shows it"
            raise FleetError("is missing", where=f"hosts.{name}.machine.ek_sha256", remedy=remedy)


def _demanded(expected: Mapping[int, str | None]) -> dict[str, str]:
    """Without the registers whose value differs from model to model."""
    return {str(number): value for number, value in expected.items() if value is not None}


def choose(plan: Plan, products: Iterable[str], releases: Iterable[Release]) -> dict[str, Release]:
    """The release of each product that is installed.

    :raises FleetError: there is none, or it is not clear which.
    """
    part = plan.site.provisioning
    wanted = part.releases if part is not None else {}
    known = list(releases)
    found = {}
    for product in products:
        version = wanted.get(product)
        fitting = [each for each in known if each.product == product and version in (None, each.version)]
        if len(fitting) != 1:
            said = f"{len(fitting)} releases" if fitting else "no release"
            there = ", ".join(each.name for each in known) or "none at all"
            raise FleetError(
                f"{said} of {product}{f' {version}' if version else ''}; there are {there}",
                where="provision_releases",
                remedy=f"name one directory for it there, or its version in the site: provisioning.releases.{product}",
            )
        found[product] = fitting[0]
    return found


def expectation_of(
    plan: Plan, name: str, release: Release, configuration: str | None, *, reinstall: bool, keep: bool = False
) -> dict[str, Any]:
    """What the service expects of a host's machine, and hands out to it.

    :param configuration: SHA-256 of the archive that holds it.
    """
    host, site = plan.members[name].host, plan.site.provisioning
    machine = host.machine
    if machine is None or site is None or (disk := machine.disk or site.disk) is None:
        raise FleetError("is not described as a machine to be installed", where=f"hosts.{name}.machine")
    known = [*machine.macs, *(part.mac for part in host.interfaces.values() if part.mac is not None)]
    sizes = {**site.sizes.model_dump(exclude_none=True), **machine.sizes.model_dump(exclude_none=True)}
    url = f"{site.server}/{CONFIGURATIONS}/{configuration}"
    return {
        "product": release.product,
        "version": release.version,
        "class": machine.trust,
        "admit": machine.admitted,
        "ek_sha256": machine.ek_sha256,
        "ek_certificate": machine.ek_certificate or machine.admitted == "serial",
        "serial": machine.serial,
        "macs": list(dict.fromkeys(known)),
        "disk": disk.rule,
        "sizes": sizes,
        "hardware_profile": machine.hardware_profile,
        "recipients": list(release.recipients),
        "threshold": release.threshold,
        "configuration": {"sha256": configuration, "url": url} if configuration is not None else None,
        "certificates": [
            {
                "name": purpose,
                "subject": contents.common_name(names[0]),
                "dns": list(names),
                "usages": contents.usages(purpose),
            }
            for purpose, names in contents.wanted(plan, name)
        ],
        "reinstall": reinstall,
        "keep": keep,
    }
