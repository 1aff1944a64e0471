# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, Sandbox

BLOCK = 4096  # bytes, of dm-verity data and hash blocks
FEC_ROOTS = 2  # parity bytes in 255: 0.8 % of the image repairs a burst of 0.4 %
_NAMESPACE = uuid.UUID("6c1f2b5e-3b0a-4d6e-9a51-0d6a4f6c7f11")
_ROOT_HASH = re.compile(r"^Root hash:\s+([0-9a-f]{64})$", re.MULTILINE)
FORMATS = ("erofs", "squashfs")


@dataclass(frozen=True)
class Verity:
    """What must be known to open a core image: it goes into the signed command line."""

    root_hash: str  # hexadecimal
    hash_offset: int  # bytes
    fec_offset: int  # bytes
    fec_roots: int
    size: int  # bytes, of the whole image

    def as_dict(self) -> dict[str, str | int]:
        """The same as plain data, for the manifest."""
        return asdict(self)

    def kernel_arguments(self, device: str, root_format: str) -> list[str]:
        """Arguments for systemd-veritysetup-generator(8); one device holds data, hash tree and parity."""
        options = ",".join(
            (
                "superblock=yes",
                f"hash-offset={self.hash_offset}",
                f"fec-device={device}",
                f"fec-offset={self.fec_offset}",
                f"fec-roots={self.fec_roots}",
                "panic-on-corruption",
            )
        )
        return [
            "root=/dev/mapper/root",
            f"rootfstype={root_format}",
            "ro",
            f"roothash={self.root_hash}",
            f"systemd.verity_root_data={device}",
            f"systemd.verity_root_hash={device}",
            f"systemd.verity_root_options={options}",
        ]


def make_file_system(sandbox: Sandbox, tree: Layers, dest: Path, *, root_format: str, epoch: int, log: Path) -> None:
    """Write the tree as a read-only file system image, the same bytes for the same tree.

    :param dest: the image; its directory is the only place the step can write to.
    """
    identifier = uuid.uuid5(_NAMESPACE, str(epoch))
    target = f"/run/out/{dest.name}"
    if root_format == "erofs":
        # Uncompressed: deltas stay small and nothing is compressed twice on its way (docs/build.md).
        command = ["mkfs.erofs", "--quiet", f"-T{epoch}", f"-U{identifier}", target, "/run/tree"]
    elif root_format == "squashfs":
        command = ["mksquashfs", "/run/tree", target, "-quiet", "-no-progress", "-noappend", "-comp", "zstd",
                   "-Xcompression-level", "3", "-all-time", str(epoch), "-mkfs-time", str(epoch)]  # fmt: skip
    else:
        known = ", ".join(FORMATS)
        raise FleetError(f"unknown file system {root_format!r}; known: {known}", where="product_root_format")
    sandbox.run(
        command,
        binds=[Bind(dest.parent, "/run/out", writable=True)],
        layers={"/run/tree": tree},
        privileged=True,
        log=log,
    )


def add_verity(sandbox: Sandbox, image: Path, *, salt_seed: str, log: Path) -> Verity:
    """Append the dm-verity hash tree and the error-correction parity to a file system image (veritysetup(8)).

    Salt and UUID derive from ``salt_seed``: a random salt would make every build different.

    :raises FleetError: the result does not verify, all of it, without help from the parity.
    """
    data_blocks = -(-image.stat().st_size // BLOCK)
    hash_offset = data_blocks * BLOCK
    with image.open("r+b") as stream:
        stream.truncate(hash_offset)
    path = f"/run/out/{image.name}"
    options = [
        f"--salt={_digest.of_data('salt', salt_seed)}",
        f"--uuid={uuid.uuid5(_NAMESPACE, salt_seed)}",
        f"--data-blocks={data_blocks}",
        f"--hash-offset={hash_offset}",
    ]
    binds = [Bind(image.parent, "/run/out", writable=True)]
    fec = image.with_name(f"{image.name}.fec")
    try:
        formatted = sandbox.run(
            ["veritysetup", "format", *options,
             f"--fec-device=/run/out/{fec.name}", f"--fec-roots={FEC_ROOTS}", path, path],
            binds=binds,
            log=log,
        )  # fmt: skip
        found = _ROOT_HASH.search(formatted.stdout)
        if found is None:
            raise FleetError("veritysetup printed no root hash", where=str(log))
        fec_offset = -(-image.stat().st_size // BLOCK) * BLOCK
        with image.open("r+b") as stream:
            stream.seek(fec_offset)
            stream.write(fec.read_bytes())
    finally:
        fec.unlink(missing_ok=True)
    verity = Verity(found[1], hash_offset, fec_offset, FEC_ROOTS, image.stat().st_size)
    sandbox.run(
        ["veritysetup", "verify", f"--hash-offset={hash_offset}", path, path, verity.root_hash],
        binds=[Bind(image.parent, "/run/out")],
        log=log,
    )
    return verity
