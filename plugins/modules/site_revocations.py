#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: site_revocations
short_description: Sign the revocation list of one of a site's authorities
author: Vauban maintainers (@vauban)
version_added: 0.2.0
description:
  - Writes C(crl/AUTHORITY.crl), which names all that the last list named and all certificates of this authority that
    lie in C(revoked). It takes the place of the last in one step.
  - The list has a number and names the key that signed it, as RFC 5280 wants. strongSwan finds a list by that key, and
    M(community.crypto.x509_crl) writes neither.
  - Runs on the controller.
options:
  directory:
    description: Directory of the PKI.
    type: path
    required: true
  authority:
    description: The authority whose list it is.
    type: str
    choices: [root, issuing]
    required: true
  key:
    description: Its key, encrypted.
    type: path
    required: true
  passphrase:
    description: Opens it.
    type: str
    required: true
  days:
    description: How long the list counts.
    type: int
    required: true
attributes:
  action:
    description: Runs on the controller, in an action plugin; the host needs neither a connection nor Python.
    support: full
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows serial numbers.
  idempotent:
    support: none
    details:
      - Each list has a time and a number. M(vauban.fleet.site_certificates) says when one is due.
extends_documentation_fragment:
  - vauban.fleet._attributes
requirements:
  - cryptography
seealso:
  - module: vauban.fleet.site_certificates
"""

EXAMPLES = r"""
- name: Sign the list of the issuing authority
  vauban.fleet.site_revocations:
    directory: /srv/fleet/example/pki
    authority: issuing
    key: /srv/keys/issuing.key
    passphrase: "{{ site_pki_issuing_passphrase }}"
    days: 14
"""

RETURN = r"""
path:
  description: The list.
  returned: success
  type: str
  sample: /srv/fleet/example/pki/crl/issuing.crl
revoked:
  description: How many certificates it names.
  returned: success
  type: int
  sample: 3
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: site_pki_issuing_passphrase does not open it
    where: /srv/keys/issuing.key
    remedy: set site_pki_issuing_passphrase to the passphrase that the key was made with
"""
