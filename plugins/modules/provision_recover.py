#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: provision_recover
short_description: Give back the recovery key of one machine
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Fetches a recovery key from escrow, which the service logs with the name of who asked, and decrypts it on the
    controller with an officer's identity; or, if the release shares it among officers, with those of several, or with
    what they have decrypted elsewhere. It is written into a new file that only its owner reads, and nowhere else; it is
    in no log and in no result.
  - With O(shares_to) it decrypts nothing, and writes for each officer the share that he has to decrypt.
  - Runs on the provisioning server (C(delegate_to)), which never sees identities, shares or the key.
options:
  host:
    description: The host. The site need not have it any more.
    type: str
    required: true
  identity:
    description:
      - Files on the controller with identities of age. Those with a passphrase have to be decrypted before.
      - One opens a recovery key that is not shared. Of one that is shared, each opens its officer's share, and shares
        in O(shares) that are encrypted to it.
    type: list
    elements: path
    default: []
  shares:
    description:
      - Files on the controller with shares that officers have decrypted, or directories of such files. A share that is
        encrypted to one of O(identity) is decrypted.
    type: list
    elements: path
    default: []
  shares_to:
    description:
      - Directory on the controller that is made, with one file for each officer. It must not be there. What the files
        hold is encrypted, each to its officer.
    type: path
  dest:
    description: File on the controller that is made. It must not be there. Required unless O(shares_to) is set.
    type: path
  sdk:
    description: The SDK, whose age decrypts.
    type: path
    required: true
  escrow:
    description: Which one, of a host that was installed several times. The newest unless set.
    type: str
attributes:
  check_mode:
    support: full
    details:
      - Looks for identities and shares, and asks the service for nothing, since that would be logged.
  diff_mode:
    support: none
  idempotent:
    support: none
extends_documentation_fragment:
  - vauban.fleet._provision.socket
  - vauban.fleet._attributes
  - vauban.fleet._provision.attributes
"""

EXAMPLES = r"""
- name: Give back a recovery key
  vauban.fleet.provision_recover:
    host: paris-files1
    identity: /media/officer/identity.txt
    dest: /dev/shm/paris-files1.key
    sdk: build/sdk/current

- name: Say what officers have to decrypt
  vauban.fleet.provision_recover:
    host: paris-files1
    shares_to: /tmp/paris-files1.shares
    sdk: build/sdk/current
"""

RETURN = r"""
path:
  description: Where the key is, or the shares are.
  returned: success
  type: str
  sample: /dev/shm/paris-files1.key
escrow:
  description: Which it is.
  returned: success
  type: dict
  sample: {id: 0a1b, sha256: 2c3d, time: "2026-11-22T12:00:00Z", enrolment: 4e5f}
threshold:
  description: How many officers it takes.
  returned: with O(shares_to)
  type: int
  sample: 2
officers:
  description: Their recipients.
  returned: with O(shares_to)
  type: list
  elements: str
  sample: [age1x, age1y, age1z]
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: the officer's identity is not here
    where: /media/officer/identity.txt
    remedy: plug its medium in
"""
