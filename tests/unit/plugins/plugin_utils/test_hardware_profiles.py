# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of hardware profiles: what they say of the machines they are for, and those that say it wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data

LISTS = "modules: [nvme]\nfirmware: []\nkernel_arguments: []\n"


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / f"{name}.yml"
    path.write_text(LISTS + text)
    return path


def test_installer_learns_them_in_the_order_of_the_product(tmp_path: Path) -> None:
    write(tmp_path, "zeta", 'dmi:\n  - {sys_vendor: "Example*", product_name: R1}\n')
    write(tmp_path, "panel", "")
    profiles = _data.hardware(["zeta", "common", "panel", "qemu_virtio"], [tmp_path])
    assert list(_data.machines(profiles).items())[:2] == [
        ("zeta", [{"sys_vendor": "Example*", "product_name": "R1"}]),
        ("panel", []),
    ]


@pytest.mark.parametrize("path", sorted((_data.FILES / "hardware").glob("*.yml")), ids=lambda path: path.stem)
def test_each_of_the_collection_says_what_it_is_for(path: Path) -> None:
    assert bool(_data.machines(_data.hardware([path.stem], [])).get(path.stem)) == (path.stem != "common")


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("dmi:\n", "dmi", "must be a list of alternatives"),
        ("dmi: {sys_vendor: Example}\n", "dmi", "must be a list of alternatives"),
        ("dmi: [Example]\n", "dmi[0]", "must be patterns by the names of what DMI says"),
        ("dmi: [{sys_vendor: Example}, {}]\n", "dmi[1]", "must be patterns by the names of what DMI says"),
        ("dmi: [{vendor: Example}]\n", "dmi[0].vendor", "unknown key"),
        ("dmi: [{chassis_type: 10}]\n", "dmi[0].chassis_type", "10 is no pattern"),
        ("dmi: [{sys_vendor: [A, B]}]\n", "dmi[0].sys_vendor", "['A', 'B'] is no pattern"),
        ('dmi: [{sys_vendor: ""}]\n', "dmi[0].sys_vendor", "'' is no pattern"),
    ],
)
def test_broken_file_ends_the_build_with_file_key_and_remedy(tmp_path: Path, text: str, where: str, said: str) -> None:
    path = write(tmp_path, "mine", text)
    with pytest.raises(FleetError) as error:
        _data.hardware(["mine"], [tmp_path])
    assert (error.value.where, error.value.message) == (f"{path}: {where}", said)
    assert error.value.remedy


def test_what_every_machine_gets_is_for_no_machine(tmp_path: Path) -> None:
    path = write(tmp_path, "common", "dmi: [{sys_vendor: Example}]\n")
    with pytest.raises(FleetError, match="this profile is part of every other") as error:
        _data.hardware([], [tmp_path])
    assert error.value.where == f"{path}: dmi"


def test_name_that_no_site_could_write_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "My Laptop", "")
    with pytest.raises(FleetError, match="'My Laptop' is no name of a profile") as error:
        _data.hardware(["My Laptop"], [tmp_path])
    assert error.value.where == "product_hardware_profiles"
