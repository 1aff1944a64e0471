#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: uki
short_description: Join kernel, initrd and command line to one signed EFI binary
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Builds a unified kernel image (UAPI specification) with ukify, with a signed policy for PCR 11 in it, and signs it
    for Secure Boot.
  - The command line begins with the root hash of O(core), so that the signature covers the whole root file system.
options:
  kernel:
    description: The kernel.
    type: path
    required: true
  kernel_release:
    description: Release of the kernel, for the section C(.uname).
    type: str
    required: true
  initrd:
    description: The initrd, made by M(vauban.fleet.initrd).
    type: path
    required: true
  os_release:
    description: File for the section C(.osrel), which boot loaders show.
    type: path
    required: true
  command_line:
    description: Kernel arguments. Those of the hardware profiles follow.
    type: list
    elements: str
    required: true
  core:
    description: The image made by M(vauban.fleet.core_image) that this kernel mounts. An installer's kernel has none.
    type: path
  core_device:
    description: Block device that holds O(core) on the machine. Needed with O(core).
    type: str
  security_epoch:
    description:
      - Security epoch of the product, to which the key C(pcr) has to belong.
      - If there are keys of epochs before in the key directory, the UKI carries a signature by each, so that machines
        which trust one of those open their state volume and can move on (C(docs/updates.md)).
    type: int
    default: 1
  dest:
    description: The signed UKI.
    type: path
    required: true
extends_documentation_fragment:
  - vauban.fleet._build.sdk
  - vauban.fleet._build.work
  - vauban.fleet._build.hardware
  - vauban.fleet._build.epoch
  - vauban.fleet._build.signing
  - vauban.fleet._attributes.step
  - vauban.fleet._attributes.build_group
seealso:
  - module: vauban.fleet.core_image
  - module: vauban.fleet.initrd
  - module: vauban.fleet.product_keys
"""

EXAMPLES = r"""
- name: Join and sign kernel, initrd and command line
  vauban.fleet.uki:
    sdk: /srv/build/sdk/current
    kernel: /srv/build/gateway/work/0.1.0/vmlinuz
    kernel_release: "{{ core.kernel }}"
    initrd: /srv/build/gateway/work/0.1.0/system.initrd
    os_release: /srv/build/gateway/work/0.1.0/layer/upper/usr/lib/os-release
    command_line: [lockdown=integrity, init_on_alloc=1]
    hardware_profiles: [qemu_virtio]
    core: "{{ core.path }}"
    core_device: /dev/fleet/core_0.1.0
    keys: /srv/keys/gateway
    dest: /srv/build/gateway/0.1.0/gateway_0.1.0.efi
    work: /srv/build/gateway/work/0.1.0
    epoch: "{{ assets.epoch }}"
"""

RETURN = r"""
changed:
  description: Whether the UKI was made or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it had to be made, with the inputs that changed; or C(inputs unchanged).
  returned: success
  type: str
  sample: "changed: command line"
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 1.0
path:
  description: The UKI.
  returned: success
  type: str
  sample: /srv/build/gateway/0.1.0/gateway_0.1.0.efi
digest:
  description: SHA-256 over the digests of all inputs; stands for the UKI wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
command_line:
  description: The kernel's whole command line.
  returned: success, unless check mode would make it
  type: str
  sample: root=/dev/mapper/root rootfstype=erofs ro lockdown=integrity init_on_alloc=1
packages:
  description: What M(vauban.fleet.initrd) returned of this name for the initrd in it.
  returned: success, unless check mode would make it
  type: dict
  sample:
    tree:
      systemd: 257.9-1~deb13u1
    sdk: {}
pcr11:
  description: Expected PCR 11 (SHA-256 bank, hexadecimal) after each boot phase.
  returned: success, unless check mode would make it
  type: dict
  sample:
    enter-initrd: b35a4c137ca4abd7ce01bc72a4a34c49b9f35bb7f7bc2853156b5c0a513509f8
    ready: e6ee5594ea9bbf798c6d511625fcfd4ce469dfb0ba30c52a9e25f0bb117326d9
unsigned_sha256:
  description: SHA-256 without the signature. Anyone who builds from the same inputs gets the same.
  returned: success, unless check mode would make it
  type: str
  sample: 88e6c3e061b063d98a03beb65abf3867790d257cfa9695f2bee27b0c83ee7302
sha256:
  description: SHA-256 of the signed file.
  returned: success, unless check mode would make it
  type: str
  sample: d7a01ddcbc4527c119b2c933216d91d8a1b93151e56c712ba91d0a69adcc9e79
size:
  description: Size of the UKI in bytes.
  returned: success, unless check mode would make it
  type: int
  sample: 25515656
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
