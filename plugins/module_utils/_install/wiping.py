# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Erases the disk of a machine that leaves its site: the keys first, then all of it. Whenever power is cut, it can be
done again from the beginning."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import boot_files, disks, volumes
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk

DEVICES = Path("/dev")
_MIB = 1024 * 1024
_USUAL_HEADER = 16 * _MIB
_LARGEST_HEADER = 64 * _MIB


def choose(order: Mapping[str, Any], group: str) -> Disk:
    """The disk that is to be erased: the one that the site's rule matches, if it is a host's.

    :param order: ``disk``, the rule, and ``begun``, the disk that was begun with before, if there was one: nothing on
        it may say any more whose it was.
    :param group: the volume group of hosts.
    :raises FleetError: no disk is it, or nobody can say which.
    """
    disk = disks.choose(order["disk"], disks.list_disks())
    if order["begun"] == identity(disk):
        return disk
    if group not in {name for name, _volume in volumes.logical_volumes(disk)}:
        remedy = "see which disk it is; the rule stands in the site, and counts as it was when the order was given"
        raise FleetError(f"it carries no volume group {group}, so it is not erased", where=str(disk), remedy=remedy)
    return disk


def identity(disk: Disk) -> dict[str, Any]:
    """By which a disk is known again after a start, when nothing is on it. Paths change; they are the last resort."""
    named = bool(disk.serial or disk.wwn)
    return {"path": "" if named else str(disk.path), "serial": disk.serial, "wwn": disk.wwn, "size": disk.size}


def destroy_keys(disk: Disk) -> list[str]:
    """Erase the key slots of every LUKS volume on the disk, and overwrite its header.

    :returns: evidence: the volumes.
    :raises FleetError: a header is still there.
    """
    groups = sorted({group for group, _name in volumes.logical_volumes(disk)})
    for group in groups:
        run(["lvm", "vgchange", "--activate", "y", group])
    volumes.settle()
    done = []
    for group, name in sorted(volumes.logical_volumes(disk)):
        device = DEVICES / group / name
        if _is_luks(device):
            size = _header_size(device)
            run(["cryptsetup", "erase", "--batch-mode", device])
            overwrite(device, 0, size)
            if _is_luks(device):
                raise FleetError("the header of the volume is still there", where=str(device))
            done.append(f"{group}/{name}")
    return done


def discard(disk: Disk) -> dict[str, Any]:
    """Give all of the disk back to its controller, and overwrite where what is on it begins and ends.

    :returns: evidence: whether the device discarded (``discarded``), and so that copies are erased, too (``secure``).
    :raises FleetError: something is still found on it.
    """
    volumes.deactivate(disk)
    extents = _extents(disk)
    secure = run(["blkdiscard", "--force", "--secure", disk.path], check=False).returncode == 0
    discarded = secure or run(["blkdiscard", "--force", disk.path], check=False).returncode == 0
    for start, size in extents:  # what was discarded may read as anything
        overwrite(disk.path, start, min(_MIB, size))
        overwrite(disk.path, start + max(size - _MIB, 0), min(_MIB, size))
    run(["blockdev", "--rereadpt", disk.path], check=False)  # the kernel still knows the partitions
    volumes.settle()
    if found := run(["wipefs", "--noheadings", "--parsable", disk.path]).stdout.strip():
        raise FleetError(f"something is still on the disk: {found}", where=str(disk))
    return {"discarded": discarded, "secure": secure}


def leave_firmware(disk: Disk) -> list[str]:
    """Take what starts this disk out of the firmware's boot menu.

    :returns: evidence: the numbers of the entries.
    """
    listed = run(["lsblk", "--list", "--noheadings", "--output", "PARTUUID", disk.path]).stdout.split()
    return boot_files.leave(listed)


def overwrite(device: Path, start: int, size: int) -> None:
    """Write zeroes, and see that they are there.

    :param start: bytes from the beginning.
    :raises FleetError: they are not.
    """
    try:
        with device.open("r+b", buffering=0) as stream:
            stream.seek(start)
            for offset in range(0, size, _MIB):
                stream.write(bytes(min(_MIB, size - offset)))
            os.fsync(stream.fileno())
        run(["blockdev", "--flushbufs", device])
        with device.open("rb") as stream:
            stream.seek(start)
            zeroed = all(not any(stream.read(min(_MIB, size - offset))) for offset in range(0, size, _MIB))
    except OSError as exc:
        raise FleetError(f"cannot be overwritten: {exc.strerror}", where=str(device)) from exc
    if not zeroed:
        raise FleetError("what was overwritten is still there", where=str(device))


def _is_luks(device: Path) -> bool:
    return run(["cryptsetup", "isLuks", device], check=False).returncode == 0


def _header_size(device: Path) -> int:
    """Bytes before the data of a LUKS2 volume: both copies of the header, and the key slots."""
    read = run(["cryptsetup", "luksDump", "--dump-json-metadata", device], check=False)
    if read.returncode != 0:  # power was cut while it was overwritten
        return _USUAL_HEADER
    offset = min((int(segment["offset"]) for segment in json.loads(read.stdout)["segments"].values()), default=0)
    if not 0 < offset <= _LARGEST_HEADER:
        raise FleetError(f"its header has {offset} bytes, which no header has", where=str(device))
    return offset


def _extents(disk: Disk) -> list[tuple[int, int]]:
    """Where on the disk its partitions lie, and where it does itself: bytes from its beginning, and how many.

    The partitions themselves may be gone as soon as the table is.
    """
    listed = run(["lsblk", "--json", "--bytes", "--output", "TYPE,START,SIZE", disk.path]).stdout
    found = json.loads(listed)["blockdevices"]
    parts = [child for each in found for child in [each, *each.get("children", [])] if child["type"] == "part"]
    # In sectors of 512 bytes, whatever those of the disk have (lsblk(8)).
    return [*((int(part["start"]) * 512, int(part["size"])) for part in parts), (0, disk.size)]
