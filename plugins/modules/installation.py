# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: installation
short_description: Install a release on one disk of this machine
version_added: 0.1.0
author: The vauban.fleet contributors (@vauban)
description:
  - Verifies a release, erases the one disk that the rule matches, writes and reads back the core, formats and seals the
    state volume, and installs boot loader and UKI. It is the code that the installer runs.
  - Stops at the first step that fails. The report holds evidence for each step that was done.
  - A disk that already holds a core of this version and a state volume is left alone.
requirements:
  - root, a TPM 2.0, and the programs that C(files/initrd/installer.yml) names
  - OpenSSL 3.2 or newer
options:
  release:
    description: Directory with the release, its manifest and the manifest's signature.
    type: path
    required: true
  root:
    description:
      - Certificate of the root below which the manifest must have been signed, with its list of revoked certificates
        (PEM).
    type: path
    required: true
  disk:
    description:
      - Which disk to erase and install to; all keys must hold, and exactly one disk must match.
      - Known keys are V(path), V(serial), V(wwn), V(model), V(transport), V(minimum_size) and V(maximum_size) (bytes).
    type: dict
    required: true
  esp_size:
    description: Size of the EFI system partition in bytes.
    type: int
    default: 268435456
  swap_size:
    description: Size of the swap volume in bytes.
    type: int
    default: 268435456
  core_size:
    description: Size in bytes of each of the two volumes for a core.
    type: int
    default: 536870912
  state_size:
    description: Size of the state volume in bytes; by default 60 % of what the rest leaves.
    type: int
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying the target.
    support: full
    details: Verifies the release and chooses the disk, and says what would be erased.
  diff_mode:
    description: Will return details on what has changed when in diff mode.
    support: full
"""

EXAMPLES = r"""
- name: Say what an installation would erase
  vauban.fleet.installation:
    release: /run/medium
    root: /etc/vauban/root.pem
    disk:
      serial: S4X9NX0R
  check_mode: true
"""

RETURN = r"""
report:
  description: What was done, step by step, each with its evidence. No secret is in it; the recovery key is encrypted.
  returned: when something was installed
  type: dict
  sample: {"status": "installed", "product": "gateway", "version": "0.1.0"}
disk:
  description: The disk that the rule matched.
  returned: always
  type: str
  sample: /dev/nvme0n1 (INTEL SSDPE, serial S4X9NX0R, 512110190592 bytes)
failure:
  description: What went wrong (C(message), C(where), C(remedy)).
  returned: failure
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import disks, volumes
from ansible_collections.vauban.fleet.plugins.module_utils._install.installation import Installation, Request
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import open_release

_SIZES = ("esp_size", "swap_size", "core_size", "state_size")


def main() -> None:
    """Choose, compare, install."""
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
            "disk": {"type": "dict", "required": True},
            "esp_size": {"type": "int", "default": Request.esp_size},
            "swap_size": {"type": "int", "default": Request.swap_size},
            "core_size": {"type": "int", "default": Request.core_size},
            "state_size": {"type": "int"},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    request = Request(disk=parameters["disk"], **{name: parameters[name] for name in _SIZES})
    directory, root = Path(parameters["release"]), Path(parameters["root"])
    try:
        release = open_release(directory, root)
        disk = disks.choose(request.disk, disks.list_disks())
        group = release.manifest["volume_group"]
        if {(group, f"core_{release.version}"), (group, "state")} <= volumes.logical_volumes(disk):
            module.exit_json(changed=False, disk=str(disk))
        diff = {"before": "\n".join(disk.contents) + "\n", "after": f"{release.product} {release.version}\n"}
        if module.check_mode:
            module.exit_json(changed=True, disk=str(disk), diff=diff)
        report = Installation(directory, root, request, module.log).run()
    except FleetError as exc:
        module.fail_json(msg=str(exc), failure=exc.as_failure())
    module.exit_json(changed=True, disk=str(disk), diff=diff, report=report.__dict__)


if __name__ == "__main__":
    main()
