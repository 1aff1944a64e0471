#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: product_settings
short_description: Check the settings of a product before it is built
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Fails with one message that names every setting that cannot work, and what to write instead.
  - Checks also that the inventory has a host in group C(builders), and that keys which are there are of the kind asked
    for. Development keys need not be there yet.
options:
  name:
    description: Name of the product, a lower case letter and up to 31 of C(a-z), C(0-9), C(_) and C(-).
    type: str
    required: true
  version:
    description: Version of the product, up to 64 letters, digits, C(.) and C(-).
    type: str
    required: true
  volume_group:
    description: Name of the LVM volume group on the machine's disk.
    type: str
    required: true
  roles:
    description: Names of the roles that configure the product. They have to exist.
    type: list
    elements: str
    required: true
  enrolment:
    description: The provisioning server, as module M(vauban.fleet.initrd) takes it.
    type: dict
    default: {}
  recipients:
    description: Officers who can read recovery keys, as age recipients.
    type: list
    elements: str
    default: []
  threshold:
    description: How many officers it takes to read a recovery key; the holder of the product's key C(escrow) is one.
    type: int
    default: 1
  dbx:
    description: SHA-256 (Authenticode) of programs that firmware is to refuse.
    type: list
    elements: str
    default: []
    version_added: 0.4.0
  tpm_pcrs:
    description: Registers that the state volume is bound to. With O(dbx), PCR 7 has to be one of them.
    type: list
    elements: int
    default: [7, 12, 15]
    version_added: 0.4.0
extends_documentation_fragment:
  - vauban.fleet._build.hardware
  - vauban.fleet._build.signing
  - vauban.fleet._attributes.check
"""

EXAMPLES = r"""
- name: Check the settings
  vauban.fleet.product_settings:
    name: gateway
    version: 0.1.0
    volume_group: fleet
    roles: [vauban.fleet.core]
    hardware_profiles: [qemu_virtio]
    keys: /srv/keys/gateway
"""

RETURN = r"""
failures:
  description: All that is wrong, as data. RV(failure) is the first of them.
  returned: failure
  type: list
  elements: dict
  sample:
    - message: "'a b' is no version"
      where: product_version
      remedy: use up to 64 letters, digits, '.' and '-'
failure:
  description: What went wrong, where, and what to do.
  returned: failure
  type: dict
  sample:
    message: "'a b' is no version"
    where: product_version
    remedy: use up to 64 letters, digits, '.' and '-'
"""
