# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role confinement in the tree of an image: systemd itself judges the units."""

from __future__ import annotations

from pathlib import Path

import hosts
import pytest
from hosts import Host
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement

from .conftest import play_roles

OF_OTHER_ROLES = {
    "attestation.service",
    "boot-dhcp.service",
    "configuration-apply.service",
    "configuration-check.service",
    "configuration-report.service",
    "configuration-restore.service",
    "kea-dhcp4-server.service",
    "keepalived.service",
    "modules-lock.service",
    "nginx.service",
    "revocations.service",
    "strongswan.service",
    "update-deadline.service",
    "update-fetch.service",
    "update-health.service",
    "update-install.service",
    "update-policy.service",
    "update-restart.service",
    "update-retry.service",
    "vauban-enrolment-admin.service",
    "vauban-enrolment-machines.service",
}
LIMITS = {name: limit for name, limit in _confinement.limits().items() if name not in OF_OTHER_ROLES}


@pytest.fixture(scope="module")
def tree(image: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Host:
    with hosts.host("tree", SDK, image, tmp_path_factory.mktemp("tree") / "tree") as started:
        yield started


@pytest.mark.parametrize("unit", sorted(LIMITS))
def test_exposure_is_within_the_limit(tree: Host, unit: str) -> None:
    done = tree.ask(*_confinement.exposure_check(unit, LIMITS[unit], "--no-pager"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", sorted(LIMITS))
def test_limit_bites(tree: Host, unit: str) -> None:
    """Without the drop-in a unit of ours is above the limit; what systemd wrote itself is above a lower one."""
    gated = unit not in {each.name for each in _confinement.image_dropins()}
    limit = LIMITS[unit] - 3 if gated else LIMITS[unit]
    tree("mkdir", "-p", "/run/bare")
    name = unit.replace("@.", "@instance.")
    source = f"/usr/lib/systemd/system/{unit}"
    tree("sh", "-euc", 'rm -rf /run/bare/*; cp "$1" "/run/bare/bare-$2"', "sh", source, name)
    check = _confinement.exposure_check(unit, max(limit, 0.1), "--no-pager")[:-1]
    done = tree.ask(*check, f"/run/bare/bare-{name}")
    assert done.returncode != 0, done.stdout + done.stderr


def test_systemd_reads_every_unit_without_a_word(tree: Host) -> None:
    units = [unit.replace("@.", "@instance.") for unit in LIMITS]
    done = tree.ask("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units)
    lines = [line for line in done.stderr.splitlines() if "confinement" in line or "vauban" in line]
    assert (done.returncode, lines) == (0, []), done.stderr


def test_verify_says_a_word_about_a_wrong_directive(tree: Host) -> None:
    """The test above can fail."""
    tree.write("/etc/systemd/system/chrony.service.d/50-confinement.conf", "[Service]\nNoSuchDirective=yes\n")
    done = tree.ask("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "chrony.service")
    assert "confinement.conf:2: Unknown key" in done.stderr
    tree("rm", "/etc/systemd/system/chrony.service.d/50-confinement.conf")


def test_role_refuses_a_unit_above_its_limit(base: Path, tmp_path: Path) -> None:
    unit = {"name": "chrony.service", "profile": "base", "settings": {"NoNewPrivileges": False}, "threshold": 0.2}
    why = {"reasons": {"NoNewPrivileges": "to be refused"}}
    done = play_roles(tmp_path, base, "confinement", confinement_units=[{**unit, **why}])
    assert done.returncode != 0
    assert "Overall exposure level for chrony.service" in done.stdout
    assert (tmp_path / "layer/upper/etc/systemd/system/chrony.service.d/50-confinement.conf").is_file()


def test_role_names_a_wrong_directive(base: Path, tmp_path: Path) -> None:
    settings = {"settings": {"ProtectSistem": "strict"}, "reasons": {"ProtectSistem": "a mistake"}}
    units = [{"name": "chrony.service", "profile": "base", **settings}]
    done = play_roles(tmp_path, base, "confinement", confinement_units=units)
    assert done.returncode != 0
    assert "confinement_units[0] (chrony.service): ProtectSistem" in done.stdout + done.stderr
