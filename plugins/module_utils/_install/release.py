# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._signatures import Trust

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.p7s"
FORMAT = 1
PARTS = ("core", "uki", "boot_loader")
_FILE = {"file": str, "size": int, "sha256": str}
# What an installation reads of the manifest; a dictionary is an object with at least these keys.
_SHAPE: Mapping[str, Any] = {
    "product": str,
    "version": str,
    "core": {**_FILE, "verity": {"root_hash": str, "hash_offset": int}},
    "uki": _FILE,
    "boot_loader": _FILE,
    "volume_group": str,
    "state": {"places": list, "pcrs": list, "pcr_public_key": str},
    "escrow": {"recipients": list},
}
_KIND_NAMES = {str: "text", int: "a number", list: "a list", dict: "an object"}
# Product, version and volume group become parts of file names and names of logical volumes (lvm(8)).
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")


class Release:
    """A release as it lies in a directory: signed manifest and the files it names.

    :param directory: read-only; for example a mounted medium.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest

    def path(self, part: str) -> Path:
        """The file of ``core``, ``uki`` or ``boot_loader``."""
        return self.directory / str(self.manifest[part]["file"])

    @property
    def product(self) -> str:
        """Name of the product."""
        return str(self.manifest["product"])

    @property
    def version(self) -> str:
        """Version of the product, with its taint if it is instrumented."""
        return str(self.manifest["version"])


def open_release(directory: Path, root: Path) -> Release:
    """Verify the manifest's signature, then every file the machine gets.

    :raises FleetError: names the file that is missing, changed or not signed.
    """
    release = Release(directory, verified_manifest(directory, root))
    for part in PARTS:
        check_file(release.path(part), release.manifest[part])
    return release


def verified_manifest(directory: Path, root: Path) -> Mapping[str, Any]:
    """The manifest of a directory, if its signature is good.

    The signature is a detached CMS (RFC 5652).

    :param root: certificate of the root and its list, which are part of the signed installer (``_signatures.py``).
    :raises FleetError: a file is missing, or the manifest is not signed, or no manifest.
    """
    manifest, signature = directory / MANIFEST, directory / SIGNATURE
    for path in (manifest, signature):
        if not path.is_file():
            raise FleetError("the file is missing", where=str(path))
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", str(signature)]
    command += ["-content", str(manifest), *Trust(root, "release").openssl(), "-out", "/dev/null"]
    try:
        run(command)
    except CommandError as exc:
        raise FleetError(
            f"the release is not signed with key release, by {root}: {exc.message}", where=str(manifest)
        ) from exc
    return parse(manifest.read_text("utf-8"))


def parse(text: str) -> Mapping[str, Any]:
    """Read a manifest as far as an installation needs it (``files/schema/manifest.json`` says the whole).

    :raises FleetError: names the key.
    """
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise FleetError(f"not JSON: {exc}", where=MANIFEST) from exc
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FleetError(f"only manifests of format {FORMAT} are supported", where=f"{MANIFEST}: format")
    _check_shape(manifest, _SHAPE, ())
    for key in ("product", "version", "volume_group"):
        if not _NAME.fullmatch(manifest[key]):
            raise FleetError(f"not a plain name: {manifest[key]!r}", where=f"{MANIFEST}: {key}")
    for part in PARTS:
        if not _FILE_NAME.fullmatch(manifest[part]["file"]):
            raise FleetError(f"not a plain file name: {manifest[part]['file']!r}", where=f"{MANIFEST}: {part}.file")
    _check_threshold(manifest["escrow"])
    return manifest


def _check_threshold(escrow: Mapping[str, Any]) -> None:
    """Of officers who open a recovery key together. Without it each does, alone."""
    threshold, officers = escrow.get("threshold", 1), len(escrow["recipients"])
    if not isinstance(threshold, int) or isinstance(threshold, bool) or not 1 <= threshold <= max(officers, 1):
        raise FleetError(f"must be a number from 1 to {officers}: {threshold!r}", where=f"{MANIFEST}: escrow.threshold")


def _check_shape(value: Any, shape: Any, path: tuple[str, ...]) -> None:
    kind: Any = shape if isinstance(shape, type) else dict
    if not isinstance(value, kind) or isinstance(value, bool):
        where = f"{MANIFEST}: {'.'.join(path)}"
        raise FleetError("missing" if value is None else f"must be {_KIND_NAMES[kind]}", where=where)
    if isinstance(shape, Mapping):
        for key, below in shape.items():
            _check_shape(value.get(key), below, (*path, key))


def check_file(path: Path, entry: Mapping[str, Any]) -> None:
    """Compare size and SHA-256 of a file with the manifest.

    :raises FleetError: they differ.
    """
    try:
        size, digest = path.stat().st_size, _digest.of_file(path)
    except FileNotFoundError:
        raise FleetError("the file is missing", where=str(path)) from None
    if (size, digest) != (entry["size"], entry["sha256"]):
        raise FleetError(
            f"{size} bytes with SHA-256 {digest}; the manifest says {entry['size']} and {entry['sha256']}",
            where=str(path),
        )
