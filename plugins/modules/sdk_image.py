#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: sdk_image
short_description: Pack the SDK into one read-only image
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Packs the root tree of the SDK as an image (erofs) with the SDK's own tools, and points a link to what this user can
    run, which is the image for root and the tree for others.
options:
  tree:
    description: Root tree of the SDK, made by M(vauban.fleet.root_tree). The image lies beside it.
    type: path
    required: true
  dest:
    description: Symbolic link to the SDK, which other steps take as O(vauban.fleet.core_image#module:sdk).
    type: path
    required: true
extends_documentation_fragment:
  - vauban.fleet._build.epoch
  - vauban.fleet._attributes.step
seealso:
  - module: vauban.fleet.root_tree
"""

EXAMPLES = r"""
- name: Pack the SDK
  vauban.fleet.sdk_image:
    tree: "{{ sdk_tree.path }}"
    dest: /srv/build/sdk/current
    epoch: "{{ assets.epoch }}"
"""

RETURN = r"""
changed:
  description: Whether the image was made or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it had to be made, with the inputs that changed; or C(inputs unchanged).
  returned: success
  type: str
  sample: "first build"
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 21.8
path:
  description: The image.
  returned: success
  type: str
  sample: /srv/build/sdk/5d0a7f3e9b1c2846/sdk.erofs
digest:
  description: SHA-256 over the digests of all inputs; stands for the image wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
link:
  description: The link of O(dest).
  returned: success
  type: str
  sample: /srv/build/sdk/current
size:
  description: Size of the image in bytes.
  returned: success, unless check mode would make it
  type: int
  sample: 135245824
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
