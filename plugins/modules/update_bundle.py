#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: update_bundle
short_description: Pack a core and its UKI as the file that machines update themselves with
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Writes an update bundle in RAUC's format C(verity), signed with the product's key C(release), and has C(rauc) verify
    it.
  - It holds the core with its hash tree and parity, as it lies on a volume, and the UKI.
options:
  product:
    description: Name of the product. A machine of another product refuses the bundle.
    type: str
    required: true
  version:
    description: Version of the product, with C(+instrumented) if it has development features.
    type: str
    required: true
  core:
    description: The image made by M(vauban.fleet.core_image).
    type: path
    required: true
  uki:
    description: The UKI of the system, made by M(vauban.fleet.uki).
    type: path
    required: true
  dest:
    description: The bundle.
    type: path
    required: true
extends_documentation_fragment:
  - vauban.fleet._build.sdk
  - vauban.fleet._build.work
  - vauban.fleet._build.epoch
  - vauban.fleet._build.signing
  - vauban.fleet._attributes.step
  - vauban.fleet._attributes.build_group
seealso:
  - module: vauban.fleet.core_image
  - module: vauban.fleet.uki
  - module: vauban.fleet.release_manifest
"""

EXAMPLES = r"""
- name: Pack the update bundle
  vauban.fleet.update_bundle:
    product: gateway
    version: 0.1.0
    sdk: /srv/build/sdk/current
    core: "{{ core.path }}"
    uki: /srv/build/gateway/0.1.0/gateway_0.1.0.efi
    keys: /srv/keys/gateway
    dest: /srv/build/gateway/0.1.0/gateway_0.1.0.raucb
    work: /srv/build/gateway/work/0.1.0
    epoch: "{{ assets.epoch }}"
"""

RETURN = r"""
changed:
  description: Whether the bundle was made or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it had to be made, with the inputs that changed; or C(inputs unchanged).
  returned: success
  type: str
  sample: "changed: uki"
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 4.2
path:
  description: The bundle.
  returned: success
  type: str
  sample: /srv/build/gateway/0.1.0/gateway_0.1.0.raucb
digest:
  description: SHA-256 over the digests of all inputs; stands for the bundle wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
sha256:
  description: SHA-256 of the bundle.
  returned: success, unless check mode would make it
  type: str
  sample: d7a01ddcbc4527c119b2c933216d91d8a1b93151e56c712ba91d0a69adcc9e79
size:
  description: Size of the bundle in bytes.
  returned: success, unless check mode would make it
  type: int
  sample: 82485248
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
