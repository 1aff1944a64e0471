# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Update bundles in RAUC's format ``verity`` (RAUC's reference, "Bundle Formats").

A squashfs, its dm-verity hash tree without a superblock, the manifest as an attached CMS signature, and the length of
that in eight bytes, the highest first. ``rauc bundle`` writes the same but takes a random salt, so that no two bundles
are equal, and keys in a token only by an engine of OpenSSL. ``rauc info`` is the judge of what is made here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._boot import signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._signatures import Trust

# Names inside a bundle. What reads them on a machine: role update_client.
CORE, UKI = "core.img", "uki.efi"
_BLOCK = 4096  # bytes, of data and hash tree
_ROOT_HASH = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)
# RAUC wants a configuration to read a bundle; what it says of a system counts for nothing here.
_JUDGE = "[system]\ncompatible=any\nbootloader=noop\n[keyring]\npath=/run/in/root.pem\n"
_JUDGE += "check-purpose=codesign\ncheck-crl=true\n"


def write_payload(sandbox: Sandbox, core: Path, uki: Path, dest: Path, *, epoch: int, log: Path) -> dict[str, str]:
    """Write the part of a bundle that is not signed: the same bytes for the same two files.

    :param dest: its directory is the only place the step can write to.
    :returns: keys of section ``[bundle]`` of RAUC's manifest.
    """
    target, binds = f"/run/out/{dest.name}", [Bind(dest.parent, "/run/out", writable=True)]
    dest.unlink(missing_ok=True)
    sandbox.run(
        ["mksquashfs", f"/run/in/{CORE}", f"/run/in/{UKI}", target, "-quiet", "-no-progress", "-noappend", "-no-xattrs",
         "-all-root", "-comp", "zstd", "-Xcompression-level", "3", "-all-time", str(epoch), "-mkfs-time", str(epoch)],
        binds=[*binds, Bind(core, f"/run/in/{CORE}"), Bind(uki, f"/run/in/{UKI}")],
        log=log,
    )  # fmt: skip
    size = dest.stat().st_size  # mksquashfs fills the last block
    salt = _digest.of_data("salt", _digest.of_file(dest))
    formatted = sandbox.run(
        ["veritysetup", "format", "--no-superblock", "--hash=sha256", f"--salt={salt}",
         f"--data-block-size={_BLOCK}", f"--hash-block-size={_BLOCK}", f"--data-blocks={size // _BLOCK}",
         f"--hash-offset={size}", target, target],
        binds=binds,
        log=log,
    )  # fmt: skip
    found = _ROOT_HASH.search(formatted.stdout)
    if found is None:
        raise FleetError("veritysetup printed no root hash", where=str(log))
    return {
        "format": "verity",
        "verity-hash": found[1],
        "verity-salt": salt,
        "verity-size": str(dest.stat().st_size - size),
    }


def manifest_text(product: str, version: str, bundle: Mapping[str, str], *, core_size: int, core_sha256: str) -> str:
    """RAUC's manifest: one image, for the slot class ``core``. The UKI is placed by the machine's boot loader backend.

    :param core_size: bytes.
    """
    sections: dict[str, Mapping[str, str]] = {
        "update": {"compatible": product, "version": version},
        "bundle": bundle,
        "image.core": {"filename": CORE, "size": str(core_size), "sha256": core_sha256},
    }
    lines = [[f"[{name}]", *(f"{key}={value}" for key, value in keys.items()), ""] for name, keys in sections.items()]
    return "\n".join(line for section in lines for line in section)


def sign(
    sandbox: Sandbox,
    payload: Path,
    manifest: str,
    key: KeyReference,
    certificate: Path,
    dest: Path,
    *,
    trust: Trust,
    log: Path,
) -> None:
    """Join payload and signed manifest to a bundle, and have RAUC verify it before it gets its name.

    :param payload: what :func:`write_payload` wrote; it becomes the bundle.
    :param trust: in the key ``release``, as machines have it.
    :raises FleetError: unusable key, or RAUC refuses the bundle.
    """
    text, signature = payload.with_name(f"{payload.name}.raucm"), payload.with_name(f"{payload.name}.cms")
    text.write_text(manifest)
    signing.sign_cms(sandbox, text, key, certificate, signature, attached=True)
    data = signature.read_bytes()
    with payload.open("ab") as stream:
        stream.write(data + struct.pack(">Q", len(data)))
        stream.flush()
        os.fsync(stream.fileno())
    verify(sandbox, payload, trust, log=log)
    payload.rename(dest)


def verify(sandbox: Sandbox, bundle: Path, trust: Trust, *, log: Path | None = None) -> str:
    """Let RAUC check signature and structure of a bundle; return its manifest as JSON (rauc(1), ``info``).

    The payload is not read: on a machine dm-verity checks each block when it is.

    :raises FleetError: RAUC refuses it.
    """
    script = 'printf %s "$1" > /run/system.conf; exec rauc --conf=/run/system.conf info --output-format=json-2 "$2"'
    binds = [Bind(bundle, "/run/in/bundle.raucb"), Bind(trust.root, "/run/in/root.pem")]
    command = ["sh", "-euc", script, "sh", _JUDGE, "/run/in/bundle.raucb"]
    return sandbox.run(command, binds=binds, log=log).stdout
