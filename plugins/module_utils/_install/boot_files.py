# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import Release, check_file

# loader.conf(5): nobody edits a command line; no entry for the firmware's menu, no waiting.
LOADER_CONF = "timeout 0\neditor no\nauto-firmware no\nauto-reboot no\nauto-poweroff no\nsecure-boot-enroll off\n"
BOOT_LOADER_PATHS = ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi")


def install(release: Release, device: Path) -> dict[str, Any]:
    """Put boot loader and UKI on the EFI system partition (Boot Loader Specification, type 2 entries).

    :returns: evidence: the files, read back and compared with the manifest.
    """
    uki = f"EFI/Linux/{release.product}_{release.version}.efi"
    files = {**dict.fromkeys(BOOT_LOADER_PATHS, "boot_loader"), uki: "uki"}
    with tempfile.TemporaryDirectory(prefix="esp-") as name:
        root = Path(name)
        _mount(device, root)
        try:
            for path, part in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                _place(release.path(part), root / path)
            (root / "loader").mkdir(exist_ok=True)
            (root / "loader/loader.conf").write_text(LOADER_CONF)
        finally:
            run(["umount", root])
        run(["blockdev", "--flushbufs", device])
        _mount(device, root)
        try:
            for path, part in files.items():
                check_file(root / path, release.manifest[part])
        finally:
            run(["umount", root])
    return {"files": {path: release.manifest[part]["sha256"] for path, part in files.items()}}


def _mount(device: Path, root: Path) -> None:
    run(["mount", "-t", "vfat", "-o", "nodev,nosuid,noexec,umask=0077", device, root])


def _place(source: Path, dest: Path) -> None:
    """Write under a temporary name, synchronise, rename: a cut never leaves half a file under the final name."""
    temporary = dest.with_name(dest.name + ".new")
    with source.open("rb") as reader, temporary.open("wb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())
    temporary.rename(dest)


def enter(disk: Path, label: str) -> dict[str, Any]:
    """Make the boot loader the firmware's first choice (UEFI specification, 3.1), in place of an earlier entry.

    :param disk: its first partition is the EFI system partition.
    :returns: evidence: the order that firmware will try.
    """
    known = run(["efibootmgr"]).stdout
    for number in re.findall(rf"^Boot([0-9A-F]{{4}})[* ] {re.escape(label)}(?:\t|$)", known, re.MULTILINE):
        run(["efibootmgr", "--quiet", "--delete-bootnum", "--bootnum", number])
    entry = ["--label", label, "--loader", "\\" + BOOT_LOADER_PATHS[1].replace("/", "\\")]
    run(["efibootmgr", "--quiet", "--create", "--disk", disk, "--part", "1", *entry])
    order = re.search(r"^BootOrder: (.*)$", run(["efibootmgr"]).stdout, re.MULTILINE)
    return {"boot_order": order[1] if order else ""}


def leave(partitions: Iterable[str]) -> list[str]:
    """Delete the firmware's entries that start something from these partitions, whatever they are called.

    :param partitions: their UUIDs, as in the partition table (GPT).
    :returns: evidence: the numbers of the entries.
    """
    wanted = "|".join(re.escape(each) for each in partitions)
    if not wanted:
        return []
    known = run(["efibootmgr", "--verbose"]).stdout
    found = re.findall(rf"^Boot([0-9A-F]{{4}})[* ] .*GPT,(?:{wanted}),", known, re.MULTILINE | re.IGNORECASE)
    for number in found:
        run(["efibootmgr", "--quiet", "--delete-bootnum", "--bootnum", number])
    return [str(number) for number in found]


def repeat() -> None:
    """Let firmware start next what it has started now, and only then (BootNext)."""
    if current := re.search(r"^BootCurrent: ([0-9A-F]{4})$", run(["efibootmgr"]).stdout, re.MULTILINE):
        run(["efibootmgr", "--quiet", "--bootnext", current[1]])
