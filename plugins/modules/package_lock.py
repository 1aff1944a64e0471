#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: package_lock
short_description: Resolve package sets and write the lock file
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Resolves each package set against the archive with apt, as a fresh system without recommended packages, and writes
    the lock file. It names every package by version, source, pool path, size and SHA-256, and the signed Release files
    that vouch for them.
  - This is the only step of a build that decides on versions. It needs the network; everything after it installs
    exactly what the lock file says.
options:
  path:
    description: The lock file.
    type: path
    required: true
  package_sets:
    description:
      - What each set holds, by the name of the set, as a list.
      - An entry C(@name) stands for the packages of the file C(name.yml) of package sets, any other for a package.
    type: dict
    required: true
  directories:
    description: Directories with more files of package sets. They come before those of the collection.
    type: list
    elements: path
    default: []
  codename:
    description: Codename of the Debian release.
    type: str
    default: trixie
  components:
    description: Components of the archive to take packages from.
    type: list
    elements: str
    default: [main]
  architecture:
    description: Debian's name of the architecture to resolve for.
    type: str
    default: amd64
  mirrors:
    description:
      - URLs of the archives, by the keys V(debian) and V(security).
      - Empty takes the mirrors of the controller's own apt sources.
    type: dict
    default: {}
  keyring:
    description: Keyring that Release files must be signed with.
    type: path
    default: /usr/share/keyrings/debian-archive-keyring.gpg
attributes:
  check_mode:
    description: Says what it would do, and does not do it, in check mode.
    support: full
    details:
      - It resolves, which needs the network, but does not write.
  diff_mode:
    description: Says what differs, in diff mode.
    support: full
    details:
      - Packages and versions before and after, one a line.
  idempotent:
    description: A second run with the same options changes nothing.
    support: partial
    details:
      - Unless the archive has changed in between, which is what a new lock file is for.
extends_documentation_fragment:
  - vauban.fleet._attributes.step
seealso:
  - module: vauban.fleet.assets
"""

EXAMPLES = r"""
- name: Lock the packages of a gateway
  vauban.fleet.package_lock:
    path: /srv/fleet/trixie.lock.json
    package_sets:
      sdk: ["@sdk"]
      kernel: ["@kernel"]
      gateway: ["@core", "@ipsec", tcpdump]
"""

RETURN = r"""
changed:
  description: Whether the lock file was written or, in check mode, would be.
  returned: always
  type: bool
  sample: true
packages:
  description: How many packages the lock file names.
  returned: success
  type: int
  sample: 412
bytes:
  description: Size of all packages together, in bytes.
  returned: success
  type: int
  sample: 398458880
added:
  description: Packages that the lock file did not name before.
  returned: success
  type: list
  elements: str
  sample: [tcpdump]
removed:
  description: Packages that the lock file no longer names.
  returned: success
  type: list
  elements: str
  sample: []
upgraded:
  description: Packages with another version than before, each with the old and the new one.
  returned: success
  type: dict
  sample:
    nftables: ["1.1.3-1", "1.1.3-1+deb13u1"]
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
