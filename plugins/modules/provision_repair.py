#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: provision_repair
short_description: Order machines to repair their disks
author: Vauban maintainers (@vauban)
version_added: 0.5.0
description:
  - The service orders each machine to repair its disk when it next starts the installer, and proves by its TPM that it
    is the host. The order counts once, and ends by itself. No other machine gets it.
  - The recovery key that this takes comes from M(vauban.fleet.provision_follow), if officers are there.
  - Runs on the provisioning server (C(delegate_to)), once for all hosts. It does not start machines.
options:
  thorough:
    description: Whether file systems are repaired where that may lose files.
    type: bool
    default: false
extends_documentation_fragment:
  - vauban.fleet._provision.order
  - vauban.fleet._provision.socket
  - vauban.fleet._attributes
  - vauban.fleet._provision.attributes
"""

EXAMPLES = r"""
- name: Order a machine to repair its disk within an hour
  vauban.fleet.provision_repair:
    hosts: [paris-files1]
    reason: does not start after a power cut
    seconds: 3600
"""

RETURN = r"""
hosts:
  description: The hosts.
  returned: success
  type: list
  elements: str
  sample: [paris-files1]
ordered:
  description: Hosts whose machines have an order that is not done yet.
  returned: success
  type: list
  elements: str
  sample: [paris-files1]
problems:
  description: Hosts that the service takes no such order for, and why.
  returned: success
  type: dict
  sample: {}
past:
  description: Enrolments of these hosts that had ended before, for O(vauban.fleet.provision_follow#module:past).
  returned: success
  type: list
  elements: str
  sample: []
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: 5 is not within 60 and 604800
    where: seconds
    remedy: use some hours
"""
