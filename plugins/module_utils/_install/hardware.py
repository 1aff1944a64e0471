# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._install import hardware_profile
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk

# What tells one machine from another, and which hardware profile it is (names as in /sys/class/dmi/id).
DMI = (
    *("bios_date", "bios_vendor", "bios_version", "board_name", "board_serial", "board_vendor", "chassis_type"),
    *("product_family", "product_name", "product_serial", "product_sku", "product_uuid", "product_version"),
    "sys_vendor",
)
SYSFS = Path("/sys")
_LONGEST = 300  # characters that the service takes
_TPM_VERSIONS = {"1": "1.2", "2": "2.0"}
_ETHERNET = 1  # ARPHRD_ETHER


def describe(disks: list[Disk], profiles: hardware_profile.Profiles, sysfs: Path = SYSFS) -> dict[str, Any]:
    """What the machine is made of, for the enrolment service. Firmware can say what it likes: hints, and no proof.

    :param profiles: those of the release.
    :param sysfs: where sysfs is mounted.
    """
    dmi = read_dmi(sysfs)
    return {
        "dmi": dmi,
        "hardware_profile": hardware_profile.find(profiles, dmi),
        "disks": [_disk(disk) for disk in disks],
        "interfaces": _interfaces(sysfs / "class/net"),
        "tpm_version": _TPM_VERSIONS.get(_line(sysfs / "class/tpm/tpm0/tpm_version_major")),
    }


def read_dmi(sysfs: Path = SYSFS) -> dict[str, str]:
    """What firmware says the machine is; without what is empty."""
    return {name: text for name in DMI if (text := _line(sysfs / "class/dmi/id" / name))}


def _disk(disk: Disk) -> dict[str, Any]:
    texts = {name: getattr(disk, name) for name in ("serial", "model", "transport", "wwn")}
    return {"path": str(disk.path), "size": disk.size, **texts}


def _interfaces(directory: Path) -> list[dict[str, str]]:
    """Ethernet cards; what only exists in the kernel has no device."""
    cards = sorted(path for path in directory.glob("*") if (path / "device").exists())
    ethernet = [card for card in cards if _line(card / "type") == str(_ETHERNET)]
    return [{"name": card.name, "mac": _line(card / "address")} for card in ethernet]


def _line(path: Path) -> str:
    """The first line of a file, or nothing: many are missing, and some only root may read."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return ""
    return "".join(character for character in text.partition("\n")[0] if character.isprintable()).strip()[:_LONGEST]
