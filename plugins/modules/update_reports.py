#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: update_reports
short_description: Read what machines said when they asked for updates
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Runs on an update server and reduces what its web server has logged to one report for each machine, which is what
    M(vauban.fleet.update_status) takes. The journal is read as a stream, so that memory is that of the result.
  - A machine is who it says it is, at the address that the server saw. What has another form than role
    P(vauban.fleet.update_client#role) gives it is counted, and nothing else.
options:
  days:
    description: How far back. What the journal does not keep for so long is not there.
    type: int
    default: 30
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying the target.
    support: full
    details: It only reads.
  diff_mode:
    description: Will return details on what has changed when in diff mode.
    support: none
notes:
  - At most 65 536 machines, of which 4 096 at one address; more are counted in RV(dropped).
seealso:
  - module: vauban.fleet.update_status
"""

EXAMPLES = r"""
- name: Read what machines said
  vauban.fleet.update_reports:
    days: 7
  register: reports
"""

RETURN = r"""
reports:
  description: What each machine said last.
  returned: success
  type: list
  elements: dict
  sample:
    - address: 10.4.0.9
      machine: 0123456789abcdef0123456789abcdef
      product: gateway
      version: 0.2.0
      seen: 1795512345.678
      since: 1795400000.0
      trial: false
      last: ok
      about: ""
      fetched: {0.2.0: 1795399000.0}
malformed:
  description: Lines that are no report.
  returned: success
  type: int
  sample: 0
dropped:
  description: Lines of machines that were too many.
  returned: success
  type: int
  sample: 0
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: "the journal cannot be read: No journal files were opened due to insufficient permissions."
    where: journalctl
    remedy: connect as root, or as a member of group systemd-journal
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._update import reports


def main() -> None:
    """Read and reduce."""
    module = AnsibleModule(argument_spec={"days": {"type": "int", "default": 30}}, supports_check_mode=True)
    if module.params["days"] < 1:
        module.fail_json(msg="days: one at least")
    now = time.time()
    try:
        program = module.get_bin_path("journalctl", required=True)
        found = reports.reduce(reports.logged(program, since=now - 86_400 * module.params["days"]), now=now)
    except FleetError as exc:
        module.fail_json(msg=str(exc), failure=exc.as_failure())
    module.exit_json(
        changed=False,
        reports=[each.as_dict() for each in found.reports.values()],
        malformed=found.malformed,
        dropped=found.dropped,
    )


if __name__ == "__main__":
    main()
