# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.utils.collection_loader import AnsibleCollectionConfig
from ansible.utils.collection_loader._collection_finder import _get_collection_role_path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError


def role_path(name: str, task_vars: Mapping[str, Any]) -> Path:
    """Where a role lies: in a collection, or in ``roles`` beside the playbook or the inventory.

    :raises FleetError: there is no such role.
    """
    found = _get_collection_role_path(name, [AnsibleCollectionConfig.default_collection or "vauban.fleet"])
    if found:
        return Path(found[1])
    searched = [Path(task_vars[name]) / "roles" for name in ("playbook_dir", "inventory_dir") if task_vars.get(name)]
    for directory in searched:
        if (directory / name).is_dir():
            return directory / name
    raise FleetError(
        f"no role named {name!r} in a collection or in {', '.join(map(str, searched))}",
        where="product_roles",
        remedy="name it namespace.collection.role, or put it in one of these directories",
    )
