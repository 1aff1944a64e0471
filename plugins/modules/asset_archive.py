#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: asset_archive
short_description: Pack all that a build takes from a network into one archive
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Writes a tar archive with the locked packages, the Python packages of the collection's C(requirements.txt) and
    C(requirements-collections.txt) as wheels, the files of the collection and a README. A machine without any network
    builds from it.
  - The same lock file, collection and Python give the same bytes.
  - Wheels are those for the Python and the machine that write the archive; a machine that imports it needs the same.
options:
  lock_file:
    description: The lock file, as M(vauban.fleet.package_lock) writes it.
    type: path
    required: true
  package_sets:
    description: Names of the package sets to take along. Sets are named in the lock file.
    type: list
    elements: str
    required: true
  store:
    description: Store that M(vauban.fleet.assets) filled. Every file is checked against its SHA-256.
    type: path
    required: true
  dest:
    description: The archive. Wheels are kept beside it, so that a second run needs no network.
    type: path
    required: true
extends_documentation_fragment:
  - vauban.fleet._attributes.step
seealso:
  - module: vauban.fleet.assets
"""

EXAMPLES = r"""
- name: Pack what an offline build needs
  vauban.fleet.asset_archive:
    lock_file: /srv/fleet/trixie.lock.json
    package_sets: [sdk, kernel, gateway]
    store: /var/cache/vauban.fleet/assets
    dest: /srv/build/export/vauban.fleet-offline.tar
"""

RETURN = r"""
changed:
  description: Whether the archive was written or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it had to be written, with the inputs that changed; or C(inputs unchanged).
  returned: success
  type: str
  sample: "changed: packages"
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 6.1
path:
  description: The archive.
  returned: success
  type: str
  sample: /srv/build/export/vauban.fleet-offline.tar
digest:
  description: SHA-256 over the digests of all inputs.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
files:
  description: How many files the archive holds.
  returned: success, unless check mode would make it
  type: int
  sample: 712
packages:
  description: How many of them are Debian packages.
  returned: success, unless check mode would make it
  type: int
  sample: 412
size:
  description: Size of the archive in bytes.
  returned: success, unless check mode would make it
  type: int
  sample: 268435456
sha256:
  description: SHA-256 of the archive.
  returned: success, unless check mode would make it
  type: str
  sample: 5d0a7f3e9b1c28465d0a7f3e9b1c28465d0a7f3e9b1c28465d0a7f3e9b1c2846
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
