# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What profiles and units may say, and what comes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement


def unit(**others: Any) -> dict[str, Any]:
    return {"name": "beacon.service", "profile": "base", **others}


def loosened(**settings: Any) -> dict[str, Any]:
    return unit(settings=settings, reasons=dict.fromkeys(settings, "a test"))


def lines(data: dict[str, Any]) -> list[str]:
    return list(_confinement.dropins([data])[0].lines)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (loosened(NoNewPrivilege=True), "NoNewPrivilege"),
        (loosened(ProtectSystem="strictest"), "ProtectSystem"),
        (loosened(CapabilityBoundingSet=["NET_ADMIN"]), "CapabilityBoundingSet"),
        (loosened(CapabilityBoundingSet="CAP_NET_ADMIN"), "CapabilityBoundingSet"),
        (loosened(SystemCallFilter=["@system service"]), "SystemCallFilter"),
        (loosened(ReadWritePaths=["var/lib"]), "ReadWritePaths"),
        (loosened(ReadWritePaths=["/var/lib\nUser=root"]), "ReadWritePaths"),
        (loosened(User="root\n"), "User"),
        (loosened(TasksMax="many"), "TasksMax"),
        (loosened(NoNewPrivileges="yes"), "NoNewPrivileges"),
        (unit(settings={"PrivateNetwork": False}), "reasons: none for PrivateNetwork"),
        (unit(reasons={"PrivateNetwork": "why"}), "reasons: PrivateNetwork is not in settings"),
        (unit(profile="no_such"), "no file no_such.yml in "),
        (unit(name="beacon"), "name"),
        (unit(name="../beacon.service"), "name"),
        (unit(threshold=11.0), "threshold"),
        (unit(colour="red"), "colour"),
        ({"name": "beacon.service"}, "profile"),
    ],
)
def test_mistake_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(FleetError) as caught:
        _confinement.dropins([data])
    assert message in str(caught.value)
    assert str(caught.value).startswith("confinement_units[0]")


def test_unit_named_twice() -> None:
    with pytest.raises(FleetError, match=r"beacon\.service: named twice"):
        _confinement.dropins([unit(), unit()])


def test_list_takes_the_place_of_the_vendors() -> None:
    found = lines(
        loosened(SystemCallFilter=["@system-service", "~@mount"], CapabilityBoundingSet=["CAP_KILL", "CAP_CHOWN"])
    )
    position = found.index("SystemCallFilter=")
    assert found[position : position + 3] == [
        "SystemCallFilter=",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@mount",
    ]
    assert found[:2] == ["CapabilityBoundingSet=", "CapabilityBoundingSet=CAP_KILL CAP_CHOWN"]


def test_nothing_leaves_a_directive_to_the_vendor() -> None:
    assert not any(line.startswith("PrivateTmp") for line in lines(loosened(PrivateTmp=None)))


def test_profile_of_the_user_comes_first_and_extends_ours(tmp_path: Path) -> None:
    profile = {"description": "d", "extends": "base", "threshold": 5.0, "settings": {"PrivateNetwork": False}}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({**profile, "reasons": {"PrivateNetwork": "r"}}))
    made = _confinement.dropins([unit(profile="mine")], [tmp_path])[0]
    assert "PrivateNetwork=no" in made.lines
    assert "NoNewPrivileges=yes" in made.lines
    assert made.threshold == 5.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extends": "mine"}, "extends itself: mine -> mine"),
        ({"extends": "absent"}, "mine.yml: extends: no file absent.yml in "),
        ({"settings": {"PrivatNetwork": False}}, "PrivatNetwork"),
        ({"reasons": {}}, "reasons: none for PrivateNetwork"),
        ({"threshold": "low"}, "threshold"),
        ({"units": {"beacon.service": {"settings": {"User": "x"}}}}, "units"),
    ],
)
def test_mistake_in_a_profile_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = {"description": "d", "extends": "base", "threshold": 5.0, "settings": {"PrivateNetwork": False}}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({**good, "reasons": {"PrivateNetwork": "r"}, **change}))
    with pytest.raises(FleetError) as caught:
        _confinement.dropins([unit(profile="mine")], [tmp_path])
    assert message in str(caught.value)


def test_every_unit_of_the_images_stands_in_one_profile() -> None:
    profiles = [_confinement._read(path) for path in sorted(_confinement.DIRECTORY.glob("*.yml"))]
    names = [name for profile in profiles for name in (*profile.units, *profile.gated, *profile.left)]
    assert sorted(set(names)) == sorted(names)
    assert {each.name for each in _confinement.image_dropins()} < set(_confinement.limits())


@given(st.sampled_from(sorted(_confinement.Settings.model_fields)), st.text() | st.lists(st.text(), max_size=3))
def test_no_value_can_bring_in_a_line_of_its_own(directive: str, value: Any) -> None:
    try:
        found = lines(loosened(**{directive: value}))
    except FleetError:
        return
    assert all("\n" not in line and "\0" not in line for line in found)
    assert {line.partition("=")[0] for line in found} <= set(_confinement.Settings.model_fields)
