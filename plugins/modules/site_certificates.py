#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: site_certificates
short_description: Say which certificates a site has and which have to be made
author: Vauban maintainers (@vauban)
version_added: 0.2.0
description:
  - Compares the certificates beside a site file with those that the site needs, and says for each what state it is in
    and whether a verb of role P(vauban.fleet.site_pki#role) makes a new one.
  - Finds out before anything is done whether the keys that have to sign are there, can be opened and fit.
  - One call serves the whole fleet; it runs on the controller and changes nothing.
options:
  site_file:
    description: The site file. The directory of the PKI is named in it.
    type: path
    required: true
  hosts:
    description: Hosts to look at.
    type: list
    elements: str
    required: true
  verb:
    description: What is about to be done.
    type: str
    choices: [create, renew, revoke, revoke_issuing, list, expiring, crl, install]
    default: list
  names:
    description: Hosts to revoke, those included that the site no longer has.
    type: list
    elements: str
    default: []
  days:
    description: What ends within so many days is ending. Unless set C(pki.warn_days) of the site.
    type: int
  force:
    description: Whether V(renew) and V(crl) take what is not ending, too.
    type: bool
    default: false
  requests:
    description: Certificate requests to judge. One that asks for anything but what the site gives is refused.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Host that asks.
        type: str
        required: true
      purpose:
        description: What it asks for.
        type: str
        choices: [hosts, nts]
        required: true
      content:
        description: The request in PEM.
        type: str
        required: true
      where:
        description: Where it comes from, for messages.
        type: str
        required: true
  root_key:
    description: Key of the root. It may be away as long as the root has nothing to sign.
    type: path
    required: true
  root_passphrase:
    description: Opens it.
    type: str
  issuing_key:
    description: Key of the issuing authority.
    type: path
    required: true
  issuing_passphrase:
    description: Opens it.
    type: str
extends_documentation_fragment:
  - vauban.fleet._attributes
  - vauban.fleet._attributes.check
requirements:
  - cryptography
seealso:
  - module: vauban.fleet.site_revocations
"""

EXAMPLES = r"""
- name: Look at what there is
  vauban.fleet.site_certificates:
    site_file: "{{ fleet_site_file }}"
    hosts: "{{ ansible_play_hosts_all }}"
    root_key: /media/root/root.key
    issuing_key: /srv/keys/issuing.key
  run_once: true
"""

RETURN = r"""
directory:
  description: Directory of the PKI.
  returned: success
  type: str
  sample: /srv/fleet/example/pki
domain:
  description: Domain of the site.
  returned: success
  type: str
  sample: example.internal
authorities:
  description: The root and the issuing authority, each with its path, state and end, and whether it has to be made.
  returned: success
  type: list
  elements: dict
  sample: [{name: root, common_name: a root authority, path: /srv/pki/ca/root.pem, state: valid, ends: "2046-11-17",
    due: false}]
lists:
  description: The revocation lists, in the same way.
  returned: success
  type: list
  elements: dict
  sample: [{name: root, path: /srv/pki/crl/root.crl, state: valid, ends: "2027-12-27", due: false}]
certificates:
  description: The certificates by host, with names, state, serial number, end and fingerprint of the key.
  returned: success
  type: dict
  sample: {paris-time1: [{purpose: nts, state: absent, due: true}]}
revoke:
  description: With O(verb=revoke) and O(verb=revoke_issuing), certificates to revoke and the names they are kept by.
  returned: success
  type: list
  elements: dict
  sample: [{path: /srv/pki/hosts/lyon-admin1.pem, kept: lyon-admin1.4f0c.pem}]
due:
  description: What O(verb) makes, signs or revokes, in lines for people.
  returned: success
  type: list
  elements: str
  sample: ["/srv/pki/hosts/paris-gw1.pem: absent, to be made"]
expiring:
  description: What ends or has ended, or cannot be used, in lines for people.
  returned: success
  type: list
  elements: str
  sample: ["/srv/pki/hosts/paris-gw1.pem: ends on 2026-12-24"]
table:
  description: All of it as a table.
  returned: success
  type: list
  elements: str
  sample: ["NAME       USE    IDENTITY                         SERIAL  ENDS        STATE"]
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: site_pki_issuing_passphrase does not open it
    where: /srv/keys/issuing.key
    remedy: set site_pki_issuing_passphrase to the passphrase that the key was made with
"""
