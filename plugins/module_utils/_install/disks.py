# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import boot_medium

_COLUMNS = "NAME,PATH,TYPE,SIZE,SERIAL,MODEL,TRAN,RO,RM,WWN,FSTYPE,LABEL,PARTLABEL,PARTUUID,MOUNTPOINTS"
RULES = {
    "path": str,
    "serial": str,
    "wwn": str,
    "model": str,
    "transport": str,
    "minimum_size": int,
    "maximum_size": int,
}


@dataclass(frozen=True)
class Disk:
    """A whole disk as lsblk(8) shows it."""

    path: Path
    size: int  # bytes
    serial: str
    model: str
    transport: str
    wwn: str
    read_only: bool
    contents: tuple[str, ...]  # one line for each partition or volume on it
    mounted: bool
    started_from: bool = False  # firmware has started this machine from it

    def __str__(self) -> str:
        said = f"{self.model or 'no model'}, serial {self.serial or 'none'}, {self.size} bytes"
        return f"{self.path} ({said}{', what this machine was started from' if self.started_from else ''})"


def list_disks() -> list[Disk]:
    """The whole disks of this machine."""
    listed = json.loads(run(["lsblk", "--json", "--bytes", "--output", _COLUMNS]).stdout)
    medium = boot_medium.partition()
    return [_disk(device, medium) for device in listed["blockdevices"] if device["type"] == "disk"]


def choose(rule: Mapping[str, Any], disks: list[Disk]) -> Disk:
    """The one disk that the rule matches. Never a guess: no match or several are errors, and so is an empty rule.

    Nor is it ever what the machine was started from, whatever the rule says: that is the installation medium.

    :param rule: keys of :data:`RULES`; all of them must hold. Sizes are bytes.
    :raises FleetError: lists the disks and what the rule wants.
    """
    unknown = set(rule) - set(RULES)
    if unknown or not rule:
        raise FleetError(
            f"unknown keys: {', '.join(sorted(unknown))}" if unknown else "the rule is empty",
            where="disk",
            remedy=f"name the disk by one or more of: {', '.join(RULES)}",
        )
    for key, value in rule.items():
        if not isinstance(value, RULES[key]) or isinstance(value, bool) or not value:
            wanted = "a number of bytes" if RULES[key] is int else "a text that is not empty"
            raise FleetError(f"must be {wanted}, not {value!r}", where=f"disk: {key}")
    matching = [disk for disk in disks if _matches(rule, disk) and not disk.started_from]
    if len(matching) != 1:
        listing = "\n  ".join(str(disk) for disk in disks) or "none"
        raise FleetError(
            f"{len(matching)} disks match {json.dumps(dict(rule), sort_keys=True)}; "
            f"disks of this machine:\n  {listing}",
            where="disk",
            remedy="make the rule match exactly one disk",
        )
    disk = matching[0]
    if disk.read_only:
        raise FleetError("the disk is read-only", where=str(disk))
    if disk.mounted:
        raise FleetError("the disk is in use by this system", where=str(disk))
    return disk


def _matches(rule: Mapping[str, Any], disk: Disk) -> bool:
    facts = {
        "path": str(disk.path),
        "serial": disk.serial,
        "wwn": disk.wwn,
        "model": disk.model,
        "transport": disk.transport,
    }
    exact = all(facts[key] == value for key, value in rule.items() if key in facts)
    return exact and rule.get("minimum_size", 0) <= disk.size <= rule.get("maximum_size", disk.size)


def _disk(device: Mapping[str, Any], medium: str | None = None) -> Disk:
    """One of the disks.

    :param medium: UUID of the partition that the machine was started from.
    """
    below = _below(device)
    uuids = {(item["partuuid"] or "").lower() for item in below}
    return Disk(
        path=Path(device["path"]),
        size=int(device["size"]),
        serial=device["serial"] or "",
        model=device["model"] or "",
        transport=device["tran"] or "",
        wwn=device["wwn"] or "",
        read_only=bool(device["ro"]),
        contents=tuple(_line(item) for item in below),
        mounted=any(any(item["mountpoints"]) for item in [device, *below]),
        started_from=medium in uuids,
    )


def _line(item: Mapping[str, Any]) -> str:
    label = item["partlabel"] or item["label"] or ""
    return f"{item['path']} {item['type']} {item['size']} bytes {item['fstype'] or '-'} {label}".rstrip()


def _below(device: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    children = device.get("children", [])
    return [item for child in children for item in [child, *_below(child)]]
