# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from pathlib import Path

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.playbook.role.definition import RoleDefinition
from ansible.plugins.action import ActionBase

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError


def role_path(name: str, action: ActionBase) -> Path:
    """Where a role lies that the task's role includes, found as ansible.builtin.include_role finds it.

    :raises FleetError: there is no such role.
    """
    definition = RoleDefinition(loader=action._loader, collection_list=action._task.collections)
    try:
        definition.preprocess_data({"role": name})
    except AnsibleError:
        searched = [f"{action._loader.get_basedir()}/roles", *(C.DEFAULT_ROLES_PATH or [])]
        raise FleetError(
            f"no role named {name!r} in a collection or in {', '.join(searched)}",
            where="product_roles",
            remedy="name it namespace.collection.role, or its directory in roles_path of ansible.cfg",
        ) from None
    return Path(definition.get_role_path())
