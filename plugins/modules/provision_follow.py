#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: provision_follow
short_description: Follow machines while they are installed, and sign what they ask for
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Says, while it runs, what happens to each host. Signs certificate requests with the issuing authority of the site as
    they come, by the rules of role P(vauban.fleet.site_pki#role); keys never leave the controller, or the machine.
  - Machines that wait in quarantine are named.
  - With O(goal=wiped) it follows machines while they erase their disks, with O(goal=repaired) while they repair them,
    with O(goal=backed_up) while they send what is on them, and signs nothing.
  - Ends when every host has come to its goal or has failed for good, or when there was no news for O(patience). Whether
    all came is for M(vauban.fleet.provision_report) to say. It can be stopped at any moment; the next run goes on.
  - Runs on the provisioning server (C(delegate_to)), once for all hosts.
options:
  goal:
    description: What the hosts are to come to.
    type: str
    choices: [backed_up, installed, repaired, wiped]
    default: installed
  issuing_key:
    description: Key of the issuing authority, on the controller. Required for O(goal=installed).
    type: path
  issuing_passphrase:
    description: Its passphrase.
    type: str
  days:
    description: How long certificates last.
    type: int
    default: 365
  patience:
    description: Seconds without news from any host after which it ends.
    type: float
    default: 3600.0
  grace:
    description: Seconds in which a machine that has failed may come again.
    type: float
    default: 60.0
  pause:
    description: Seconds between two looks.
    type: float
    default: 5.0
  past:
    description: Enrolments that had ended before machines were started; they are not news.
    type: list
    elements: str
    default: []
  identity:
    description:
      - Files on the controller with officers' identities of age. With them machines that have the disk of their host,
        and another board or TPM, are given its recovery key, if the site lists their EK and they show O(expected).
      - One opens a recovery key that is not shared. Of one that is shared, each opens its officer's share, and shares
        in O(shares) that are encrypted to it.
    type: list
    elements: path
    default: []
  shares:
    description:
      - Files on the controller with shares of the recovery key that officers have decrypted, or directories of such
        files.
    type: list
    elements: path
    default: []
  escrow:
    description: Which recovery key, of a host that has several in escrow. The newest unless set.
    type: str
  backup_to:
    description:
      - Recipients of age, of M(vauban.fleet.provision_backup). Machines that are given their recovery key are told with
        it to encrypt their data to these, so that the service cannot name others.
    type: list
    elements: str
    default: []
  expected:
    description:
      - By host, the registers that its installer has to show, as M(vauban.fleet.provision_hosts) gives them.
    type: dict
    default: {}
  sdk:
    description: The SDK, whose programs judge machines and encrypt. Required for O(identity) and O(shares).
    type: path
  check:
    description: Only look whether the authority can sign.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    details:
      - As with O(check=true).
  diff_mode:
    support: none
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
- name: Follow the machines
  vauban.fleet.provision_follow:
    site_file: "{{ fleet_site_file }}"
    hosts: "{{ ansible_play_hosts_all }}"
    issuing_key: "{{ site_pki_issuing_key }}"
    issuing_passphrase: "{{ site_pki_issuing_passphrase }}"
  delegate_to: boot
  run_once: true
"""

RETURN = r"""
hosts:
  description: Where each host is. Empty if it only looked.
  returned: success
  type: dict
  sample:
    files1: {class: tpm, state: installed, percent: 100, seen: "2026-11-22T12:00:00Z", line: "", enrolment: 0a1b}
failed_hosts:
  description: Hosts whose machine has reported a failure, or has fallen silent. Those that were refused are no part.
  returned: success
  type: list
  elements: str
  sample: []
past:
  description: Enrolments of these hosts that have ended, for O(past) of the next time.
  returned: success
  type: list
  elements: str
  sample: []
table:
  description: Where each host is, in lines for people.
  returned: success
  type: list
  elements: str
  sample: ["HOST    CLASS  STATE      DONE   SEEN  WHAT IT SAID LAST"]
missing:
  description: Hosts that have not come to their goal.
  returned: success
  type: list
  elements: str
  sample: []
backups:
  description: By host, what it has sent and the server keeps, with O(goal=backed_up).
  returned: success
  type: dict
  sample:
    files1:
      enrolment: 0a1b
      path: /var/lib/enrolment/backups/files1_20261122T120000Z_0a1b.tar.zst.age
      size: 1048576
      sha256: 5e8a
      recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]
      time: "2026-11-22T12:00:00Z"
signed:
  description: How many certificates were handed out.
  returned: success
  type: int
  sample: 1
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: the key of the issuing authority is not here
    where: /root/.local/share/vauban.fleet/keys/sites/example/issuing.key
    remedy: bring it there from its medium
"""
