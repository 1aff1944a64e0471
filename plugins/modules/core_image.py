#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: core_image
short_description: Pack a configured tree as a read-only image with dm-verity
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Cleans the tree up (caches, package manager, set-user-id bits, kernel modules that no hardware profile names), on a
    layer that is thrown away, and packs it as a file system image.
  - Appends the hash tree of dm-verity and parity for forward error correction. The same tree gives the same bytes.
  - Writes C(origin.json) beside the image, which says of each file which package or task it comes from; and C(vmlinuz),
    the kernel, to O(work).
options:
  dest:
    description: The image. Its suffix names the file system.
    type: path
    required: true
  root_format:
    description: File system of the image.
    type: str
    choices: [erofs, squashfs]
    default: erofs
extends_documentation_fragment:
  - vauban.fleet._build.sdk
  - vauban.fleet._build.tree
  - vauban.fleet._build.work
  - vauban.fleet._build.hardware
  - vauban.fleet._build.epoch
  - vauban.fleet._attributes.step
  - vauban.fleet._attributes.build_group
seealso:
  - module: vauban.fleet.root_layer
  - module: vauban.fleet.uki
"""

EXAMPLES = r"""
- name: Pack the core
  vauban.fleet.core_image:
    sdk: /srv/build/sdk/current
    base: "{{ tree.path }}"
    layer: /srv/build/gateway/work/0.1.0/layer
    dest: /srv/build/gateway/0.1.0/core.erofs
    work: /srv/build/gateway/work/0.1.0
    hardware_profiles: [qemu_virtio]
    epoch: "{{ assets.epoch }}"
  register: core
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
  sample: "changed: configuration"
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 26.9
path:
  description: The image.
  returned: success
  type: str
  sample: /srv/build/gateway/0.1.0/core.erofs
digest:
  description: SHA-256 over the digests of all inputs; stands for the image wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
verity:
  description: What dm-verity needs to open the image; one file holds data, hash tree and parity.
  returned: success, unless check mode would make it
  type: dict
  contains:
    root_hash:
      description: Root of the hash tree, hexadecimal. It becomes part of the signed command line.
      returned: always
      type: str
    hash_offset:
      description: Where the hash tree begins, in bytes.
      returned: always
      type: int
    fec_offset:
      description: Where the parity begins, in bytes.
      returned: always
      type: int
    fec_roots:
      description: Bytes of parity for each codeword.
      returned: always
      type: int
    size:
      description: Size of the image in bytes.
      returned: always
      type: int
  sample:
    root_hash: 25666cabf111f7593ce561177f8df51a8973a7ae9e2eab89a3fd2a19a701b660
    hash_offset: 133124096
    fec_offset: 134180864
    fec_roots: 2
    size: 135245824
kernel:
  description: Release of the kernel in the tree.
  returned: success, unless check mode would make it
  type: str
  sample: 6.12.117+deb13-amd64
packages:
  description: Packages whose files are in the image, with their versions.
  returned: success, unless check mode would make it
  type: dict
  sample:
    nftables: 1.1.3-1
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
