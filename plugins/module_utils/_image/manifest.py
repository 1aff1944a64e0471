# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.core import Verity
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Lock, Package

FORMAT = 1
MANIFEST = "manifest.json"
SCHEMA = Path(__file__).parents[3] / "files/schema/manifest.json"
_OCTETS = "application/octet-stream"
# By the end of the file name, the longest first (IANA media types; some are not registered).
_MEDIA_TYPES = {
    ".cdx.json": "application/vnd.cyclonedx+json",
    ".intoto.json": "application/vnd.in-toto+json",
    ".json": "application/json",
    ".raucb": "application/vnd.rauc.bundle",
    ".efi": "application/vnd.microsoft.portable-executable",
    ".squashfs": "application/vnd.squashfs",
    ".erofs": "application/x-erofs-image",
}


@dataclass(frozen=True)
class Artifact:
    """A file of a release."""

    file: str  # name without directory
    size: int  # bytes
    sha256: str
    media_type: str

    @classmethod
    def of(cls, path: Path) -> Artifact:
        """Describe a file as it is now.

        :raises FleetError: the file is not there.
        """
        if not path.is_file():
            raise FleetError("the file is not there", where=str(path))
        media_type = next((kind for end, kind in _MEDIA_TYPES.items() if path.name.endswith(end)), _OCTETS)
        return cls(path.name, path.stat().st_size, _digest.of_file(path), media_type)


@dataclass(frozen=True)
class Uki:
    """A signed UKI, and what a machine that starts it is expected to be.

    :param unsigned_sha256: of the file before it was signed: that one is the same in every build.
    :param authenticode_sha256: what firmware looks for in ``dbx``.
    :param signer: certificate in DER, which firmware looks for in ``db`` and ``dbx``.
    :param policy_keys: fingerprints of the keys whose policy lets the TPM open the state volume for it.
    :param kernel: release of the kernel, as uname(1) -r prints it.
    :param pcr4: expected PCR 4 by the way the UKI is started: ``boot_loader`` or ``direct``.
    :param pcr11: expected PCR 11 after each boot phase.
    """

    artifact: Artifact
    unsigned_sha256: str
    authenticode_sha256: str
    signer: bytes
    policy_keys: Sequence[str]
    kernel: str
    command_line: str
    pcr4: Mapping[str, str]
    pcr11: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {
            **asdict(self.artifact),
            "unsigned_sha256": self.unsigned_sha256,
            "authenticode_sha256": self.authenticode_sha256,
            "signer": base64.b64encode(self.signer).decode(),
            "policy_keys": list(self.policy_keys),
            "kernel": self.kernel,
            "command_line": self.command_line,
            "pcr": {"4": dict(self.pcr4), "11": dict(self.pcr11)},
        }


@dataclass(frozen=True)
class State:
    """What the installer makes the state volume from.

    :param places: as ``files/state_places.yml``.
    :param pcrs: registers bound literally, beside the signed policy on PCR 11.
    :param pcr_public_key: PEM, of the key that signs that policy.
    """

    places: Sequence[Mapping[str, str]]
    pcrs: Sequence[int]
    pcr_public_key: str


def kept_packages(lock: Lock, kept: Mapping[str, str]) -> tuple[Package, ...]:
    """The locked packages whose files stay in an image.

    :param kept: version by name, as :func:`finalize.finalize` returns it.
    :raises FleetError: the image holds a package that the lock file does not name in this version.
    """
    locked = {(package.name, package.version): package for package in lock.packages}
    if strangers := sorted(set(kept.items()) - set(locked)):
        raise FleetError(
            f"{len(strangers)} packages of the image are not in the lock file, first {'='.join(strangers[0])}",
            remedy="build the root tree again",
        )
    return tuple(sorted(locked[item] for item in kept.items()))


def build_manifest(
    *,
    product: str,
    version: str,
    security_epoch: int,
    instrumentation: Iterable[str],
    key_kind: str,
    lock: Lock,
    lock_sha256: str,
    packages: Iterable[Package],
    core: Artifact,
    core_format: str,
    verity: Verity,
    uki: Uki,
    installer: Uki,
    bundle: Artifact,
    boot_loader: Artifact,
    volume_group: str,
    state: State,
    recipients: Iterable[str],
    threshold: int = 1,
    certificates: Mapping[str, str],
    sbom: Artifact,
    provenance: Artifact,
    origin: Artifact,
) -> dict[str, Any]:
    """Everything a release says about itself, checked against the schema (``files/schema/manifest.json``).

    The same arguments give the same manifest: no clock is read, and order does not count where it has no meaning.

    :param security_epoch: machines refuse a release with a lower number than that of the one they run.
    :param instrumentation: development features that taint the version.
    :param key_kind: ``development`` or ``production``.
    :param lock_sha256: of the lock file.
    :param packages: those whose files are in the image (:func:`kept_packages`).
    :param recipients: age recipients of the recovery key.
    :param threshold: how many of them it takes to open it.
    :param certificates: SHA-256 fingerprint by name of key.
    :param origin: the record that says of every file of the core where it comes from.
    :raises FleetError: names the key with an impossible value.
    """
    manifest = {
        "format": FORMAT,
        "product": product,
        "version": version,
        "security_epoch": security_epoch,
        "architecture": lock.architecture,
        "source_date_epoch": lock.epoch,
        "instrumentation": sorted(instrumentation),
        "key_kind": key_kind,
        "lock": {"sha256": lock_sha256, "releases": [asdict(release) for release in sorted(lock.releases)]},
        "packages": [_package(package) for package in sorted(packages)],
        "core": {**asdict(core), "format": core_format, "verity": verity.as_dict()},
        "uki": uki.as_dict(),
        "installer": installer.as_dict(),
        "bundle": asdict(bundle),
        "boot_loader": asdict(boot_loader),
        "volume_group": volume_group,
        "state": {
            "places": [dict(place) for place in state.places],
            "pcrs": sorted(state.pcrs),
            "pcr_public_key": state.pcr_public_key,
        },
        "escrow": {"recipients": sorted(recipients), **({"threshold": threshold} if threshold > 1 else {})},
        "certificates": {name: {"sha256": fingerprint} for name, fingerprint in certificates.items()},
        "sbom": asdict(sbom),
        "provenance": asdict(provenance),
        "origin": asdict(origin),
    }
    validate(manifest)
    return manifest


def validate(manifest: Any) -> None:
    """Check a manifest against the schema.

    :raises FleetError: names the key, for example ``manifest.json: core.verity.root_hash``.
    """
    import jsonschema

    checker = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    error = jsonschema.exceptions.best_match(checker.iter_errors(manifest))
    if error is not None:
        key = error.json_path.removeprefix("$").removeprefix(".")
        raise FleetError(_shortened(error.message), where=f"{MANIFEST}: {key}" if key else MANIFEST)


def _package(package: Package) -> dict[str, str]:
    return {key: getattr(package, key) for key in ("name", "version", "architecture", "source", "sha256")}


def _shortened(message: str) -> str:
    """jsonschema quotes the whole offending value in front of what is wrong with it."""
    return message if len(message) <= 300 else f"{message[:100]} ... {message[-200:]}"
