# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._install import volumes
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk

DISK = Disk(Path("/dev/sda"), 10**9, "WD-1", "", "sata", "", False, (), False)


class Tools:
    """Answers of a machine with the disks sda and sdaa, each with an EFI system partition and a volume group."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, argv: Sequence[Any], **_options: Any) -> Completed:
        words = [str(word) for word in argv]
        self.commands.append(words)
        answer = ""
        if words[:2] == ["sfdisk", "--json"]:
            nodes = [{"node": f"{words[2]}{number}"} for number in (1, 2)]
            answer = json.dumps({"partitiontable": {"partitions": nodes}})
        elif words[:2] == ["lvm", "pvs"]:
            found = [("/dev/sda2", "old"), ("/dev/sdaa2", "other"), ("/dev/sda3", "")]
            pv = [{"pv_name": name, "vg_name": group} for name, group in found]
            answer = json.dumps({"report": [{"pv": pv}]})
        elif words[0] == "lsblk":
            answer = "/dev/sda\n/dev/sda1\n/dev/sda2\n/dev/sda3\n"
        return Completed(tuple(words), 0, answer.encode(), b"")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    fake = Tools()
    monkeypatch.setattr(volumes, "run", fake)
    return fake


def test_only_partitions_of_the_chosen_disk_are_formatted(tools: Tools) -> None:
    """Names of partitions are not unique on a machine; another system's boot partition may be called ESP as well."""
    assert volumes.partition(DISK, esp_size=256 * 1024 * 1024, volume_group="fleet") == Path("/dev/sda1")
    written = [command for command in tools.commands if command[0] in ("mkfs.vfat", "lvm")]
    assert [command[-1] for command in written] == ["/dev/sda1", "/dev/sda2", "/dev/sda2"]
    assert not [word for command in tools.commands for word in command if "by-partlabel" in word]


def test_only_volume_groups_of_the_chosen_disk_are_stopped(tools: Tools) -> None:
    volumes.erase(DISK)
    assert [command[-1] for command in tools.commands if command[:2] == ["lvm", "vgchange"]] == ["old"]
    assert [command[-1] for command in tools.commands if command[0] in ("blkdiscard", "wipefs")] == ["/dev/sda"] * 2
