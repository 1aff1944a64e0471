# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement


def confinement_dropins(units: list[dict[str, Any]], directories: list[str] | None = None) -> list[dict[str, Any]]:
    """The drop-ins of the units that a site confines."""
    try:
        return [each.as_dict() for each in _confinement.dropins(units, directories or [])]
    except FleetError as exc:
        raise AnsibleFilterError(str(exc)) from exc


def confinement_image_dropins(directories: list[str]) -> list[dict[str, Any]]:
    """The drop-ins of the units of an image."""
    try:
        return [each.as_dict() for each in _confinement.image_dropins(directories)]
    except FleetError as exc:
        raise AnsibleFilterError(str(exc)) from exc


class FilterModule:
    """Filters of role confinement."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name and function of each."""
        return {
            "confinement_dropins": confinement_dropins,
            "confinement_image_dropins": confinement_image_dropins,
        }
