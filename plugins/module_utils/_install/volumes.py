# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import disks
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import Release

# Types of the Discoverable Partitions Specification (ESP) and of sfdisk (LVM).
_ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_LVM_TYPE = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
_MIB = 1024 * 1024


def erase(disk: Disk) -> dict[str, Any]:
    """Discard the disk's contents and every signature on it.

    :returns: evidence: what was there, and whether the device really discarded.
    """
    deactivate(disk)
    discarded = run(["blkdiscard", "--force", str(disk.path)], check=False).returncode == 0
    run(["wipefs", "--all", "--force", str(disk.path)])
    return {"disk": str(disk), "erased": list(disk.contents), "discarded": discarded}


def deactivate(disk: Disk) -> None:
    """Stop the volume groups on the disk, so that nothing keeps it busy."""
    for group in _volume_groups_on(disk):
        run(["lvm", "vgchange", "--activate", "n", group])


def partition(disk: Disk, *, esp_size: int, volume_group: str) -> Path:
    """GPT with an EFI system partition and one LVM physical volume over the rest.

    :param esp_size: bytes.
    :returns: the EFI system partition.
    """
    script = f"label: gpt\nsize={esp_size // _MIB}MiB, type={_ESP_TYPE}, name=ESP\ntype={_LVM_TYPE}, name=LVM\n"
    run(["sfdisk", "--wipe=always", "--wipe-partitions=always", str(disk.path)], stdin=script.encode())
    settle()
    # By the disk's own table: another disk may have partitions of the same name.
    table = json.loads(run(["sfdisk", "--json", str(disk.path)]).stdout)["partitiontable"]
    esp, physical = (str(entry["node"]) for entry in table["partitions"])
    run(["mkfs.vfat", "-F", "32", "-n", "ESP", esp])
    run(["lvm", "pvcreate", "--yes", physical])
    run(["lvm", "vgcreate", "--yes", volume_group, physical])
    return Path(esp)


def create_volume(volume_group: str, name: str, size: int | None) -> Path:
    """Make a linear logical volume.

    :param size: bytes; None takes 60 % of what is free, so that there is room for a second version and more.
    """
    extent = ["--extents", "60%FREE"] if size is None else ["--size", f"{size}b"]
    run(["lvm", "lvcreate", "--yes", "--wipesignatures", "y", "--name", name, *extent, volume_group])
    settle()
    return Path(f"/dev/{volume_group}/{name}")


def write_core(release: Release, device: Path) -> dict[str, Any]:
    """Write the core image to its volume, then read the volume back and verify it against the root hash.

    :raises FleetError: what is on the disk is not what the manifest says.
    """
    with release.path("core").open("rb") as source, device.open("r+b") as dest:
        shutil.copyfileobj(source, dest, 4 * _MIB)
        dest.flush()
        os.fsync(dest.fileno())
    run(["blockdev", "--flushbufs", str(device)])
    return check_core(release.manifest, device)


def check_core(manifest: Mapping[str, Any], device: Path) -> dict[str, Any]:
    """Verify a volume against the core image of a release.

    :raises FleetError: what is on the disk is not what the manifest says.
    """
    entry = manifest["core"]
    digest = _digest.of_file(device, size=entry["size"])
    if digest != entry["sha256"]:
        raise FleetError(f"read back SHA-256 {digest}, and should be {entry['sha256']}", where=str(device))
    verity = entry["verity"]
    offset = f"--hash-offset={verity['hash_offset']}"
    run(["veritysetup", "verify", offset, str(device), str(device), verity["root_hash"]])
    return {"volume": str(device), "sha256_read_back": digest, "root_hash": verity["root_hash"]}


def logical_volumes(disk: Disk) -> set[tuple[str, str]]:
    """Volume group and name of each logical volume with a segment on the disk."""
    return {(volume["vg_name"], volume["lv_name"]) for volume in _physical_volumes(disk) if volume["lv_name"]}


def of_release(rule: Mapping[str, Any], manifest: Mapping[str, Any], *, remedy: str) -> tuple[Disk, Path, Path]:
    """The disk that the site's rule matches, if the release was installed on it; its core and its state, active.

    :param remedy: for people whose disk has other volumes.
    :raises FleetError: no disk is it, or nobody can say which, or it has another release.
    """
    disk = disks.choose(rule, disks.list_disks())
    group, core = str(manifest["volume_group"]), f"core_{manifest['version']}"
    found = logical_volumes(disk)
    if lacking := {(group, core), (group, "state")} - found:
        there = ", ".join(sorted(f"{one}/{name}" for one, name in found)) or "none"
        names = ", ".join(sorted(f"{one}/{name}" for one, name in lacking))
        raise FleetError(f"it lacks {names}; its volumes are: {there}", where=str(disk), remedy=remedy)
    run(["lvm", "vgchange", "--activate", "y", group])
    settle()
    return disk, Path(f"/dev/{group}/{core}"), Path(f"/dev/{group}/state")


def _volume_groups_on(disk: Disk) -> set[str]:
    return {volume["vg_name"] for volume in _physical_volumes(disk) if volume["vg_name"]}


def _physical_volumes(disk: Disk) -> list[dict[str, str]]:
    parts = run(["lsblk", "--list", "--noheadings", "--output", "PATH", str(disk.path)]).stdout.split()
    options = ["--segments", "--reportformat", "json", "--options", "pv_name,vg_name,lv_name"]
    report = json.loads(run(["lvm", "pvs", *options]).stdout)["report"][0]
    segments = report.get("pvseg") or report.get("pv") or []
    return [segment for segment in segments if segment["pv_name"] in parts]


def settle() -> None:
    """Wait until udev has made the links of new devices."""
    run(["udevadm", "trigger", "--subsystem-match=block", "--settle"])
