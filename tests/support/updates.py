# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What builder and controller sign, as small as it can be: a release with a bundle of bytes, and a channel."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRODUCT = "gateway"


def sign(path: Path, keys: Path, name: str, dest: Path, *, attached: bool = False) -> None:
    """Sign a file with key ``name`` of a key directory, by openssl alone."""
    words = ["openssl", "cms", "-sign", "-binary", "-md", "sha256", "-nosmimecap", "-outform", "DER", "-in", str(path)]
    words += ["-nodetach"] if attached else []
    words += ["-signer", str(keys / f"{name}.crt"), "-inkey", str(keys / f"{name}.key"), "-out", str(dest)]
    subprocess.run(words, check=True, capture_output=True)


def write_release(
    directory: Path, keys: Path, version: str, *, signer: str = "release", **changes: Any
) -> Mapping[str, Any]:
    """A release as far as a machine that updates itself reads it.

    :param changes: of the manifest.
    """
    directory.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "format": 1,
        "product": PRODUCT,
        "version": version,
        "security_epoch": 1,
        "instrumentation": [],
    }
    for part, size in (("core", 50_000), ("uki", 20_000), ("bundle", 3_000_000), ("boot_loader", 10_000)):
        content = hashlib.shake_256(f"{part} {version}".encode()).digest(size)
        (directory / part).write_bytes(content)
        manifest[part] = {"file": part, "size": size, "sha256": hashlib.sha256(content).hexdigest()}
    manifest["core"]["verity"] = {"root_hash": "a" * 64, "hash_offset": 4096}
    manifest["uki"] |= {"signer": "MIIB", "authenticode_sha256": "a" * 64}
    manifest.update(changes)
    path = directory / "manifest.json"
    path.write_text(json.dumps(manifest))
    sign(path, keys, signer, directory / "manifest.json.p7s")
    return manifest


def write_channel(
    dest: Path, keys: Path, release: Path, *, signer: str = "publish", age: int = 0, days: int = 30, **changes: Any
) -> None:
    """What a channel offers.

    :param age: seconds since it was signed.
    :param changes: of what it says.
    """
    manifest = release / "manifest.json"
    told, now = json.loads(manifest.read_text()), dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age)
    offer = {
        "format": 1,
        "product": told["product"],
        "channel": "stable",
        "version": told["version"],
        "security_epoch": told["security_epoch"],
        "issued": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expires": (now + dt.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "revocations": 1,
        "manifest": {
            "size": manifest.stat().st_size,
            "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        },
        **changes,
    }
    dest.parent.mkdir(parents=True, exist_ok=True)
    text = dest.with_suffix(".json")
    text.write_text(json.dumps(offer))
    sign(text, keys, signer, dest, attached=True)
    text.unlink()
