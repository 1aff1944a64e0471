# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Confinement: units and profiles that are there. How exposed a unit is, systemd itself judges."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Keys, Problem, unknown
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.confinement import dropin


def profiles(plan: Plan) -> Iterator[Problem]:
    """The site's own profiles can be used."""
    for index, directory in enumerate(plan.profile_directories):
        path: Keys = ("confinement_profile_directories", index)
        if not directory.is_dir():
            yield Problem(path, f"there is no directory {directory}", "make it, or take it out")
        for file in sorted(directory.glob("*.yml")):
            try:
                _confinement.check(file)
            except FleetError as exc:
                yield _problem(path, exc)


def confinement(plan: Plan) -> Iterator[Problem]:
    """Unit, profile and zone are there, and no host has two drop-ins for one unit."""
    broken = {problem.message for problem in profiles(plan)}
    seen: dict[tuple[str, str], int] = {}
    for index, confined in enumerate(plan.site.confinement):
        path: Keys = ("confinement", index)
        if not any(confined.unit in units for units in (*plan.units.values(), _confinement.known_units())):
            remedy = "correct it, or name it in products"
            yield Problem((*path, "unit"), f"no product has a unit {confined.unit}", remedy)
        try:
            dropin(confined, plan.profile_directories)
        except FleetError as exc:
            problem = _problem(path, exc)
            if problem.message not in broken:
                yield problem
        if confined.zone not in plan.site.zones:
            yield unknown((*path, "zone"), "zone", confined.zone, plan.site.zones)
            continue
        hosts = plan.zones[confined.zone].hosts if confined.zone in plan.zones else frozenset()
        if not hosts:
            remedy = "add hosts to the zone, or take the unit away"
            yield Problem((*path, "zone"), f"zone {confined.zone} has no host", remedy, follows=True)
        before = {seen.setdefault((confined.unit, host), index) for host in sorted(hosts)} - {index}
        if before:
            twice = f"{confined.unit} stands in confinement[{min(before)}] too, for some of the same hosts"
            yield Problem((*path, "unit"), twice, "take one of them away")


def _problem(path: Keys, error: FleetError) -> Problem:
    said = " ".join(error.message.replace("Value error, ", "").split())
    return Problem(path, f"{error.where}: {said}" if error.where else said, error.remedy or "correct it")
