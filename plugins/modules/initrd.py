#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: initrd
short_description: Build the initrd of a product or of its installer
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Picks files of the tree by a list, with what they need, adds units of the collection, and packs them reproducibly
    (cpio, zstd). There is no shell and no login in it.
options:
  kind:
    description:
      - V(system) opens the verified core and the state volume.
      - V(installer) also carries what installs a release.
    type: str
    choices: [system, installer]
    required: true
  dest:
    description: The initrd.
    type: path
    required: true
  root:
    description:
      - Certificate of the root below which releases must be signed, with its list of revoked certificates (PEM); for
        O(kind=installer).
    type: path
  moved_pcrs:
    description:
      - Registers that the state volume is bound to, for O(kind=system) of a product whose keys of a security epoch
        before may still be what a machine trusts. The machine then lets its TPM open the volume for the present key,
        too.
      - Empty if there is nothing to move on from.
    type: list
    elements: int
    default: []
  dbx_pcrs:
    description:
      - Registers that the state volume is bound to, for O(kind=system) of a product that adds to the firmware variable
        C(dbx). The machine then lets its TPM open the volume for what PCR 7 becomes by that, too.
      - Empty if there is nothing to add.
    type: list
    elements: int
    default: []
    version_added: 0.4.0
  enrolment:
    description:
      - The provisioning server that the installer installs from, for O(kind=installer). With an empty one it has no
        network and installs from a medium only.
      - The installer believes nobody else, and resolves no names.
    type: dict
    default: {}
    suboptions:
      url:
        description: C(https://NAME[:PORT]).
        type: str
        required: true
      authority:
        description: File with the certificate (PEM) of the authority that certifies the server.
        type: path
        required: true
      addresses:
        description: Addresses of the server.
        type: list
        elements: str
        required: true
      secure_boot_keys:
        description: Directory with C(db.auth), C(KEK.auth) and C(PK.auth), which firmware in setup mode gets.
        type: path
  compression_level:
    description: Level of zstd, 1 to 19.
    type: int
    default: 6
extends_documentation_fragment:
  - vauban.fleet._build.sdk
  - vauban.fleet._build.tree
  - vauban.fleet._build.work
  - vauban.fleet._build.hardware
  - vauban.fleet._build.epoch
  - vauban.fleet._attributes.step
  - vauban.fleet._attributes.build_group
notes:
  - Of what roles changed only C(os-release) and the lines of C(crypttab) for the initrd count as inputs, so that most
    changes of a role do not cost an initrd.
seealso:
  - module: vauban.fleet.uki
"""

EXAMPLES = r"""
- name: Build the initrd
  vauban.fleet.initrd:
    kind: system
    sdk: /srv/build/sdk/current
    base: "{{ tree.path }}"
    layer: /srv/build/gateway/work/0.1.0/layer
    dest: /srv/build/gateway/work/0.1.0/system.initrd
    work: /srv/build/gateway/work/0.1.0
    hardware_profiles: [qemu_virtio]
    epoch: "{{ assets.epoch }}"
"""

RETURN = r"""
changed:
  description: Whether the initrd was made or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it had to be made, with the inputs that changed; or C(inputs unchanged).
  returned: success
  type: str
  sample: "changed: base tree"
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 6.1
path:
  description: The initrd.
  returned: success
  type: str
  sample: /srv/build/gateway/work/0.1.0/system.initrd
digest:
  description: SHA-256 over the digests of all inputs; stands for the initrd wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
files:
  description: How many files are in it.
  returned: success, unless check mode would make it
  type: int
  sample: 329
packages:
  description: Version by name of the packages that files in it come from, those of the tree and those of the SDK.
  returned: success, unless check mode would make it
  type: dict
  sample:
    tree:
      systemd: 257.9-1~deb13u1
    sdk:
      age: 1.2.1-1+b5
size:
  description: Size of the initrd in bytes.
  returned: success, unless check mode would make it
  type: int
  sample: 13246802
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
