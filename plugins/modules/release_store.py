#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: release_store
short_description: Keep the releases that a server offers
author: Vauban maintainers (@vauban)
version_added: 0.3.0
description:
  - Copies releases from the controller to C(PATH/PRODUCT/VERSION). A release gets its name when all of its files are
    there, on disk, and have the sizes and hashes that its manifest says; before, or if a run is cut short, there is
    nothing under that name.
  - Removes releases that are neither wanted nor held nor among the newest others of their product.
options:
  path:
    description: Directory on the target.
    type: path
    required: true
  releases:
    description: Directories of releases on the controller.
    type: list
    elements: path
    required: true
  held:
    description: Releases that stay if they are there, as C(PRODUCT/VERSION).
    type: list
    elements: str
    default: []
  keep:
    description: How many others of each product stay, the newest first.
    type: int
    default: 1
  replace:
    description: Whether a release may take the place of another one of the same version. Otherwise that is an error.
    type: bool
    default: false
  wanted:
    description: Set by the action plugin.
    type: list
    elements: dict
    default: []
  arrived:
    description: Set by the action plugin.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying the target.
    support: full
  diff_mode:
    description: Will return details on what has changed when in diff mode.
    support: full
notes:
  - A release is copied to the temporary directory of the remote user first, then to O(path); both need room for it.
"""

EXAMPLES = r"""
- name: Offer two releases, and keep the one before of each product
  vauban.fleet.release_store:
    path: /srv/vauban/releases
    releases:
      - build/gateway/current
      - build/server/current
"""

RETURN = r"""
published:
  description: Releases that were copied, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [gateway/0.1.0]
removed:
  description: Releases that were removed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [gateway/0.0.7]
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: another release of this version is published
    where: /srv/vauban/releases/gateway/0.1.0
    remedy: give the new one another version, or set boot_server_replace (replace)
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._release_store import Release, Store


def main() -> None:
    """Say what is missing, or take over what has arrived and remove what is too much."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "releases": {"type": "list", "elements": "path", "required": True},
            "held": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 1},
            "replace": {"type": "bool", "default": False},
            "wanted": {"type": "list", "elements": "dict", "default": []},
            "arrived": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    options = module.params
    try:
        store = Store(Path(options["path"]))
        wanted = [Release.from_dict(each) for each in options["wanted"]]
        missing = store.missing(wanted, replace=options["replace"])
        published = [release.name for release in missing]
        complete = all(name in options["arrived"] for name in published)
        if complete and not module.check_mode:
            for release in missing:
                store.publish(release, Path(options["arrived"][release.name]), move=True)
        removed = store.surplus(wanted, options["held"], max(0, options["keep"]))
        if complete and not module.check_mode:
            for name in removed:
                store.remove(name)
    except FleetError as exc:
        module.fail_json(msg=str(exc), failure=exc.as_failure())
    module.exit_json(
        changed=bool(published or removed),
        published=published,
        removed=removed,
        complete=complete,
        diff={
            "before_header": str(store.path),
            "after_header": str(store.path),
            "before": "".join(f"{name}\n" for name in removed),
            "after": "".join(f"{name}\n" for name in published),
        },
    )


if __name__ == "__main__":
    main()
