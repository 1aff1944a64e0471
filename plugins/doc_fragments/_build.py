# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations


class ModuleDocFragment:
    """Options that several steps of a build share."""

    SDK = r"""
options:
  sdk:
    description: The SDK whose tools do the work, an image file or an unpacked tree.
    type: path
    required: true
"""

    WORK = r"""
options:
  work:
    description: Directory for intermediate files, logs and mount points. Made if missing; one for each version.
    type: path
    required: true
"""

    EPOCH = r"""
options:
  epoch:
    description: Time that files of the artifact bear, in seconds since 1970 (C(SOURCE_DATE_EPOCH)).
    type: int
    required: true
"""

    TREE = r"""
options:
  base:
    description: The root tree made by M(vauban.fleet.root_tree). It is only read.
    type: path
    required: true
  layer:
    description: The layer kept by M(vauban.fleet.root_layer), with what roles changed in the tree.
    type: path
    required: true
"""

    HARDWARE = r"""
options:
  hardware_profiles:
    description: Hardware profiles beside C(common), which always counts; names of files without C(.yml).
    type: list
    elements: str
    default: []
  hardware_directories:
    description: Directories with more hardware profiles. They come before those of the collection.
    type: list
    elements: path
    default: []
"""

    SIGNING = r"""
options:
  keys:
    description: Key directory of the product, as M(vauban.fleet.product_keys) makes it.
    type: path
    required: true
  keys_kind:
    description:
      - What the keys must be for.
      - V(production) keys refuse O(instrumentation).
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
  instrumentation:
    description: Development features that are built in, names of C(files/instrumentation.yml).
    type: list
    elements: str
    default: []
"""
