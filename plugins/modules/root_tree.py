#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: root_tree
short_description: Install locked packages into a root tree
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Makes a root tree with mmdebstrap from the files of the store alone, without network.
  - The tree is named after what is in it, so that products with the same packages share it, and a tree of other
    packages never takes its place.
options:
  lock_file:
    description: The lock file, as M(vauban.fleet.package_lock) writes it.
    type: path
    required: true
  package_set:
    description: Package set of the lock file to install.
    type: str
    required: true
  unpacked_set:
    description: Package set that O(unpacked) chooses from.
    type: str
  unpacked:
    description:
      - Packages of O(unpacked_set) whose files are unpacked without running their maintainer scripts, for example a
        kernel that must not build its own initrd.
      - Each entry is the beginning of a name and has to fit exactly one package.
    type: list
    elements: str
    default: []
  store:
    description: Directory of the store that M(vauban.fleet.assets) fills.
    type: path
    required: true
  dest:
    description: Directory that holds the trees. Made if missing.
    type: path
    required: true
  sdk:
    description: The SDK whose mmdebstrap does the work. Without it the controller's own does, as for the SDK itself.
    type: path
extends_documentation_fragment:
  - vauban.fleet._attributes.step
seealso:
  - module: vauban.fleet.assets
  - module: vauban.fleet.root_layer
"""

EXAMPLES = r"""
- name: Install the packages of a gateway
  vauban.fleet.root_tree:
    lock_file: /srv/fleet/trixie.lock.json
    package_set: gateway
    unpacked_set: kernel
    unpacked: [linux-base, linux-image-6]
    store: /var/cache/vauban.fleet/assets
    dest: /srv/build/trees
    sdk: /srv/build/sdk/current
  register: tree
"""

RETURN = r"""
changed:
  description: Whether the tree was made or, in check mode, would be.
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
  sample: 47.3
path:
  description: The tree.
  returned: success
  type: str
  sample: /srv/build/trees/8127881f95248b2a/root
digest:
  description: SHA-256 over the digests of all inputs; stands for the tree wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
packages:
  description: How many packages are installed or unpacked.
  returned: success, unless check mode would make it
  type: int
  sample: 141
log:
  description: File with the commands and what they printed.
  returned: success, unless check mode would make it
  type: str
  sample: /srv/build/trees/8127881f95248b2a/root_tree.log
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
