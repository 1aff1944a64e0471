# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The medium that firmware has started this machine from, if it was none of the network."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import addresses

MOUNT_POINT = Path("/run/boot-medium")
UNITS = Path("/run/systemd/network")
_VARIABLES = Path("/sys/firmware/efi/efivars")
# systemd-stub(7) sets it where a partition is what it was started from.
_PARTITION = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_ATTRIBUTES = 4  # bytes in front of the value (efivarfs)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# USB sticks, and what a power controller shows as one, are seen some time after the start.
_PATIENCE = 30  # seconds
_REMEDY = "write the image to the medium again"


def partition(variables: Path = _VARIABLES) -> str | None:
    """UUID of the partition that the machine was started from, as in its table (GPT); none if it was the network.

    :param variables: where efivarfs is mounted.
    """
    try:
        value = (variables / _PARTITION).read_bytes()[_ATTRIBUTES:]
        uuid = value.decode("utf-16-le").rstrip("\0").lower()
    except (OSError, UnicodeDecodeError):
        return None
    return uuid if _UUID.fullmatch(uuid) else None


def configure_network(say: Callable[[str], None]) -> None:
    """Let network cards have the addresses that stand on the medium; all others go on to ask by DHCP.

    :raises FleetError: the file is not as it has to be.
    """
    uuid = partition()
    device = _wait_for(uuid) if uuid is not None else None
    if device is None:
        if uuid is not None:
            say("the medium that this machine was started from is not to be seen: asking for addresses by DHCP")
        return
    content = _read(device)
    if content is None:
        return
    entries = addresses.parse(content)
    if not entries:
        return
    UNITS.mkdir(parents=True, exist_ok=True)
    for name, text in addresses.units(entries).items():
        (UNITS / name).write_text(text)
    run(["systemctl", "restart", "systemd-networkd.service"])
    say(f"network cards whose addresses stand on the medium: {len(entries)}")


def _wait_for(uuid: str) -> Path | None:
    for attempt in range(_PATIENCE):
        if attempt:
            time.sleep(1)
        if (device := _find(uuid)) is not None:
            return device
    return None


def _find(uuid: str) -> Path | None:
    listed = json.loads(run(["lsblk", "--json", "--list", "--output", "PATH,PARTUUID"]).stdout)["blockdevices"]
    found = sorted(each["path"] for each in listed if (each["partuuid"] or "").lower() == uuid)
    if len(found) > 1:
        remedy = "take out the copies of the medium"
        raise FleetError(f"{' and '.join(found)} have the same UUID", where=f"PARTUUID {uuid}", remedy=remedy)
    return Path(found[0]) if found else None


def _read(device: Path) -> bytes | None:
    """The file of addresses, as far as it may be long; none if there is none."""
    MOUNT_POINT.mkdir(parents=True, exist_ok=True)
    try:
        run(["mount", "-t", "vfat", "-o", "ro,nodev,nosuid,noexec", device, MOUNT_POINT])
    except CommandError as exc:
        raise FleetError(f"cannot be mounted: {exc.message}", where=str(device), remedy=_REMEDY) from exc
    try:
        with (MOUNT_POINT / addresses.FILE).open("rb") as stream:
            return stream.read(addresses.LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise FleetError(f"cannot be read: {exc.strerror}", where=addresses.FILE, remedy=_REMEDY) from exc
    finally:
        run(["umount", MOUNT_POINT])
