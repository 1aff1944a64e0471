# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disk is erased, and when none is. That nothing is left on it: tests/integration/test_wiping.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import boot_files, disks, volumes, wiping
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk

OURS = Disk(Path("/dev/sda"), 10**9, "S1", "", "sata", "", False, ("/dev/sda1 part",), False)
OTHER = replace(OURS, path=Path("/dev/sdb"), serial="S2")
GROUPS = {OURS.path: {("fleet", "state")}, OTHER.path: {("photos", "all")}}
NONE: set[tuple[str, str]] = set()

Has = Callable[..., None]


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Has:
    """Which disks the machine has."""

    def give(*found: Disk) -> None:
        monkeypatch.setattr(disks, "list_disks", lambda: list(found))
        monkeypatch.setattr(volumes, "logical_volumes", lambda disk: GROUPS.get(disk.path, NONE))

    return give


def order(begun: Any = None, **rule: Any) -> dict[str, Any]:
    return {"host": "one", "disk": rule, "begun": begun}


def test_disk_of_the_rule_is_chosen(has: Has) -> None:
    has(OURS, OTHER)
    assert wiping.choose(order(serial="S1"), "fleet") == OURS


@pytest.mark.parametrize(
    ("rule", "said"), [({"transport": "sata"}, "2 disks match"), ({"serial": "S3"}, "0 disks match")]
)
def test_disk_is_never_guessed(has: Has, rule: dict[str, str], said: str) -> None:
    has(OURS, OTHER)
    with pytest.raises(FleetError, match=said):
        wiping.choose(order(**rule), "fleet")


def test_disk_of_somebody_else_is_left_alone(has: Has) -> None:
    """The host's was taken out, and another is in its place."""
    has(OTHER)
    with pytest.raises(FleetError, match="it carries no volume group fleet, so it is not erased"):
        wiping.choose(order(transport="sata"), "fleet")


def test_disk_that_was_begun_with_is_gone_on_with(has: Has) -> None:
    """Power was cut: nothing on the disk says any more whose it was. The kernel may give it another name, too."""
    moved = replace(OURS, path=Path("/dev/sdc"), contents=())
    has(moved)
    assert wiping.choose(order(wiping.identity(OURS), serial="S1"), "fleet") == moved
    for begun in (None, wiping.identity(OTHER), {**wiping.identity(OURS), "size": 1}):
        with pytest.raises(FleetError, match="carries no volume group"):
            wiping.choose(order(begun, serial="S1"), "fleet")


def test_disk_without_serial_number_is_known_by_its_path() -> None:
    assert wiping.identity(replace(OURS, serial=""))["path"] == "/dev/sda"
    assert wiping.identity(OURS)["path"] == ""


MENU = """BootCurrent: 0003
Timeout: 0 seconds
BootOrder: 0001,0003,0002
Boot0001* server\tHD(1,GPT,1B5C0A4E-07b8-4a3c-9a53-0b8b8c2f0001,0x800,0x40000)/\\EFI\\systemd\\systemd-bootx64.efi
Boot0002* other\tHD(1,GPT,1b5c0a4e-07b8-4a3c-9a53-0b8b8c2f0002,0x800,0x40000)/\\EFI\\other\\x.efi
Boot0003* UEFI HTTPv4\tPciRoot(0x0)/Pci(0x2,0x0)/MAC(525400000003,1)/IPv4(0.0.0.0,0,DHCP)/Uri()
"""


def test_only_what_starts_this_disk_leaves_the_boot_menu(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def tool(argv: list[str], **_options: Any) -> Completed:
        commands.append(argv)
        return Completed(tuple(argv), 0, MENU.encode(), b"")

    monkeypatch.setattr(boot_files, "run", tool)
    assert boot_files.leave(["1b5c0a4e-07b8-4a3c-9a53-0b8b8c2f0001", "ffff"]) == ["0001"]
    assert [command[-1] for command in commands if "--delete-bootnum" in command] == ["0001"]
    assert boot_files.leave([]) == []
