#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: assets
short_description: Fetch the packages that a lock file names
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Brings the files of the chosen package sets into a store that is addressed by content (SHA-256), with apt's own
    downloader, in parallel. Nothing is fetched that is there already, so a complete store needs no network.
  - A file is taken only if its size and SHA-256 are those of the lock file.
options:
  lock_file:
    description: The lock file, as M(vauban.fleet.package_lock) writes it.
    type: path
    required: true
  package_sets:
    description: Names of the package sets to fetch. Sets are named in the lock file.
    type: list
    elements: str
    required: true
  store:
    description: Directory of the store. Made if missing. Products, checkouts and builds may share it.
    type: path
    required: true
  mirrors:
    description:
      - URLs of the archives to fetch from, by the keys V(debian) and V(security).
      - Empty takes the mirrors of the controller's own apt sources.
    type: dict
    default: {}
  verify:
    description:
      - Read every file of the store that the sets name, and fetch again what is damaged.
      - Without it a file is trusted once it is there; it was checked when it came.
    type: bool
    default: false
attributes:
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
    details:
      - Files are found by the name that their content gives them.
extends_documentation_fragment:
  - vauban.fleet._attributes.step
seealso:
  - module: vauban.fleet.package_lock
  - module: vauban.fleet.root_tree
"""

EXAMPLES = r"""
- name: Fetch what the lock file names
  vauban.fleet.assets:
    lock_file: /srv/fleet/trixie.lock.json
    package_sets: [sdk, kernel, gateway]
    store: /var/cache/vauban.fleet/assets

- name: Check the store byte by byte, and take what is missing from a snapshot of the archive
  vauban.fleet.assets:
    lock_file: /srv/fleet/trixie.lock.json
    package_sets: [gateway]
    store: /var/cache/vauban.fleet/assets
    verify: true
    mirrors:
      debian: https://mirror.example/debian/20261120T000000Z
      security: https://mirror.example/debian-security/20261120T000000Z
"""

RETURN = r"""
changed:
  description: Whether files were fetched or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: How many files were missing and their size together; or C(all files in the store).
  returned: success
  type: str
  sample: 3 of 412 files, 17 MiB
seconds:
  description: How long it took, in seconds.
  returned: success
  type: float
  sample: 4.2
fetched:
  description: The packages that were fetched or, in check mode, would be.
  returned: success
  type: list
  elements: str
  sample: [nftables=1.1.3-1]
damaged:
  description: Those of RV(fetched) whose file was there with another content.
  returned: success
  type: list
  elements: str
  sample: []
epoch:
  description:
    - When the newest Release file of the lock file was signed, in seconds since 1970. Builds use it as
      C(SOURCE_DATE_EPOCH).
  returned: success
  type: int
  sample: 1795219200
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
