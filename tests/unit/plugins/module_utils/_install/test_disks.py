# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk, _disk, choose

GB = 1000**3
NVME = Disk(Path("/dev/nvme0n1"), 512 * GB, "S5GX", "Samsung SSD 980", "nvme", "eui.0025", False, (), False)
SATA = Disk(Path("/dev/sda"), 2000 * GB, "WD-1", "WDC WD20", "sata", "0x5001", False, (), False)
OTHER = replace(SATA, path=Path("/dev/sdb"), serial="WD-2", wwn="0x5002")
STICK = Disk(Path("/dev/sdc"), 16 * GB, "", "Flash", "usb", "", False, (), False)
DISKS = [NVME, SATA, OTHER, STICK]


@pytest.mark.parametrize(
    ("rule", "disk"),
    [
        ({"path": "/dev/sda"}, SATA),
        ({"serial": "S5GX"}, NVME),
        ({"wwn": "0x5002"}, OTHER),
        ({"transport": "nvme"}, NVME),
        ({"model": "WDC WD20", "serial": "WD-2"}, OTHER),
        ({"maximum_size": 16 * GB}, STICK),
        ({"minimum_size": 512 * GB, "maximum_size": 512 * GB}, NVME),
        ({"transport": "sata", "path": "/dev/sdb", "minimum_size": 1}, OTHER),
    ],
)
def test_the_one_disk_a_rule_matches(rule: dict[str, Any], disk: Disk) -> None:
    assert choose(rule, DISKS) == disk


@pytest.mark.parametrize(
    ("rule", "count"),
    [
        ({"serial": "absent"}, 0),
        ({"serial": "s5gx"}, 0),
        ({"path": "/dev/sd"}, 0),
        ({"serial": "WD-1", "transport": "nvme"}, 0),
        ({"minimum_size": 2000 * GB + 1}, 0),
        ({"maximum_size": 16 * GB - 1}, 0),
        ({"minimum_size": 600 * GB, "maximum_size": 500 * GB}, 0),
        ({"transport": "sata"}, 2),
        ({"minimum_size": 1}, 4),
    ],
)
def test_rule_is_never_a_guess(rule: dict[str, Any], count: int) -> None:
    with pytest.raises(FleetError) as caught:
        choose(rule, DISKS)
    assert f"{count} disks match" in caught.value.message
    for disk in DISKS:
        assert str(disk) in caught.value.message
    assert caught.value.remedy == "make the rule match exactly one disk"


def test_machine_without_disks() -> None:
    with pytest.raises(FleetError, match="none"):
        choose({"minimum_size": 1}, [])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "disk: the rule is empty"),
        ({"size": 5}, "disk: unknown keys: size"),
        ({"serial": "S5GX", "Serial": "S5GX"}, "disk: unknown keys: Serial"),
        ({"minimum_size": "20G"}, "disk: minimum_size: must be a number of bytes, not '20G'"),
        ({"minimum_size": True}, "disk: minimum_size: must be a number of bytes"),
        ({"maximum_size": None}, "disk: maximum_size: must be a number of bytes"),
        ({"serial": 5}, "disk: serial: must be a text"),
        ({"serial": ""}, "disk: serial: must be a text that is not empty"),
        ({"serial": ["S5GX"]}, "disk: serial: must be a text"),
    ],
)
def test_unusable_rule(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(FleetError) as caught:
        choose(rule, DISKS)
    assert message in str(caught.value)


@pytest.mark.parametrize(("field", "message"), [("read_only", "the disk is read-only"), ("mounted", "is in use")])
def test_disk_that_must_not_be_erased(field: str, message: str) -> None:
    """It is an error even if it is the only match, and never a reason to take another one."""
    disks = [replace(SATA, **{field: True}), OTHER]
    with pytest.raises(FleetError, match=message):
        choose({"serial": "WD-1"}, disks)
    with pytest.raises(FleetError, match="2 disks match"):
        choose({"transport": "sata"}, disks)


@pytest.mark.parametrize("rule", [{"transport": "usb"}, {"maximum_size": 16 * GB}, {"path": "/dev/sdc"}])
def test_what_the_machine_was_started_from_is_never_chosen(rule: dict[str, Any]) -> None:
    medium = replace(STICK, started_from=True)
    with pytest.raises(FleetError, match="0 disks match") as caught:
        choose(rule, [medium])
    assert "what this machine was started from" in caught.value.message
    assert choose({"minimum_size": 1}, [medium, SATA]) == SATA


LSBLK = """
{"name": "sda", "path": "/dev/sda", "type": "disk", "size": 64000, "serial": "WD-1", "model": null, "tran": "sata",
 "ro": false, "rm": false, "wwn": null, "fstype": null, "label": null, "partlabel": null, "partuuid": null,
 "mountpoints": [null],
 "children": [
   {"path": "/dev/sda1", "type": "part", "size": 1000, "fstype": "vfat", "label": null, "partlabel": "ESP",
    "partuuid": "0E5AEF1F-dee3-4e29-ba8e-bf51c575cb08", "mountpoints": [null]},
   {"path": "/dev/sda2", "type": "part", "size": 63000, "fstype": "LVM2_member", "label": null, "partlabel": null,
    "partuuid": null, "mountpoints": [null], "children": [
      {"path": "/dev/mapper/x-y", "type": "lvm", "size": 5, "fstype": null, "label": null, "partlabel": null,
       "partuuid": null, "mountpoints": [%s]}]}]}
"""


@pytest.mark.parametrize(("mountpoint", "mounted"), [("null", False), ('"/home"', True), ('"[SWAP]"', True)])
def test_disk_as_lsblk_shows_it(mountpoint: str, mounted: bool) -> None:
    """A volume on a partition that is in use counts."""
    disk = _disk(json.loads(LSBLK % mountpoint))
    assert disk.mounted is mounted
    assert disk.contents == (
        "/dev/sda1 part 1000 bytes vfat ESP",
        "/dev/sda2 part 63000 bytes LVM2_member",
        "/dev/mapper/x-y lvm 5 bytes -",
    )
    assert str(disk) == "/dev/sda (no model, serial WD-1, 64000 bytes)"


@pytest.mark.parametrize(
    ("medium", "started_from"),
    [(None, False), ("0e5aef1f-dee3-4e29-ba8e-bf51c575cb08", True), ("11111111-dee3-4e29-ba8e-bf51c575cb08", False)],
)
def test_disk_that_the_machine_was_started_from(medium: str | None, started_from: bool) -> None:
    """By the UUID of a partition, which systemd-stub has from firmware."""
    assert _disk(json.loads(LSBLK % "null"), medium).started_from is started_from
