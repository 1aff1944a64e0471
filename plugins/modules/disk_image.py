#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: disk_image
short_description: Make the disk image of a release by installing it in a virtual machine
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Boots the real installer of a release once in a virtual machine with Secure Boot and a TPM, and keeps the disk, the
    TPM's state and the firmware's variables as a machine to try.
options:
  release:
    description: Directory of the release, with the manifest made by M(vauban.fleet.release_manifest).
    type: path
    required: true
  keys:
    description: Key directory of the product. Its public half goes into the firmware of the virtual machine.
    type: path
    required: true
  dest:
    description: Directory of the machine, which is replaced as a whole.
    type: path
    required: true
  disk_size:
    description: Size of the disk in bytes.
    type: int
    required: true
  installation:
    description:
      - What the machine is to become, as the installer reads it.
      - C(disk) chooses the disk by its properties. C(esp_size), C(swap_size), C(state_size) and C(core_size) (of each
        of the two) are sizes in bytes; without C(state_size) the state takes 60 % of what the rest leaves.
    type: dict
    required: true
  timeout:
    description: Seconds after which the installation counts as failed.
    type: int
    default: 1200
attributes:
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
    details:
      - What is installed is the same each time. The disk itself is not, since its keys are made by the installer.
extends_documentation_fragment:
  - vauban.fleet._build.sdk
  - vauban.fleet._build.work
  - vauban.fleet._attributes.step
  - vauban.fleet._attributes.build_group
seealso:
  - module: vauban.fleet.release_manifest
"""

EXAMPLES = r"""
- name: Install a machine from the release
  vauban.fleet.disk_image:
    sdk: /srv/build/sdk/current
    release: /srv/build/gateway/0.1.0
    keys: /srv/keys/gateway
    dest: /srv/build/gateway/0.1.0/machine
    work: /srv/build/gateway/work/0.1.0
    disk_size: 1073741824
    installation:
      disk:
        serial: system
      core_size: 268435456
"""

RETURN = r"""
changed:
  description: Whether the machine was made or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it had to be made, with the inputs that changed; or C(inputs unchanged).
  returned: success
  type: str
  sample: "changed: release"
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 94.0
path:
  description: The machine.
  returned: success
  type: str
  sample: /srv/build/gateway/0.1.0/machine
digest:
  description: SHA-256 over the digests of all inputs; stands for the machine wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
report:
  description: What the installer did, step by step, each with its evidence.
  returned: success, unless check mode would make it
  type: dict
  sample:
    status: installed
    product: gateway
    version: 0.1.0
    steps:
      - step: choose disk
        status: done
        seconds: 0.1
        evidence:
          disk: /dev/vdb (no model, serial system, 1073741824 bytes)
    failure: null
sha256:
  description: SHA-256 of the disk.
  returned: success, unless check mode would make it
  type: str
  sample: 002fc79867db533cdfbee48d5ddfe31176270d456828cec0fb8dbb63d6161d05
failure:
  description: What went wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  contains:
    message:
      description: What went wrong.
      returned: always
      type: str
    where:
      description: The file, key or device concerned, or null.
      returned: always
      type: str
    remedy:
      description: What to type or change next, or null.
      returned: always
      type: str
  sample:
    message: the lock file does not exist
    where: /srv/fleet/trixie.lock.json
    remedy: run 'ansible-playbook vauban.fleet.lock' to write it again
"""
