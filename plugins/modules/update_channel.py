#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: update_channel
short_description: Sign which release a channel offers
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - What is signed names the list of revoked certificates (C(root.crl)) that machines have to know to believe it, and
    counts no longer than the certificate of C(publish).
  - Checks a release, its manifest against the builder's signature and each file against the manifest, and signs with
    the product's key C(publish) that a channel offers it.
  - A machine wants both signatures, so builder and controller have to agree.
  - What has been signed counts for O(days). Run it again before half of them are over; before that it changes nothing.
  - Makes patches from releases before this one, of which a machine fetches the one that fits what it runs in place of
    the bundle (O(patches)).
  - A version can go to some machines first (O(percent)) and be held back or taken back (O(rollout)). Machines decide by
    themselves, from what is signed here and their machine id; those that have a version keep it.
options:
  product:
    description: Product of the channel. Needed without O(release).
    type: str
  release:
    description: Directory of the release. Without it, the release that the channel offers stays, and is not read again.
    type: path
  channel:
    description: Name of the channel, a lower case letter and up to 31 of C(a-z), C(0-9), C(_) and C(-).
    type: str
    required: true
  days:
    description: How long machines believe it. Afterwards they refuse it, so that nobody keeps them from an update.
    type: int
    default: 30
  percent:
    description:
      - To how many of a hundred machines the release goes. It only grows.
      - Without it a new release goes to all, and one that is offered already to as many as before.
    type: int
  rollout:
    description:
      - V(pause) holds the release back from the machines that have not taken it, V(resume) lets it go on.
      - V(withdraw) holds it back for good; a release with a higher version has to follow.
    type: str
    choices: [pause, resume, withdraw]
  experience:
    description:
      - By version, the hosts that C(took) it, those that C(failed) and those that are C(silent) since, as
        RV(vauban.fleet.update_status#module:experience) has them for each product.
      - A release that goes to a share of the machines, and of which this says too much, is held back. See RV(halted).
    type: dict
    default: {}
  failures:
    description: Which share of the machines that took the release may fail or be silent, 0 to 1.
    type: float
    default: 0.1
  patches:
    description:
      - From how many releases before this one patches are made. They are those with the next lower versions of the
        same kind beside O(release).
      - What does not come out of a patch bit by bit, or is no shorter than 0.7 of the bundle, is not offered.
    type: int
    default: 2
    version_added: 0.4.0
  sdk:
    description: The SDK whose tools do the work, an image file or an unpacked tree.
    type: path
    required: true
  keys:
    description:
      - Key directory of the product, as M(vauban.fleet.product_keys) makes it.
      - Needed are C(root.crt), C(root.crl) and C(root.pem), which say whose signature on the release counts, and
        C(publish) with its certificate and its private key.
    type: path
    required: true
  keys_kind:
    description: What the keys, and the release, must be for.
    type: str
    choices: [development, production]
    default: development
  key_uris:
    description: PKCS#11 URIs (RFC 7512) by key name, for private keys that are in a token and not in O(keys).
    type: dict
    default: {}
  key_token:
    description: Directory with the token's module and settings. Needed with O(key_uris).
    type: path
  dest:
    description:
      - Directory of what has been signed; the file is C(PRODUCT/CHANNEL.p7m) in it.
      - Patches are C(PRODUCT/VERSION/SHA256.patch) in it; those to versions that no channel offers any more go.
    type: path
    required: true
  work:
    description: Directory for intermediate files and mount points. Made if missing.
    type: path
    required: true
attributes:
  action:
    description: Runs on the controller, in an action plugin; the host needs neither a connection nor Python.
    support: full
  check_mode:
    support: full
    details:
      - Checks the release all the same, and makes no patches.
  diff_mode:
    support: full
    details:
      - Shows what the channel offered before, and what it would offer.
  idempotent:
    support: full
    details:
      - What was signed is signed anew when half of its time is over.
extends_documentation_fragment:
  - vauban.fleet._attributes
seealso:
  - module: vauban.fleet.release_manifest
  - module: vauban.fleet.release_store
"""

EXAMPLES = r"""
- name: Say what the channel offers
  vauban.fleet.update_channel:
    release: /srv/build/gateway/0.2.0
    channel: stable
    sdk: /srv/build/sdk/current
    keys: /srv/keys/gateway
    keys_kind: production
    dest: /srv/build/channels
    work: /srv/build/channels/work

- name: Hold it back
  vauban.fleet.update_channel:
    product: gateway
    channel: stable
    rollout: pause
    sdk: /srv/build/sdk/current
    keys: /srv/keys/gateway
    keys_kind: production
    dest: /srv/build/channels
    work: /srv/build/channels/work
"""

RETURN = r"""
changed:
  description: Whether it was signed or, in check mode, would be.
  returned: always
  type: bool
  sample: true
path:
  description: The signed file.
  returned: success
  type: str
  sample: /srv/build/channels/gateway/stable.p7m
release:
  description: Directory of the release, without links; null if none was named.
  returned: success
  type: str
  sample: /srv/build/gateway/0.2.0
offer:
  description: What it says.
  returned: success
  type: dict
  sample:
    format: 1
    product: gateway
    channel: stable
    version: 0.2.0
    security_epoch: 1
    issued: "2026-11-23T06:00:00Z"
    expires: "2026-12-23T06:00:00Z"
    revocations: 1
    manifest:
      size: 49500
      sha256: 039920c7b936accf4d417e37b169c218249b80866d5152c923571daaf95a6d37
    rollout: {percent: 10, seed: 039920c7b936accf4d417e37b169c218, state: running}
revocations:
  description: The list of revoked certificates that belongs to it, beside the signed file.
  returned: success
  type: str
  sample: /srv/build/channels/gateway/root.crl
held:
  description: Releases that a channel of the product offers, as C(PRODUCT/VERSION). They must stay on the server.
  returned: success
  type: list
  elements: str
  sample: [gateway/0.2.0]
patches:
  description: Files that machines can fetch in place of bundles that channels of the product offer.
  returned: success
  type: list
  elements: str
  sample: [/srv/build/channels/gateway/0.2.0/5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8.patch]
halted:
  description: Why the release is held back, against what was asked; null if it is not.
  returned: success
  type: str
  sample: "gateway 0.2.0: of 20 machines that took it 3 failed and 0 are silent: paris-gw1, paris-gw2, lyon-gw1"
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
    message: the file is missing
    where: /srv/build/gateway/0.2.0/manifest.json
    remedy: name the directory of a finished release
"""
