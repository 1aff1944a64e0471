# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases that are small and signed by nobody, but otherwise such as builds make them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any


def write_release(directory: Path, product: str, version: str, *, core_size: int = 100_000, seed: int = 0) -> Path:
    """A release with a manifest and the files it names; another ``seed`` gives other contents."""
    directory.mkdir(parents=True)
    full = f"{product}_{version}"
    contents = random.Random(f"{full} {seed}")
    manifest: dict[str, Any] = {
        "format": 1,
        "product": product,
        "version": version,
        "volume_group": "fleet",
        "state": {"places": [], "pcrs": [], "pcr_public_key": ""},
        "escrow": {"recipients": []},
    }
    for part, name, size in (
        ("core", "core.erofs", core_size),
        ("uki", f"{full}.efi", 30_000),
        ("installer", f"{full}_installer.efi", 70_001),
        ("boot_loader", "systemd-bootx64.efi", 10_000),
        ("sbom", f"{full}.cdx.json", 1000),
    ):
        content = contents.randbytes(min(size, 1 << 20)).ljust(size, b"\0")
        (directory / name).write_bytes(content)
        manifest[part] = {"file": name, "size": size, "sha256": hashlib.sha256(content).hexdigest()}
    manifest["core"]["verity"] = {"root_hash": "0" * 64, "hash_offset": 0}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2))
    (directory / "manifest.json.p7s").write_bytes(contents.randbytes(800))
    return directory
