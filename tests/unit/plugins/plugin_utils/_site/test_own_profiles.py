# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Confinement profiles that a site brings along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.vauban.fleet.plugins.plugin_utils._data import FILES
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import SiteError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import Views

from .conftest import Load, edited

OWN: dict[str, Any] = {
    "description": "services that write much",
    "extends": "network_service",
    "threshold": 1.5,
    "settings": {"UMask": "0027"},
    "reasons": {"UMask": "another service of the group reads it"},
}
USED = {
    "confinement.0.profile": "own",
    "confinement_profile_directories": ["profiles"],
}
WRONG = "Remedy: see systemd.exec(5) for the directive and its values"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the profile ``own`` with changes into a directory beside the site file."""

    def call(**changes: Any) -> Path:
        (tmp_path / "profiles").mkdir(exist_ok=True)
        path = tmp_path / "profiles/own.yml"
        path.write_text(yaml.safe_dump({**OWN, **changes}))
        return path

    return call


def refused(load_site: Load, changes: dict[str, Any]) -> list[str]:
    """What is wrong, without the file and the line."""
    with pytest.raises(SiteError) as error:
        load_site(edited(changes, []))
    return [line.split(": ", 1)[1] for line in str(error.value).splitlines()]


def test_unit_has_the_sites_profile_and_its_limit(load_site: Load, write: Callable[..., Path]) -> None:
    write()
    views = Views(load_site(edited(USED, [])).plan)
    (dropin,) = views.variables("north-server")["confinement"]["confinement_dropins"]
    assert {"UMask=0027", "MemoryMax=1G", "PrivateNetwork=no", "NoNewPrivileges=yes"} <= set(dropin["lines"])
    assert "--threshold=15" in dropin["check"]


def test_profile_of_the_site_comes_before_that_of_the_same_name(
    load_site: Load, tmp_path: Path, write: Callable[..., Path]
) -> None:
    write(extends="base").rename(tmp_path / "profiles/network_service.yml")
    views = Views(load_site(edited({**USED, "confinement.0.profile": "network_service"}, [])).plan)
    (dropin,) = views.variables("north-server")["confinement"]["confinement_dropins"]
    assert {"UMask=0027", "PrivateNetwork=yes"} <= set(dropin["lines"])


def test_change_of_a_profile_changes_the_inputs(load_site: Load, write: Callable[..., Path]) -> None:
    site = edited(USED, [])
    write()
    before = load_site(site).inputs
    assert load_site(site).inputs == before
    write(threshold=1.4)
    assert load_site(site).inputs != before


def test_unknown_profile_says_where_it_was_looked_for(
    load_site: Load, tmp_path: Path, write: Callable[..., Path]
) -> None:
    write()
    assert refused(load_site, {**USED, "confinement.0.profile": "owm"}) == [
        f"confinement[0]: no file owm.yml in {tmp_path}/profiles, {FILES}/confinement. Remedy: choose from base, "
        "network_service, no_network, own, remote_access, system_service, task, or add a file"
    ]


def test_directory_that_is_not_there(load_site: Load, tmp_path: Path) -> None:
    (said,) = refused(load_site, {"confinement_profile_directories": ["profiles"]})
    what = f"confinement_profile_directories[0]: there is no directory {tmp_path}/profiles"
    assert said == f"{what}. Remedy: make it, or take it out"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": {"Umask": "0027"}}, "Umask: Extra inputs are not permitted"),
        ({"threshold": "low"}, "threshold: Input should be a valid number"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_mistake_in_a_profile_is_said_once_whether_it_is_used_or_not(
    load_site: Load, write: Callable[..., Path], change: dict[str, Any], said: str
) -> None:
    path = write(**change)
    for changes in (USED, {**USED, "confinement.0.profile": "network_service"}):
        assert refused(load_site, changes) == [f"confinement_profile_directories[0]: {path}: {said}. {WRONG}"]


def test_file_that_is_no_profile_at_all(load_site: Load, tmp_path: Path, write: Callable[..., Path]) -> None:
    write().write_text("settings: [\n")
    (tmp_path / "profiles/more.yml").mkdir()
    first, second = refused(load_site, USED)
    assert first.startswith(f"confinement_profile_directories[0]: {tmp_path}/profiles/more.yml: cannot be read: ")
    assert second.startswith(f"confinement_profile_directories[0]: {tmp_path}/profiles/own.yml: not YAML: ")


def test_profile_of_the_site_that_extends_what_is_not_there(load_site: Load, write: Callable[..., Path]) -> None:
    path = write(extends="nothing")
    (said,) = refused(load_site, USED)
    assert said.startswith(f"confinement[0]: {path}: extends: no file nothing.yml in ")
