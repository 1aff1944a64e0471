#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: root_layer
short_description: Open, keep and close the layer that roles write to
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - A product is configured by roles that run inside its tree, through connection
    P(vauban.fleet.rootfs#connection). What they change is kept in a layer over the tree, which itself is only read.
  - Opening compares the tree, the roles' files and the variables of the host with those the layer was made from. If
    anything differs it is taken back to what it was before the first role that the change reaches, and the roles from
    there on have to run; in doubt the layer is emptied.
  - Closing remembers all this, and which task wrote each file (P(vauban.fleet.origin#callback) records it).
options:
  state:
    description:
      - V(opened) before the roles. The task is changed if any have to run, and returns which.
      - V(kept) after each of them, so that a later build can begin there.
      - V(closed) after all.
    type: str
    choices: [opened, kept, closed]
    required: true
  base:
    description: The root tree made by M(vauban.fleet.root_tree). It is only read.
    type: path
    required: true
  sdk:
    description: The SDK that the roles' modules run with, an image file or an unpacked tree.
    type: path
    required: true
  dest:
    description: Directory of the layer. Changes are below C(upper) in it.
    type: path
    required: true
  roles:
    description: Names of the roles that configure the product. Roles that these include are found by themselves.
    type: list
    elements: str
    required: true
  role:
    description: The one of O(roles) that just ran. Required with O(state=kept).
    type: str
  from_nothing:
    description: Run all roles whenever one has to run, and keep nothing between them.
    type: bool
    default: false
  certificates:
    description: Directory of the product's certificates, of which roles put some into the tree.
    type: path
extends_documentation_fragment:
  - vauban.fleet._attributes.step
notes:
  - All variables of the host count as inputs but for those that Ansible sets and those that begin with an underscore.
  - A variable reaches the roles that name it in any of their files, or name another one whose value names it. It
    reaches all roles if none does. It also reaches a role that could read it without its name, through C(hostvars),
    C(vars), a plugin of another collection or a template outside the role.
  - No role is left out if one before it in the list leaves facts, hosts, exposed variables or effects outside the tree
    in the play, or if a later one uses what it registered or its handlers; and none if a handler ran in the tree.
seealso:
  - module: vauban.fleet.root_tree
  - module: vauban.fleet.core_image
  - plugin: vauban.fleet.rootfs
    plugin_type: connection
"""

EXAMPLES = r"""
- name: Open the layer that roles write to
  vauban.fleet.root_layer:
    state: opened
    base: "{{ tree.path }}"
    sdk: /srv/build/sdk/current
    dest: /srv/build/gateway/work/0.1.0/layer
    roles: [vauban.fleet.core]
  register: layer

# Here layer.roles run if layer is changed, through connection vauban.fleet.rootfs, with a task like this after each.

- name: Keep what the layer is now
  vauban.fleet.root_layer:
    state: kept
    role: vauban.fleet.core
    base: "{{ tree.path }}"
    sdk: /srv/build/sdk/current
    dest: /srv/build/gateway/work/0.1.0/layer
    roles: [vauban.fleet.core]

- name: Close the layer
  vauban.fleet.root_layer:
    state: closed
    base: "{{ tree.path }}"
    sdk: /srv/build/sdk/current
    dest: /srv/build/gateway/work/0.1.0/layer
    roles: [vauban.fleet.core]
"""

RETURN = r"""
changed:
  description: Whether the layer was taken back or closed or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it had to be made, with the inputs that changed; or C(inputs unchanged).
  returned: success
  type: str
  sample: "changed: roles, variable product_hostname"
roles:
  description: The roles that have to run, in this order.
  returned: success of O(state=opened)
  type: list
  elements: str
  sample: [vauban.fleet.core]
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 0.1
path:
  description: The layer.
  returned: success
  type: str
  sample: /srv/build/gateway/work/0.1.0/layer/upper
digest:
  description: SHA-256 over the digests of all inputs; stands for the layer wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
files:
  description: Which task of which role wrote each file.
  returned: success, unless check mode would make it
  type: dict
  sample:
    /usr/lib/os-release: "role vauban.fleet.core: Lay down the base configuration"
content:
  description: SHA-256 over what roles wrote, times left out; stands for the layer where only its content matters.
  returned: success of O(state=closed), unless check mode would make it
  type: str
  sample: 1a78aca4744f9c0ef0bb2d62020c3ed5351e98e08e4c29aacfd51fce3a11ef1d
failure:
  description: What went wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  contains:
    message:
      description: What went wrong.
      returned: always
      type: str
    where:
      description: The file, key or device concerned, or null.
      returned: always
      type: str
    remedy:
      description: What to type or change next, or null.
      returned: always
      type: str
  sample:
    message: the lock file does not exist
    where: /srv/fleet/trixie.lock.json
    remedy: run 'ansible-playbook vauban.fleet.lock' to write it again
"""
