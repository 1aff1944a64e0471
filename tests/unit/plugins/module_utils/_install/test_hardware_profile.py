# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the collection's hardware profiles a machine is, by what its firmware says."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import hardware_profile
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data

NAMES = ["generic_laptop", "generic_server", "qemu_virtio", "thinkpad_x260"]
PROFILES = _data.machines(_data.hardware(NAMES, []))
# As the files in /sys/class/dmi/id have them.
X260 = {
    "sys_vendor": "LENOVO",
    "product_name": "20F5S1ER00",
    "product_version": "ThinkPad X260",
    "product_family": "ThinkPad X260",
    "chassis_type": "10",
}
Q35 = {
    "sys_vendor": "QEMU",
    "product_name": "Standard PC (Q35 + ICH9, 2009)",
    "product_version": "pc-q35-10.0",
    "chassis_type": "1",
}
RACK = {"sys_vendor": "Dell Inc.", "product_name": "PowerEdge R640", "chassis_type": "23"}


@pytest.mark.parametrize(
    ("dmi", "profile"),
    [
        (Q35, "qemu_virtio"),
        ({"sys_vendor": "Red Hat", "product_name": "KVM", "chassis_type": "1"}, "qemu_virtio"),
        ({"sys_vendor": "OpenStack Foundation", "product_name": "OpenStack Nova"}, "qemu_virtio"),
        (X260, "thinkpad_x260"),
        ({**X260, "product_version": "ThinkPad T480"}, "generic_laptop"),
        ({**X260, "sys_vendor": "Example"}, "generic_laptop"),
        (RACK, "generic_server"),
        ({**RACK, "chassis_type": "3"}, None),
        ({"sys_vendor": "VMware, Inc.", "product_name": "VMware Virtual Platform", "chassis_type": "1"}, None),
        ({}, None),
    ],
)
def test_machine_is_the_profile_that_asks_for_most(dmi: dict[str, str], profile: str | None) -> None:
    for names in permutations(NAMES):
        assert hardware_profile.find({name: PROFILES[name] for name in names}, dmi) == profile


@pytest.mark.parametrize(
    "dmi",
    [
        {"sys_vendor": "*"},
        {"sys_vendor": "[Q]EMU"},
        {"sys_vendor": "qemu"},
        {"sys_vendor": "QEMU\nLENOVO"},
        {"sys_vendor": "(a+)+$" * 50, "product_name": "OpenStac" * 37, "product_version": "\\" * 300},
        {"product_name": "QEMU", "chassis_type": "023"},
        {"chassis_type": "2*"},
        {"chassis_type": "-1"},
    ],
)
def test_what_looks_like_a_pattern_is_text(dmi: dict[str, str]) -> None:
    assert hardware_profile.find(PROFILES, dmi) is None


def test_of_equals_the_first_that_the_product_names() -> None:
    one, two = [{"sys_vendor": "Example*"}], [{"product_name": "*"}, {"chassis_type": "1"}]
    dmi = {"sys_vendor": "Example Inc.", "product_name": "R1"}
    assert hardware_profile.find({"one": one, "two": two}, dmi) == "one"
    assert hardware_profile.find({"two": two, "one": one}, dmi) == "two"
    assert hardware_profile.find({"one": [*one, {"sys_vendor": "*", "product_name": "R*"}], "two": two}, dmi) == "one"


@pytest.mark.parametrize(
    ("dmi", "given", "chosen"),
    [(Q35, None, "qemu_virtio"), (Q35, "generic_server", "generic_server"), ({}, "thinkpad_x260", "thinkpad_x260")],
)
def test_site_counts_for_more_than_dmi(dmi: dict[str, str], given: str | None, chosen: str) -> None:
    assert hardware_profile.choose(PROFILES, dmi, given, "one") == chosen


def refused(profiles: Any, dmi: dict[str, str], given: str | None = None) -> FleetError:
    with pytest.raises(FleetError) as error:
        hardware_profile.choose(profiles, dmi, given, "one")
    return error.value


def test_machine_that_fits_none_is_refused_with_what_it_is_and_what_there_is() -> None:
    profiles = {"generic_server": PROFILES["generic_server"], "touch_panel": []}
    error = refused(profiles, {**X260})
    assert error.message == (
        "no hardware profile of the release (generic_server, touch_panel) is for this machine:"
        " LENOVO 20F5S1ER00 ThinkPad X260, chassis type 10"
    )
    assert error.remedy == "build the product with one, or set machine.hardware_profile of one in the site file"
    assert "no name" in refused(profiles, {}).message
    long = dict.fromkeys(("sys_vendor", "product_name", "product_version"), "x" * 300)
    assert len(refused(profiles, long).message) < 300


def test_profile_that_the_release_lacks_is_refused_though_dmi_fits() -> None:
    error = refused({"qemu_virtio": PROFILES["qemu_virtio"]}, Q35, "thinkpad_x260")
    assert error.message == "the release has no hardware profile thinkpad_x260 (it has: qemu_virtio)"
    assert error.remedy == "correct machine.hardware_profile of one in the site file"


@pytest.mark.parametrize("profiles", [{}, {"touch_panel": []}])
def test_nothing_is_judged_where_no_profile_says_what_it_is_for(profiles: Any) -> None:
    assert hardware_profile.choose(profiles, Q35, None, "one") is None
