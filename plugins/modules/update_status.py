#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: update_status
short_description: Say which host runs what
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Puts what machines said to update servers (M(vauban.fleet.update_reports)) beside the hosts of the inventory, as a
    table for people, as JSON, and as metrics for Prometheus.
  - A report belongs to the host that has its address (C(fleet_addresses), C(ansible_host)), else to the host that has
    its machine id (C(fleet_machine_id)). What has neither is shown as not in the inventory.
options:
  hosts:
    description: Names of the hosts of the inventory that should have reported.
    type: list
    elements: str
    default: []
  answers:
    description: Results of M(vauban.fleet.update_reports), one for each server.
    type: list
    elements: dict
    required: true
  silence:
    description: After how many hours a machine counts as silent. Machines ask every six hours.
    type: float
    default: 24.0
  dest:
    description: Directory on the controller for C(status.json) and C(status.prom).
    type: path
attributes:
  action:
    description: Runs on the controller, in an action plugin; the host needs neither a connection nor Python.
    support: full
  check_mode:
    support: full
    details:
      - Writes no file.
  diff_mode:
    support: none
  idempotent:
    support: full
extends_documentation_fragment:
  - vauban.fleet._attributes
seealso:
  - module: vauban.fleet.update_reports
"""

EXAMPLES = r"""
- name: Say who runs what
  vauban.fleet.update_status:
    hosts: "{{ groups['fleet'] }}"
    answers: ["{{ reports }}"] # registered from vauban.fleet.update_reports
    dest: build/status
"""

RETURN = r"""
changed:
  description: Never.
  returned: success
  type: bool
  sample: false
table:
  description: Lines for people.
  returned: success
  type: list
  elements: str
  sample:
    - "HOST       PRODUCT  VERSION  SINCE             LAST CONTACT  OUTCOME          NOTE"
    - "paris-gw1  gateway  0.1.0    2026-11-01 07:00  2 h ago       fell-back 0.2.0"
status:
  description: What is written to C(status.json). Times are seconds since 1970.
  returned: success
  type: dict
  sample:
    format: 1
    time: "2026-11-23T12:00:00Z"
    malformed: 0
    dropped: 0
    machines:
      - host: paris-gw1
        silent: false
        note: ""
        report: {address: 10.4.0.9, product: gateway, version: 0.1.0, last: fell-back, about: 0.2.0}
silent:
  description: Hosts that were not heard of for too long, or never.
  returned: success
  type: list
  elements: str
  sample: []
experience:
  description:
    - By product and version, the hosts that took it, those that failed with it, and those that took it and are silent.
    - Machines that are not in the inventory count only if the inventory has no host.
  returned: success
  type: dict
  sample: {gateway: {0.2.0: {took: [paris-gw1], failed: [paris-gw1], silent: []}}}
failure:
  description: What went wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: "these are no reports: 'reports'"
    where: answers
    remedy: give the results of module update_reports
"""
