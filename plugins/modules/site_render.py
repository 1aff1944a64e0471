#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: site_render
short_description: Render the configuration of a site's hosts and have the real tools judge it
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Makes, from a site file as P(vauban.fleet.site#inventory) reads it, the configuration tree of each host, with the
    templates that the roles of this collection lay down themselves.
  - Each distinct file is judged once by the program that will read it, inside the SDK and without a network. nft checks
    the rulesets, a charon loads the connections, systemd-analyze verifies the units with their drop-ins, sshd, chronyd
    and rsyslogd check their files, and systemd-networkd says what it does not understand of its own.
  - If one host is refused nothing changes for any. Otherwise C(DEST/SITE/HOST) becomes a link to the new tree, in one
    step for each host. Files that many hosts share are one file, so none is writable.
  - One call serves the whole fleet; it runs on the controller.
options:
  site_file:
    description: The site file.
    type: path
    required: true
  hosts:
    description: Hosts to render. Those that are left out keep what they have.
    type: list
    elements: str
    required: true
  dest:
    description: Directory of the sites.
    type: path
    required: true
  sdk:
    description: The SDK, as M(vauban.fleet.sdk_image) makes it.
    type: path
    required: true
attributes:
  action:
    description: Runs on the controller, in an action plugin; the host needs neither a connection nor Python.
    support: full
  check_mode:
    support: full
    details:
      - Renders and judges. What was found in order is remembered.
  diff_mode:
    support: full
    details:
      - Shows each distinct change once, with the hosts it concerns.
  idempotent:
    support: full
extends_documentation_fragment:
  - vauban.fleet._attributes
seealso:
  - plugin: vauban.fleet.site
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: Render and judge
  vauban.fleet.site_render:
    site_file: "{{ fleet_site_file }}"
    hosts: "{{ ansible_play_hosts_all }}"
    dest: /srv/build/sites
    sdk: /srv/build/sdk/current
  run_once: true
"""

RETURN = r"""
changed:
  description: Whether any host has another tree than before, or would have in check mode.
  returned: always
  type: bool
  sample: true
hosts:
  description: Number of hosts that were looked at.
  returned: always
  type: int
  sample: 40
hosts_changed:
  description: Those whose tree changed.
  returned: always
  type: list
  elements: str
  sample: [paris-gw1, paris-gw2]
hosts_refused:
  description: Those that have a file which a program refuses.
  returned: always
  type: list
  elements: str
  sample: []
hosts_removed:
  description: Hosts that had a tree and are no longer in the site.
  returned: always
  type: list
  elements: str
  sample: []
files_checked:
  description: Number of distinct files and sets of units.
  returned: always
  type: int
  sample: 120
path:
  description: Where the trees lie.
  returned: success
  type: str
  sample: /srv/build/sites/example
report:
  description: Page with the reach matrix and a drawing of the networks.
  returned: success
  type: str
  sample: /srv/build/sites/example/report.html
failure:
  description: What is wrong, where, and what to do; the message as data. Not there if a host is refused.
  returned: failure
  type: dict
  sample:
    message: paris-gw1 is no host of site lyon
    where: /srv/fleet/lyon.site.yml
    remedy: "treat one site at a time: --limit site_lyon"
"""
