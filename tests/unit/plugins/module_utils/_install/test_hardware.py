# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._install import hardware
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk
from vauban_enrolment.documents import Hardware

DISK = Disk(Path("/dev/vda"), 1 << 30, "S1", "", "virtio", "", False, (), False)


def sysfs(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def card(name: str, mac: str, kind: int = 1) -> dict[str, bytes]:
    place = f"class/net/{name}"
    return {f"{place}/address": f"{mac}\n".encode(), f"{place}/type": b"%d\n" % kind, f"{place}/device/vendor": b""}


def test_service_takes_what_this_machine_says() -> None:
    described = hardware.describe([], {})
    Hardware.model_validate(described)
    assert {each["name"] for each in described["interfaces"]} <= set(os.listdir("/sys/class/net")) - {"lo"}


def test_cards_are_those_with_a_device_that_speak_ethernet(tmp_path: Path) -> None:
    files = card("eth1", "52:54:00:00:00:02") | card("eth0", "52:54:00:00:00:01") | card("ib0", "80:00", 32)
    files["class/net/lo/address"] = b"00:00:00:00:00:00\n"
    described = hardware.describe([DISK], {}, sysfs(tmp_path, files))
    assert [each["name"] for each in described["interfaces"]] == ["eth0", "eth1"]
    assert described["disks"][0]["serial"] == "S1"
    Hardware.model_validate(described)


def test_firmware_that_says_odd_things(tmp_path: Path) -> None:
    """What the service would refuse is cut or left out; what is only a hint must not stop an installation."""
    dmi = {"product_serial": b"S\x00\x1b[2J\xff1\nsecond", "sys_vendor": b"x" * 5000, "board_name": b"  \n"}
    files = {f"class/dmi/id/{name}": content for name, content in dmi.items()}
    described = hardware.describe([], {}, sysfs(tmp_path, files))
    Hardware.model_validate(described)
    assert described["dmi"]["product_serial"].endswith("1")
    assert len(described["dmi"]["sys_vendor"]) == 300
    assert "board_name" not in described["dmi"]


@pytest.mark.parametrize(("major", "version"), [(b"1\n", "1.2"), (b"2\n", "2.0"), (b"3\n", None), (None, None)])
def test_version_of_the_tpm_is_said(tmp_path: Path, major: bytes | None, version: str | None) -> None:
    files = {} if major is None else {"class/tpm/tpm0/tpm_version_major": major}
    described = hardware.describe([], {}, sysfs(tmp_path, files))
    assert described["tpm_version"] == version
    Hardware.model_validate(described)


@pytest.mark.parametrize(("vendor", "profile"), [(b"Example Inc. \n", "example"), (b"Other\n", None), (b"\n", None)])
def test_hardware_profile_is_said(tmp_path: Path, vendor: bytes, profile: str | None) -> None:
    files = {"class/dmi/id/sys_vendor": vendor}
    described = hardware.describe([], {"example": [{"sys_vendor": "Example Inc."}]}, sysfs(tmp_path, files))
    assert Hardware.model_validate(described).hardware_profile == profile
