#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: provision_hosts
short_description: Tell the enrolment service which machines will come, and what they are to become
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Checks first what can be checked before any machine is switched on. The releases are whole, signed by whom the
    product's keys say, and offered by the server; hosts are rendered; there are revocation lists; the service answers.
  - Then brings the configuration of each host to the server, and tells the service what each release measures and what
    is expected of each host. A host that the service does not take is in RV(problems) and holds up no other.
  - Runs on the provisioning server (C(delegate_to)), once for all hosts.
options:
  trees:
    description: Directory of the sites that M(vauban.fleet.site_render) wrote.
    type: path
    required: true
  releases:
    description: Directories of releases on the controller. Those of products that no host has are only checked.
    type: list
    elements: str
    required: true
  sdk:
    description: The SDK, whose openssl judges signatures.
    type: path
    required: true
  keys:
    description: Directory in which C(PRODUCT/root.pem) says whose signature on a release is believed.
    type: path
    required: true
  root:
    description: What the web server of the server offers.
    type: path
    default: /srv/vauban
  approve:
    description: Machines that wait, by enrolment; the host that each is. One that is that host already is passed over.
    type: dict
    default: {}
  reinstall:
    description: Whether hosts that are installed are installed again, once. Unless set the service keeps what it has.
    type: bool
  keep:
    description:
      - Whether machines with another board or TPM have the disks of these hosts, which keep what is on them. The site
        has to list the EK of each.
      - It holds until that is done, or O(reinstall=true) is said.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    details:
      - Checks all, and asks the service what it knows. It does not say whether a release would be new to the service,
        and knows no configuration of a host that is not rendered yet.
  diff_mode:
    support: full
    details:
      - Shows what changes in the expectation of each host.
  idempotent:
    support: full
extends_documentation_fragment:
  - vauban.fleet._provision.site
  - vauban.fleet._provision.hosts
  - vauban.fleet._provision.socket
  - vauban.fleet._attributes
  - vauban.fleet._provision.attributes
seealso:
  - name: Installation over the network
    description: docs/provisioning.md
    link: https://vauban.example/fleet/docs
"""

EXAMPLES = r"""
- name: Tell the server of the hosts
  vauban.fleet.provision_hosts:
    site_file: "{{ fleet_site_file }}"
    hosts: "{{ ansible_play_hosts_all }}"
    trees: build/sites
    releases: [build/server/current]
    sdk: build/sdk/current
    keys: ~/.local/share/vauban.fleet/keys
  delegate_to: boot
  run_once: true
"""

RETURN = r"""
hosts:
  description: Hosts that are installed over the network.
  returned: success
  type: list
  elements: str
  sample: [paris-files1]
hosts_changed:
  description: Those whose expectation is new, or another than before.
  returned: success
  type: list
  elements: str
  sample: [paris-files1]
problems:
  description: By host, why the service does not take it.
  returned: success
  type: dict
  sample: {}
past:
  description: Enrolments of these hosts that have ended, for O(vauban.fleet.provision_follow#module:past).
  returned: success
  type: list
  elements: str
  sample: []
kept_anew:
  description: Hosts whose disks are kept, of which the service did not know that before.
  returned: success
  type: list
  elements: str
  sample: []
expected:
  description: By host, the registers that its installer has to show, as the signed release says.
  returned: success
  type: dict
  sample: {paris-files1: {"4": 0a1b, "11": 2c3d}}
releases:
  description: By product, what is installed.
  returned: success
  type: dict
  sample: {server: server/0.1.0}
start:
  description: Hosts whose machines have to be switched on.
  returned: success
  type: list
  elements: str
  sample: [paris-files1]
strangers:
  description: Machines in quarantine, a line for each that begins with the enrolment.
  returned: success
  type: list
  elements: str
  sample: []
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: the server offers no release server/0.1.0
    where: "boot: /srv/vauban/releases/server/0.1.0/manifest.json"
    remedy: add it to boot_server_releases, and run playbook pxe
"""
