# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine finds on the medium that it was started from. A real one: tests/e2e/test_provisioning_medium.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import boot_medium

UUID = "0e5aef1f-dee3-4e29-ba8e-bf51c575cb08"
NAME = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
STICK = {"path": "/dev/sda1", "partuuid": UUID.upper()}
DISK = {"path": "/dev/vda1", "partuuid": "11111111-2222-3333-4444-555555555555"}
WHOLE = {"path": "/dev/vda", "partuuid": None}
LINE = b"52:54:00:00:00:14 10.9.0.20/24 10.9.0.1\n"

Started = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("value", "uuid"),
    [
        (b"\x06\0\0\0" + f"{UUID.upper()}\0".encode("utf-16-le"), UUID),
        (b"\x06\0\0\0" + UUID.encode("utf-16-le"), UUID),
        (b"\x06\0\0\0", None),
        (b"", None),
        (b"\x06\0\0\0" + "../../etc\0".encode("utf-16-le"), None),
        (b"\x06\0\0\0\x00\xd8", None),
    ],
)
def test_partition_as_the_stub_says(tmp_path: Path, value: bytes, uuid: str | None) -> None:
    (tmp_path / NAME).write_bytes(value)
    assert boot_medium.partition(tmp_path) == uuid


def test_network_boot_leaves_no_partition(tmp_path: Path) -> None:
    assert boot_medium.partition(tmp_path) is None


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    """Start a machine, with these partitions in its sight each second; what it did and said."""

    def start(content: bytes | None, *sights: list[dict[str, Any]], uuid: str | None = UUID) -> list[str]:
        seen, done = list(sights), []

        def run(argv: list[Any], **_options: Any) -> SimpleNamespace:
            if argv[0] == "lsblk":
                return SimpleNamespace(stdout=json.dumps({"blockdevices": seen.pop(0) if len(seen) > 1 else seen[0]}))
            done.append(" ".join(map(str, argv)))
            if argv[0] == "mount" and content == b"no file system":
                raise CommandError(Completed(("mount",), 32, b"", b"wrong fs type"))
            if argv[0] == "mount" and content is not None:
                (tmp_path / "mounted/addresses.txt").write_bytes(content)
            return SimpleNamespace(stdout="")

        monkeypatch.setattr(boot_medium, "run", run)
        monkeypatch.setattr(boot_medium, "partition", lambda: uuid)
        monkeypatch.setattr(boot_medium, "MOUNT_POINT", tmp_path / "mounted")
        monkeypatch.setattr(boot_medium, "UNITS", tmp_path / "units")
        monkeypatch.setattr(boot_medium.time, "sleep", lambda seconds: done.append(f"sleep {seconds}"))
        boot_medium.configure_network(done.append)
        return done

    return start


def test_addresses_of_the_medium_are_used(started: Started, tmp_path: Path) -> None:
    assert started(LINE, [WHOLE, DISK, STICK]) == [
        f"mount -t vfat -o ro,nodev,nosuid,noexec /dev/sda1 {tmp_path}/mounted",
        f"umount {tmp_path}/mounted",
        "systemctl restart systemd-networkd.service",
        "network cards whose addresses stand on the medium: 1",
    ]
    text = (tmp_path / "units/40-525400000014.network").read_text()
    assert "MACAddress=52:54:00:00:00:14\n" in text
    assert "Address=10.9.0.20/24\nGateway=10.9.0.1\n" in text


@pytest.mark.parametrize("content", [None, b"# nobody\n"])
def test_medium_without_addresses_leaves_dhcp(started: Started, tmp_path: Path, content: bytes | None) -> None:
    assert [line.split()[0] for line in started(content, [STICK])] == ["mount", "umount"]
    assert not (tmp_path / "units").exists()


def test_wrong_file_is_an_error_and_nothing_is_left_mounted(started: Started, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="line 2"):
        started(LINE + b"DNS=10.9.0.66\n", [STICK])
    assert not (tmp_path / "units").exists()


def test_medium_that_cannot_be_mounted(started: Started) -> None:
    with pytest.raises(FleetError, match=r"/dev/sda1: cannot be mounted: .*\n.*wrong fs type"):
        started(b"no file system", [STICK])


def test_network_boot_looks_at_no_medium(started: Started) -> None:
    assert started(LINE, [STICK], uuid=None) == []


def test_stick_that_is_seen_late(started: Started) -> None:
    done = started(LINE, [DISK], [DISK], [DISK, STICK])
    assert done[:2] == ["sleep 1", "sleep 1"]
    assert done[-1] == "network cards whose addresses stand on the medium: 1"


def test_stick_that_was_taken_out(started: Started) -> None:
    done = started(LINE, [DISK])
    assert "asking for addresses by DHCP" in done[-1]
    assert set(done[:-1]) == {"sleep 1"}


def test_two_copies_of_a_medium(started: Started) -> None:
    with pytest.raises(FleetError, match="/dev/sda1 and /dev/sdb1 have the same UUID"):
        started(LINE, [STICK, {**STICK, "path": "/dev/sdb1"}])
