# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations


class ModuleDocFragment:
    """Attributes of modules: what each means, and what holds for every step of a build."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Says what it would do, and does not do it, in check mode.
  diff_mode:
    description: Says what differs, in diff mode.
  idempotent:
    description: A second run with the same options changes nothing.
"""

    STEP = r"""
options: {}
attributes:
  action:
    description: Runs on the controller, in an action plugin; the host needs neither a connection nor Python.
    support: full
  check_mode:
    description: Says what it would do, and does not do it, in check mode.
    support: full
    details:
      - A step whose input would be made by an earlier task of the same run says so. Nothing is written.
  diff_mode:
    description: Says what differs, in diff mode.
    support: none
    details:
      - The artifact is opaque. The return value C(reason) names the inputs that changed.
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
    details:
      - Inputs are compared by digest with those remembered beside the artifact. The artifact itself is not read.
"""

    CHECK = r"""
options: {}
attributes:
  action:
    description: Runs on the controller, in an action plugin; the host needs neither a connection nor Python.
    support: full
  check_mode:
    description: Says what it would do, and does not do it, in check mode.
    support: full
    details:
      - It only reads, so check mode makes no difference.
  diff_mode:
    description: Says what differs, in diff mode.
    support: N/A
    details:
      - It never changes anything.
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

    BUILD_GROUP = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/vauban.fleet.build) in C(module_defaults) to set defaults for this module.
    support: full
    membership: [vauban.fleet.build]
"""
