# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import hashlib
import tempfile
import uuid
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._install.addresses import FILE
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

LOADER = "EFI/BOOT/BOOTX64.EFI"  # what firmware starts of removable media (UEFI specification, 3.5.1.1)
_MIB = 1024 * 1024
_SECTOR = 512
_START = _MIB  # of the partition, bytes; as much is left behind it for the second copy of the table
_LEAST = 64 * _MIB  # of the partition: a FAT32 file system has at least 65525 clusters
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_EPOCH = 315532800  # 1980-01-01, the first day that FAT knows


def write(sandbox: Sandbox, uki: Path, addresses: str, dest: Path) -> None:
    """Write an installation medium: a disk with an EFI system partition that firmware starts the installer from.

    The same contents give the same bytes; other contents give other UUIDs, so that two media are told apart.

    :param uki: the signed installer. Nothing else is measured: no add-on, no credential (systemd-stub(7)).
    :param addresses: for :data:`FILE`.
    """
    digest = hashlib.sha256(f"{_digest.of_file(uki)} {addresses}".encode()).digest()
    disk, partition = (str(uuid.UUID(bytes=digest[start : start + 16], version=4)) for start in (0, 16))
    size = _partition_size(uki.stat().st_size + len(addresses))
    table = (
        f"label: gpt\nlabel-id: {disk}\nsector-size: {_SECTOR}\n"
        f"start={_START // _SECTOR}, size={size // _SECTOR}, type={_ESP}, uuid={partition}, name=INSTALLER\n"
    )
    with replacing_file(dest) as image, tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as name:
        text = Path(name) / FILE
        text.write_text(addresses, "ascii")
        with image.open("wb") as stream:
            stream.truncate(_START + size + _MIB)
        shown, places = "/run/out/image", ["-i", f"/run/out/image@@{_START}"]
        binds = [Bind(image, shown, writable=True), Bind(uki, "/run/in/uki"), Bind(text, "/run/in/text")]
        formatting = ["mkfs.vfat", "--invariant", "-F", "32", "-n", "INSTALLER", "-i", digest.hex()[:8]]
        formatting += [f"--offset={_START // _SECTOR}", shown, str(size // 1024)]
        for command, stdin in (
            (["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", shown], table.encode()),
            (formatting, None),
            (["mmd", *places, "::EFI", "::EFI/BOOT"], None),
            (["mcopy", *places, "/run/in/uki", f"::{LOADER}"], None),
            (["mcopy", *places, "/run/in/text", f"::{FILE}"], None),
        ):
            sandbox.run(command, binds=binds, stdin=stdin, env={"SOURCE_DATE_EPOCH": str(_EPOCH)})


def _partition_size(content: int) -> int:
    """Bytes for so many bytes of files, in whole MiB: two tables of clusters take less than 2 %."""
    return max(_LEAST, -(-content * 102 // 100 // _MIB) * _MIB + 4 * _MIB)
