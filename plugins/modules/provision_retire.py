#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: provision_retire
short_description: Let the enrolment service forget machines
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Ends what is under way for a host, forgets which machine it was, and takes from what is expected of it all by which
    a machine would become the host unasked. The audit log, evidence and recovery keys in escrow stay.
  - With O(wipe) the service orders each machine to erase its disk when it next starts the installer, and proves by its
    TPM that it is the one.
  - Runs on the provisioning server (C(delegate_to)), once for all hosts. It does not start machines.
options:
  hosts:
    description: The hosts. Those that the service does not know are passed over.
    type: list
    elements: str
    required: true
  reason:
    description: Why, for the audit log.
    type: str
    required: true
  wipe:
    description:
      - Whether the machines are to erase their disks. V(false) takes an order back that is not done yet.
      - Unless set, it stays as it is.
    type: bool
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
extends_documentation_fragment:
  - vauban.fleet._provision.socket
  - vauban.fleet._attributes
  - vauban.fleet._provision.attributes
"""

EXAMPLES = r"""
- name: Let go of a machine
  vauban.fleet.provision_retire:
    hosts: [paris-files1]
    reason: sold
"""

RETURN = r"""
hosts:
  description: Hosts that the service knows.
  returned: success
  type: list
  elements: str
  sample: [paris-files1]
calls:
  description: What was asked of the service, or would be.
  returned: success
  type: list
  elements: str
  sample: [POST /hosts/paris-files1/forget]
wiping:
  description: Hosts whose machines have an order to erase their disks that is not done yet.
  returned: success
  type: list
  elements: str
  sample: []
problems:
  description: Hosts that the service takes no such order for, and why.
  returned: success
  type: dict
  sample: {}
past:
  description: Enrolments of these hosts that have ended, for O(vauban.fleet.provision_follow#module:past).
  returned: success
  type: list
  elements: str
  sample: []
"""
