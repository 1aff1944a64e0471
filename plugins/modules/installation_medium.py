#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: installation_medium
short_description: Make installation media for networks without DHCP or network boot
author: Vauban maintainers (@vauban)
version_added: 0.5.0
description:
  - Makes an image of a disk for each product of the hosts, to be written to a USB stick, or to be shown to a machine as
    one by its power controller. Firmware starts from it the signed installer of the release, the same file that network
    boot brings, so that machines measure and prove the same.
  - Beside the installer the medium holds a text file, C(addresses.txt), with the fixed IPv4 address and the gateway of
    each network card that the site knows by its MAC. Cards that do not stand there ask by DHCP. There is no secret on
    the medium, and nothing on it is believed but the installer, which firmware verifies.
  - The releases have to be whole and signed by whom the product's keys say.
  - The same site and release give the same bytes.
options:
  releases:
    description: Directories of releases on the controller. Those of products that no host has are only checked.
    type: list
    elements: str
    required: true
  sdk:
    description: The SDK, whose tools make file system and partition table.
    type: path
    required: true
  keys:
    description: Directory in which C(PRODUCT/root.pem) says whose signature on a release is believed.
    type: path
    required: true
  dest:
    description: Directory of the images; each is C(SITE/PRODUCT_VERSION.img) below it.
    type: path
    required: true
attributes:
  action:
    description: Runs on the controller, in an action plugin; the host needs neither a connection nor Python.
    support: full
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows the addresses. Of the installer, RV(media[].reason) says whether it is another.
  idempotent:
    support: full
    details:
      - Inputs are compared by digest with those remembered beside the image. The image itself is not read.
extends_documentation_fragment:
  - vauban.fleet._provision.site
  - vauban.fleet._provision.hosts
  - vauban.fleet._attributes
seealso:
  - name: Installation without network boot
    description: docs/provisioning.md
    link: https://vauban.example/fleet/docs
"""

EXAMPLES = r"""
- name: Make media for the hosts
  vauban.fleet.installation_medium:
    site_file: "{{ fleet_site_file }}"
    hosts: "{{ ansible_play_hosts_all }}"
    releases: [build/server/current]
    sdk: build/sdk/current
    keys: ~/.local/share/vauban.fleet/keys
    dest: build/media
  run_once: true
"""

RETURN = r"""
changed:
  description: Whether a medium was made or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: How many media there are and were made; or C(inputs unchanged).
  returned: success
  type: str
  sample: 1 media, 1 of them anew
media:
  description: The media, one for each product of the hosts.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The image.
      returned: always
      type: str
    product:
      description: What it installs.
      returned: always
      type: str
    version:
      description: Which version of it.
      returned: always
      type: str
    hosts:
      description: Hosts whose addresses stand on it.
      returned: always
      type: list
      elements: str
    by_dhcp:
      description: Hosts that ask for their addresses, and why.
      returned: always
      type: dict
    reason:
      description: Why it had to be made, with the inputs that changed; or C(inputs unchanged).
      returned: always
      type: str
    size:
      description: Bytes.
      returned: unless check mode would make it
      type: int
    sha256:
      description: SHA-256 of the image, to be compared with what was written to a stick.
      returned: unless check mode would make it
      type: str
  sample:
    - path: /srv/build/media/example/server_0.1.0.img
      product: server
      version: 0.1.0
      hosts: [paris-files1]
      by_dhcp: {paris-files2: no MAC address of outer in the site}
      reason: first build
      size: 69206016
      sha256: 002fc79867db533cdfbee48d5ddfe31176270d456828cec0fb8dbb63d6161d05
lines:
  description: The media, for people.
  returned: success
  type: list
  elements: str
  sample:
    - "/srv/build/media/example/server_0.1.0.img: server 0.1.0, addresses of 1 host, SHA-256 002fc79867db..."
    - "paris-files2 asks by DHCP: no MAC address of outer in the site"
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
    message: is not there
    where: /srv/keys/server/root.pem
    remedy: bring the certificate of the product's root there, with its list, or set provision_keys_dir
"""
