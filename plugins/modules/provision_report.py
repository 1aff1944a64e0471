#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: provision_report
short_description: Say which hosts of a site are installed, and why others are not
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Asks the enrolment service where each host is, and makes a table for people and a report for programs of it.
  - Runs on the provisioning server (C(delegate_to)), once for all hosts, and changes nothing there.
options:
  problems:
    description: By host, what else went wrong; it counts as missing.
    type: dict
    default: {}
  dest:
    description: File on the controller for the report as JSON.
    type: path
attributes:
  check_mode:
    support: full
    details:
      - Writes no file.
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
- name: Look where the hosts are
  vauban.fleet.provision_report:
    site_file: "{{ fleet_site_file }}"
    hosts: "{{ groups['fleet'] }}"
    dest: report.json
  delegate_to: boot
  run_once: true
"""

RETURN = r"""
table:
  description: Lines for people.
  returned: success
  type: list
  elements: str
  sample: ["HOST          CLASS  STATE      DONE   SEEN                  WHAT IT SAID LAST"]
missing:
  description: Hosts that are not installed.
  returned: success
  type: list
  elements: str
  sample: []
report:
  description: What is written to O(dest).
  returned: success
  type: dict
  sample:
    format: 1
    site: example
    server: boot
    time: "2026-11-22T12:00:00Z"
    complete: true
    hosts:
      files1: {class: tpm, state: installed, percent: 100, seen: "2026-11-22T12:00:00Z", line: "", enrolment: 0a1b}
    quarantine: []
"""
