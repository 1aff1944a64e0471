#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: release_manifest
short_description: Describe and sign a release
author: Vauban maintainers (@vauban)
version_added: 0.1.0
description:
  - Signs the boot loader, and writes the bill of materials (CycloneDX), the provenance (in-toto) and the manifest of a
    release beside the core. The manifest names every file with its SHA-256, and the PCR values to expect.
  - Signs the manifest (detached CMS, C(manifest.json.p7s)). The signature is written last; a directory without it is no
    release.
  - Points the link C(current) beside the directory to it.
options:
  product:
    description: Name of the product.
    type: str
    required: true
  version:
    description: Version of the product, with C(+instrumented) if it has development features.
    type: str
    required: true
  core:
    description: The image made by M(vauban.fleet.core_image). The release is the directory it is in.
    type: path
    required: true
  uki:
    description: The UKI of the system, made by M(vauban.fleet.uki).
    type: path
    required: true
  installer:
    description: The UKI of the installer, made by M(vauban.fleet.uki).
    type: path
    required: true
  bundle:
    description: The update bundle, made by M(vauban.fleet.update_bundle).
    type: path
    required: true
  security_epoch:
    description: Machines refuse a release with a lower number than that of the one they run.
    type: int
    default: 1
  lock_file:
    description: The lock file that the packages come from.
    type: path
    required: true
  author:
    description: Who answers for the product; stands in the bill of materials.
    type: str
    required: true
  volume_group:
    description: Name of the LVM volume group on the machine's disk.
    type: str
    required: true
  state_places:
    description:
      - What the state volume adds to the core; the installer makes it there.
      - Each has C(path), C(kind) (C(configuration), C(directory) or C(file)) and C(mode), an octal number as text.
    type: list
    elements: dict
    required: true
  tpm_pcrs:
    description: PCRs that the state volume is bound to literally, beside the signed policy on PCR 11.
    type: list
    elements: int
    required: true
  dbx:
    description:
      - SHA-256 (Authenticode) of programs that the release forbids. It must not forbid its own UKIs or its boot loader.
    type: list
    elements: str
    default: []
    version_added: 0.4.0
  recipients:
    description: Officers who can read recovery keys beside the holder of key C(escrow), as age recipients.
    type: list
    elements: str
    default: []
  threshold:
    description: How many of them it takes to read a recovery key, the holder of key C(escrow) among them.
    type: int
    default: 1
extends_documentation_fragment:
  - vauban.fleet._build.sdk
  - vauban.fleet._build.tree
  - vauban.fleet._build.work
  - vauban.fleet._build.signing
  - vauban.fleet._attributes.step
  - vauban.fleet._attributes.build_group
seealso:
  - module: vauban.fleet.uki
  - module: vauban.fleet.disk_image
  - name: Release manifest
    description: Every key of the manifest.
    link: https://vauban.example/fleet/docs/release_manifest
"""

EXAMPLES = r"""
- name: Write and sign the release manifest
  vauban.fleet.release_manifest:
    product: gateway
    version: 0.1.0
    sdk: /srv/build/sdk/current
    base: "{{ tree.path }}"
    layer: /srv/build/gateway/work/0.1.0/layer
    core: "{{ core.path }}"
    uki: /srv/build/gateway/0.1.0/gateway_0.1.0.efi
    installer: /srv/build/gateway/0.1.0/gateway_0.1.0_installer.efi
    bundle: /srv/build/gateway/0.1.0/gateway_0.1.0.raucb
    keys: /srv/keys/gateway
    lock_file: /srv/fleet/trixie.lock.json
    author: the administrators of this fleet
    volume_group: fleet
    state_places:
      - path: /var
        kind: directory
        mode: "0755"
    tpm_pcrs: [7, 12, 15]
    work: /srv/build/gateway/work/0.1.0
"""

RETURN = r"""
changed:
  description: Whether the manifest was made or, in check mode, would be.
  returned: always
  type: bool
  sample: true
reason:
  description: Why it had to be made, with the inputs that changed; or C(inputs unchanged).
  returned: success
  type: str
  sample: "changed: uki"
seconds:
  description: How long the step took, in seconds.
  returned: success
  type: float
  sample: 3.5
path:
  description: The manifest.
  returned: success
  type: str
  sample: /srv/build/gateway/0.1.0/manifest.json
digest:
  description: SHA-256 over the digests of all inputs; stands for the manifest wherever it is an input.
  returned: success, unless an input is missing in check mode
  type: str
  sample: 8127881f95248b2a1f1106340866b36532f4b91480f6e6d413f1a13b0a1010a4
artifacts:
  description: The files of the release.
  returned: success, unless check mode would make it
  type: list
  elements: dict
  contains:
    file:
      description: Name of the file.
      returned: always
      type: str
    size:
      description: Its size in bytes.
      returned: always
      type: int
    sha256:
      description: Its SHA-256.
      returned: always
      type: str
  sample:
    - file: core.erofs
      size: 135245824
      sha256: ee40f79d791108d8adf718f27510cb088b413b3250a6cb35664cdd116d7135f0
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
