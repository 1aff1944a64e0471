#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: host_configuration
short_description: Bring hosts of a site their configuration
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - A host that does not know the newest list of revoked certificates (C(PRODUCT/root.crl)) gets it first.
  - Packs the rendered configuration of each host, with the revocation lists that count now, signs it with the key
    C(configuration) of the host's product under a number that is higher than any the host has had, leaves it in the
    drop area of account C(admin) over sftp, and follows what the machine makes of it.
  - A machine tries a configuration, and keeps it once this controller has come again by a new connection. Otherwise it
    goes back by itself.
  - Treats many hosts at the same time, in one call. A host that refuses or is not there holds up no other, and does not
    make the task fail; see RV(missing).
  - How a host is reached is taken from its variables C(ansible_host), C(ansible_port) and
    C(ansible_ssh_private_key_file), where they are set. Keys of the ssh agent are offered, too.
options:
  site_file:
    description: The site file.
    type: path
    required: true
  hosts:
    description: The hosts, as the site names them.
    type: list
    elements: str
    required: true
  trees:
    description: Directory that M(vauban.fleet.site_render) writes to.
    type: path
    required: true
  keys:
    description:
      - Directory with the key directory of each product, as M(vauban.fleet.product_keys) makes them.
      - Needed are C(PRODUCT/configuration.crt), the root's C(root.crt) and C(root.crl) beside it and, unless
        O(key_uris) names it, C(PRODUCT/configuration.key).
    type: path
    required: true
  key_uris:
    description: PKCS#11 URIs (RFC 7512) by key name, for the private key C(configuration) if it is in a token.
    type: dict
    default: {}
  key_token:
    description: Directory with the token's module and settings. Needed with O(key_uris).
    type: path
  sdk:
    description: The SDK whose openssl signs, an image file or an unpacked tree.
    type: path
    required: true
  user:
    description: The account.
    type: str
    default: admin
  port:
    description: Where its ssh server listens.
    type: int
    default: 22
  private_key:
    description: Private key of the administrator; a certificate C(KEY-cert.pub) beside it counts, too.
    type: path
  known_hosts:
    description: Host keys of the machines. One that is not in it is not believed.
    type: path
    default: ~/.ssh/known_hosts
  at_once:
    description: How many hosts are treated at the same time.
    type: int
    default: 50
  patience:
    description: Seconds until a host that says nothing is given up.
    type: int
    default: 300
attributes:
  action:
    description: Runs on the controller, in an action plugin; hosts need neither a connection nor Python.
    support: full
  check_mode:
    support: full
    details:
      - Asks the hosts what they have.
  diff_mode:
    support: full
    details:
      - Shows what changes in files if the host had its configuration from this controller, else which files differ.
  idempotent:
    support: full
    details:
      - A host that has the configuration is left alone.
extends_documentation_fragment:
  - vauban.fleet._attributes
requirements:
  - paramiko >= 5.1
  - cryptography >= 48
seealso:
  - module: vauban.fleet.site_render
  - name: Configuration of hosts that run
    description: docs/configuration.md
    link: https://vauban.example/fleet/docs
"""

EXAMPLES = r"""
- name: Bring the configurations
  vauban.fleet.host_configuration:
    site_file: "{{ fleet_site_file }}"
    hosts: "{{ ansible_play_hosts_all }}"
    trees: /srv/build/sites
    keys: /srv/keys
    sdk: /srv/build/sdk/current
  run_once: true
"""

RETURN = r"""
changed:
  description: Whether a host got another configuration or, in check mode, would get one.
  returned: always
  type: bool
  sample: true
hosts:
  description: What became of each host.
  returned: success
  type: dict
  contains:
    state:
      description:
        - V(unchanged), V(applied), V(refused) or V(went back); in check mode V(differs) in place of the last three.
        - V(unreachable) before anything was brought, V(silent) if the host did not say what became of it.
      returned: always
      type: str
    number:
      description:
        - Of the configuration that this is about; 0 is that of the installation. Null if the host is unreachable.
      returned: always
      type: int
    reason:
      description: What the machine said, or what went wrong on the way to it.
      returned: always
      type: str
    before:
      description: SHA-256 of the archive that the host had. Empty for that of the installation.
      returned: always
      type: str
    files:
      description: Paths that differ from what the host had.
      returned: always
      type: list
      elements: str
  sample:
    paris-gw1: {state: applied, number: 20261123090000, reason: "", before: "", files: [etc/nftables.d/host.nft]}
table:
  description: The same as lines for people.
  returned: success
  type: list
  elements: str
  sample: ["paris-gw1: configuration 20261123090000 is in force: 1 file changed"]
missing:
  description: Hosts that do not have the configuration.
  returned: success
  type: list
  elements: str
  sample: []
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
    message: there is no key 'configuration' of product gateway
    where: /srv/keys/gateway/configuration.crt
    remedy: run playbook pki again, or bring the certificate from the directory that has root.key
"""
