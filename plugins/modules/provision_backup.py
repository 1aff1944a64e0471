#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: provision_backup
short_description: Order machines to send what is on their disks, encrypted
author: Vauban maintainers (@vauban)
version_added: 0.5.0
description:
  - The service orders each machine to send what is on its state volume when it next starts the installer, and proves by
    its TPM that it is the host. The order counts once, and ends by itself. No other machine gets it.
  - The recovery key that this takes comes from M(vauban.fleet.provision_follow), if officers are there. It tells the
    machine the recipients, too; give it O(vauban.fleet.provision_follow#module:backup_to) what this module returns.
  - Runs on the provisioning server (C(delegate_to)), once for all hosts. It does not start machines.
options:
  recipients:
    description:
      - Who can open the backup, each alone - recipients of age, or files on the controller with one in each line, as
        age takes them.
    type: list
    elements: str
    required: true
  sdk:
    description: The SDK, whose age says whether they are recipients.
    type: path
    required: true
extends_documentation_fragment:
  - vauban.fleet._provision.order
  - vauban.fleet._provision.socket
  - vauban.fleet._attributes
  - vauban.fleet._provision.attributes
"""

EXAMPLES = r"""
- name: Order a machine to send its data within an hour
  vauban.fleet.provision_backup:
    hosts: [paris-files1]
    reason: before its disk is repaired
    seconds: 3600
    recipients: [/etc/vauban/backup.recipients]
    sdk: build/sdk/current
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
recipients:
  description: Who can open the backup.
  returned: success
  type: list
  elements: str
  sample: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]
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
