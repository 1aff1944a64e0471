# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations


class ModuleDocFragment:
    """Options that modules of provisioning share."""

    SITE = r"""
options:
  site_file:
    description: The site file.
    type: path
    required: true
"""

    HOSTS = r"""
options:
  hosts:
    description: Hosts of the run. Those that the site gives no C(machine) are left out.
    type: list
    elements: str
    required: true
"""

    SOCKET = r"""
options:
  socket:
    description: The socket of the administrators' side of the enrolment service, on the server.
    type: path
    default: /run/vauban-enrolment/admin.sock
"""

    ATTRIBUTES = r"""
options: {}
attributes:
  action:
    description:
      - Works on the controller, in an action plugin, and asks the server through M(vauban.fleet.enrolment_calls).
    support: full
"""

    # Of a task that machines do once, at their next start.
    ORDER = r"""
options:
  hosts:
    description: The hosts.
    type: list
    elements: str
    required: true
  reason:
    description: Why, for the audit log.
    type: str
    required: true
  seconds:
    description: How long the order counts, from a minute to a week.
    type: int
    default: 14400
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - An order that is there is given anew, and counts as long as asked for from then on.
"""
