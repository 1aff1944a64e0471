#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: configuration_store
short_description: Keep the host configurations that a server offers
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Takes archives of host configurations into a directory that the web server offers. Each has its SHA-256 as name,
    and gets it when it is whole and on disk. What is there is never changed.
  - M(vauban.fleet.provision_hosts) brings what is missing, as one file.
options:
  path:
    description: Directory on the target.
    type: path
    default: /srv/vauban/configurations
  wanted:
    description: SHA-256 of each archive that has to be there.
    type: list
    elements: str
    required: true
  arrived:
    description: File in tar format on the target that holds those that were missing, by name.
    type: path
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying the target.
    support: full
  diff_mode:
    description: Will return details on what has changed when in diff mode.
    support: none
"""

EXAMPLES = r"""
- name: Look which configurations a server lacks
  vauban.fleet.configuration_store:
    wanted: ["{{ lookup('ansible.builtin.file', 'paris-gw1.tar.gz', rstrip=false) | hash('sha256') }}"]
  check_mode: true
"""

RETURN = r"""
missing:
  description: Those that were not there before.
  returned: success
  type: list
  elements: str
  sample: []
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: did not arrive whole
    where: /srv/vauban/configurations
    remedy: run it again
"""

import hashlib
import os
import re
import tarfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

_NAME = re.compile(r"[0-9a-f]{64}")


def _take(path: Path, arrived: Path, missing: set[str]) -> None:
    with tarfile.open(arrived) as bundle:
        for member in bundle:
            stream = bundle.extractfile(member)
            if member.name not in missing or stream is None:
                raise FleetError(f"holds {member.name!r}, which nobody wants", where=str(arrived))
            content = stream.read()
            if hashlib.sha256(content).hexdigest() != member.name:
                raise FleetError("did not arrive whole", where=str(arrived), remedy="run it again")
            with replacing_file(path / member.name) as new:
                new.write_bytes(content)
            missing.discard(member.name)
    if missing:
        raise FleetError(f"lacks {len(missing)} of them", where=str(arrived), remedy="run it again")


def main() -> None:
    """Say what is missing, or take over what has arrived."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/srv/vauban/configurations"},
            "wanted": {"type": "list", "elements": "str", "required": True},
            "arrived": {"type": "path"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    path, wanted = Path(module.params["path"]), sorted(set(module.params["wanted"]))
    try:
        if wrong := [name for name in wanted if not _NAME.fullmatch(name)]:
            raise FleetError(f"{wrong[0]!r} is no SHA-256", where="wanted")
        missing = [name for name in wanted if not (path / name).is_file()]
        if module.params["arrived"] and missing and not module.check_mode:
            _take(path, Path(module.params["arrived"]), set(missing))
    except (FleetError, OSError, tarfile.TarError) as exc:
        error = exc if isinstance(exc, FleetError) else FleetError(str(exc), where=str(path))
        module.fail_json(msg=str(error), failure=error.as_failure())
    module.exit_json(changed=bool(missing), missing=missing)


if __name__ == "__main__":
    main()
