# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The units that a site confines in another way than the images do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.model import Confined
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan


def dropin(confined: Confined, directories: Sequence[Path]) -> _confinement.Dropin:
    """What a unit gets, from the same function as in role ``confinement``.

    :param directories: those of the site's own profiles.
    :raises FleetError: the profile or a directive is wrong; names the file of a profile.
    """
    data = confined.model_dump(include={"profile", "settings", "reasons", "threshold"})
    return _confinement.dropin({"name": confined.unit, **data}, directories)


class Confinement:
    """The drop-ins of hosts."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        directories = plan.profile_directories
        self._dropins = [dropin(confined, directories).as_dict() for confined in plan.site.confinement]

    def of(self, name: str) -> tuple[int, ...]:
        """Which elements of the site's key ``confinement`` are a host's."""
        if not self._dropins:
            return ()
        zones = self._plan.zones_of.get(name, frozenset())
        return tuple(index for index, confined in enumerate(self._plan.site.confinement) if confined.zone in zones)

    def dropins(self, indexes: Iterable[int]) -> list[dict[str, Any]]:
        """The drop-ins of these elements, as the role has them."""
        return [self._dropins[index] for index in indexes]
