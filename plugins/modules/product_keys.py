#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: product_keys
short_description: Make and check the keys of a product
version_added: 0.1.0
description:
  - Makes the directory with the keys that sign a product, and what derives from them
    (certificates, EFI signature lists, signed updates of the Secure Boot variables).
  - The key C(root) issues the certificates of C(release), C(publish) and C(configuration), and a list of those that
    count no more. It can stay offline; what it has to sign anew is said, as a warning or as the reason of a failure.
  - A private key is never written over. What derives from the keys and is missing or does not fit is made anew.
  - Fails if a private key is missing but its certificate is there, unless O(held_elsewhere) names the key.
  - Fails if the directory holds keys of the other O(kind).
author:
  - Vauban maintainers (@vauban)
requirements:
  - cryptography >= 42 (Python library)
  - bubblewrap
attributes:
  check_mode:
    description: Can run in check mode and says which files it would write, without the SDK.
    support: full
  diff_mode:
    description: Shows file names and properties of certificates, never bytes of a key.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
options:
  state:
    description: The keys shall exist. They are never removed by this module.
    type: str
    choices: [present]
    default: present
  path:
    description: The directory of all products' keys. Made with mode 0700 if missing.
    type: path
    required: true
  name:
    description: The product, and the name of its directory below O(path).
    type: str
    required: true
  kind:
    description:
      - V(development) keys carry C(OU=DEVELOPMENT - NOT FOR PRODUCTION) in every certificate.
      - One kind never becomes the other.
    type: str
    choices: [development, production]
    default: development
  days:
    description: Validity, in days, of certificates that are made now and that C(root) does not issue.
    type: int
    default: 3650
  signing_days:
    description:
      - Validity, in days, of certificates that C(root) issues now.
      - If the key C(root) is there, they are renewed in their last O(expiry_warning) days, or in the last third of
        their time if that is less.
    type: int
    default: 365
    version_added: 0.4.0
  revoke:
    description:
      - SHA-256 fingerprints of certificates of C(release), C(publish) or C(configuration) that are to count no more, or
        at least their first 16 digits.
      - Certificate and key go to directory C(revoked), new ones take their place, and C(root) signs a list that names
        the certificate. A fingerprint that has been revoked already changes nothing.
    type: list
    elements: str
    default: []
    version_added: 0.4.0
  dbx:
    description:
      - SHA-256, as Authenticode computes it, of programs that firmware is to refuse although C(db) has signed them.
      - C(KEK) signs a list of them, C(dbx.auth), by which firmware adds them to variable C(dbx).
    type: list
    elements: str
    default: []
    version_added: 0.4.0
  db_bits:
    description: Size in bits of the RSA key C(db) if it is made now.
    type: int
    choices: [2048, 3072, 4096]
    default: 2048
  security_epoch:
    description:
      - Security epoch of the product. The key C(pcr) belongs to one.
      - If it is higher than that of the keys, C(pcr) is kept as C(pcr_epoch_N), and a new one is made. It never becomes
        lower.
    type: int
    default: 1
  held_elsewhere:
    description:
      - Keys whose private half is kept offline or in a PKCS#11 token.
      - Their public half must be in the directory, their private half must not.
    type: list
    elements: str
    choices: [PK, KEK, db, pcr, root, release, publish, configuration, escrow]
    default: []
  key_uris:
    description:
      - PKCS#11 URIs (RFC 7512) by key name. Only that of C(root) is used here; O(held_elsewhere) has to name it, too.
      - C(root) signs in its token then, and its certificate is made if it is missing.
    type: dict
    default: {}
    version_added: 0.4.0
  key_token:
    description: Directory with the token's module and settings. Needed with O(key_uris).
    type: path
    version_added: 0.4.0
  expiry_warning:
    description: Warn of certificates that expire within this many days.
    type: int
    default: 90
  sdk:
    description: The SDK, as an image file or as an unpacked tree.
    type: path
    required: true
  scratch:
    description: A directory for temporary mount points. Made if missing.
    type: path
    required: true
seealso:
  - name: Keys
    description: What each key is for, and what its loss means.
    link: https://vauban.example/fleet/docs/keys
"""

EXAMPLES = r"""
- name: Make development keys
  vauban.fleet.product_keys:
    path: "{{ fleet_keys_dir }}"
    name: gateway
    sdk: "{{ fleet_sdk }}"
    scratch: "{{ fleet_scratch }}"

- name: Check production keys whose roots are offline
  vauban.fleet.product_keys:
    path: "{{ fleet_keys_dir }}"
    name: gateway
    kind: production
    held_elsewhere: [PK, KEK, root, escrow]
    sdk: "{{ fleet_sdk }}"
    scratch: "{{ fleet_scratch }}"
"""

RETURN = r"""
path:
  description: The key directory of the product.
  returned: success
  type: str
  sample: /srv/keys/gateway
kind:
  description: What the keys are for.
  returned: success
  type: str
  sample: development
owner_guid:
  description: Owner of the product's entries in the Secure Boot variables.
  returned: success, unless check mode would make the keys
  type: str
  sample: 7d3c1f0e-6a5b-4c19-9d0e-0b8f5a1f8a51
escrow_recipient:
  description: The age recipient that recovery keys are encrypted to.
  returned: success, unless check mode would make the keys
  type: str
  sample: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
certificates:
  description: The certificates by name of their key.
  returned: success
  type: dict
  contains:
    path:
      description: The PEM file.
      type: str
      returned: always
    subject:
      description: The subject (RFC 4514).
      type: str
      returned: always
    sha256:
      description: Fingerprint of the certificate.
      type: str
      returned: always
    not_after:
      description: When it expires (ISO 8601).
      type: str
      returned: always
    days_left:
      description: Whole days until then, negative afterwards.
      type: int
      returned: always
  sample:
    db:
      path: /srv/keys/gateway/db.crt
      subject: OU=DEVELOPMENT - NOT FOR PRODUCTION,CN=gateway db
      sha256: 1f0c2d8e4b3a59687786a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0
      not_after: "2036-11-19T09:30:00+00:00"
      days_left: 3649
revocation_list:
  description: Number of the list of revoked certificates; null before there is one.
  returned: success, unless check mode would make the keys
  type: int
  sample: 1
written:
  description: Names of the files that were written or, in check mode, would be.
  returned: success
  type: list
  elements: str
  sample: [db.key, db.crt]
failure:
  description: What went wrong, where, and what to do.
  returned: failure
  type: dict
"""

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import CRYPTOGRAPHY_ERROR
from ansible_collections.vauban.fleet.plugins.module_utils._boot.issuing import unlisted
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_directory import ensure, plan
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import (
    ISSUED,
    LIST,
    ROOT,
    KeyRequest,
    ProductKeys,
    due,
    expiring,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox


def describe(keys: ProductKeys, now: dt.datetime) -> dict[str, Any]:
    """Properties of the keys that are there, for the result and the diff."""
    facts: dict[str, Any] = {
        "certificates": {
            name: {
                "path": str(certificate.path),
                "subject": certificate.subject,
                "sha256": certificate.fingerprint,
                "not_after": certificate.not_after.isoformat(),
                "days_left": certificate.days_left(now),
            }
            for name, certificate in keys.certificates().items()
        }
    }
    if keys.marker.exists():
        marker = keys.read_marker()
        facts |= {name: marker.get(name) for name in ("owner_guid", "escrow_recipient", "revocation_list")}
    return facts


def properties(keys: ProductKeys, now: dt.datetime, written: tuple[str, ...] = ()) -> dict[str, Any]:
    """One side of the diff; ``written`` are files that are not there yet."""
    files = {path.name for path in keys.directory.iterdir()} if keys.directory.exists() else set()
    return {"files": sorted(files | set(written)), **describe(keys, now)}


def concerns(keys: ProductKeys, request: KeyRequest, now: dt.datetime, days: int) -> list[str]:
    """What somebody has to do soon, and what to type for it."""
    found, offline = [], not request.root_at_hand
    soon = due(keys, now=now, within_days=days)
    for certificate in expiring(keys, now=now, within_days=days):
        name = certificate.path.stem
        if name not in ISSUED:
            found.append(f"{certificate.path}: valid until {certificate.not_after:%Y-%m-%d}; see docs/keys.md")
        elif name in soon and offline:
            found.append(
                f"{certificate.path}: valid until {certificate.not_after:%Y-%m-%d}, then nothing that it has signed is"
                f" believed. Run playbook pki on the directory that has root.key, and bring {name}.crt from there"
            )
    for name in ISSUED:
        asked = keys.directory / f"{name}.csr"
        if asked.exists():
            found.append(
                f"{asked}: bring it to the directory that has root.key, run playbook pki there, and bring {name}.crt,"
                f" {LIST} and root.crt from there"
            )
    if keys.public(ROOT).exists():
        found += [
            f"{each.path}: {LIST} does not name this certificate. Run playbook pki with product_keys_revoke="
            f"{each.fingerprint[:16]} on the directory that has root.key, and bring {LIST} from there"
            for each in unlisted(keys)
        ]
    return found


def present(module: AnsibleModule) -> dict[str, Any]:
    """Bring the directory to the state asked for, or find out what that would take."""
    params = module.params
    now = dt.datetime.now(dt.UTC)
    keys = ProductKeys(Path(params["path"]) / params["name"])
    token = Path(params["key_token"]) if params["key_token"] else None
    request = KeyRequest(
        name=params["name"],
        kind=params["kind"],
        days=params["days"],
        signing_days=params["signing_days"],
        db_bits=params["db_bits"],
        security_epoch=params["security_epoch"],
        held_elsewhere=frozenset(params["held_elsewhere"]),
        root=KeyReference(uri, token) if (uri := params["key_uris"].get(ROOT)) else None,
        renew=due(keys, now=now, within_days=params["expiry_warning"]),
        revoke=tuple(params["revoke"]),
        forbidden=tuple(params["dbx"]),
    )
    request.check()
    before = properties(keys, now)
    if module.check_mode:
        written = plan(keys, request)
        after = properties(keys, now, written)
    else:
        scratch = Path(params["scratch"])
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="keys.", dir=scratch) as empty:
            written = ensure(keys, request, Sandbox(Path(params["sdk"]), Path(empty)), now=now)
        after = properties(keys, now)
    for text in concerns(keys, request, now, params["expiry_warning"]):
        module.warn(text)
    return {
        "changed": bool(written),
        "path": str(keys.directory),
        "kind": request.kind,
        "written": list(written),
        "diff": {"before": before, "after": after},
        **describe(keys, now),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present"], "default": "present"},
            "path": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["development", "production"], "default": "development"},
            "days": {"type": "int", "default": 3650},
            "signing_days": {"type": "int", "default": 365},
            "revoke": {"type": "list", "elements": "str", "default": []},
            "dbx": {"type": "list", "elements": "str", "default": []},
            "db_bits": {"type": "int", "choices": [2048, 3072, 4096], "default": 2048},
            "security_epoch": {"type": "int", "default": 1},
            "held_elsewhere": {
                "type": "list",
                "elements": "str",
                "choices": ["PK", "KEK", "db", "pcr", "root", "release", "publish", "configuration", "escrow"],
                "default": [],
                "no_log": False,
            },
            "key_uris": {"type": "dict", "default": {}, "no_log": False},
            "key_token": {"type": "path", "no_log": False},
            "expiry_warning": {"type": "int", "default": 90},
            "sdk": {"type": "path", "required": True},
            "scratch": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    if CRYPTOGRAPHY_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography >= 42"), exception=CRYPTOGRAPHY_ERROR)
    try:
        result = present(module)
    except FleetError as exc:
        module.fail_json(msg=str(exc), failure=exc.as_failure())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
