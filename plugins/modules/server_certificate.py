#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: server_certificate
short_description: Sign the certificate of a web server of a site
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Signs a request with the issuing authority of the site, for TLS servers and one name, and keeps the certificate as
    C(https/NAME.pem) below the directory of the site's PKI. One that is of the same key and does not end within
    C(pki.warn_days) is handed out again. One that another takes the place of is kept in C(replaced).
  - Runs on the controller, where the key of the authority is.
options:
  name:
    description: Name of the server, in the domain of the site.
    type: str
    required: true
  request:
    description: PKCS#10 (PEM). One that asks for anything but this name is refused.
    type: str
    required: true
  issuing_key:
    description: Key of the issuing authority. Read only if a certificate has to be signed.
    type: path
    required: true
  issuing_passphrase:
    description: Its passphrase.
    type: str
  days:
    description: How long the certificate lasts.
    type: int
    default: 365
attributes:
  action:
    description: Runs on the controller, in an action plugin; the host needs neither a connection nor Python.
    support: full
  check_mode:
    support: partial
    details:
      - Says whether there is a certificate; whether that lasts is seen only when it is asked for.
  diff_mode:
    support: none
  idempotent:
    support: full
extends_documentation_fragment:
  - vauban.fleet._provision.site
  - vauban.fleet._attributes
seealso:
  - module: vauban.fleet.site_certificates
"""

EXAMPLES = r"""
- name: Sign the certificate of the provisioning server
  vauban.fleet.server_certificate:
    site_file: "{{ fleet_site_file }}"
    name: boot.example.org
    request: "{{ request.csr }}"
    issuing_key: "{{ site_pki_issuing_key }}"
    issuing_passphrase: "{{ site_pki_issuing_passphrase }}"
  register: certificate
"""

RETURN = r"""
chain:
  description: The certificate and those above it (PEM). Empty in check mode.
  returned: success
  type: str
  sample: "-----BEGIN CERTIFICATE-----"
path:
  description: Where the certificate is kept.
  returned: success
  type: str
  sample: inventories/example/pki/https/boot.example.org.pem
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: its request is for CN=other.example.org
    where: boot.example.org
    remedy: remove the key on the server, and run it again
"""
