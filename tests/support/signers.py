# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of a product's keys the root and those below it, without the SDK that the others take."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._boot import issuing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import generate_key, private_pem
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ISSUED, LIST, ROOT, KeyRequest, ProductKeys


def write_signers(directory: Path, *, product: str = "server") -> ProductKeys:
    """Development keys, valid since yesterday."""
    keys, request = ProductKeys(directory), KeyRequest(name=product)
    now = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    directory.mkdir(parents=True, mode=0o700)
    for name in (ROOT, *ISSUED):
        keys.private(name).write_bytes(private_pem(generate_key("p256", 0)))
        keys.private(name).chmod(0o600)
        assert issuing.write(f"{name}.crt", keys, request, now)
    for name in (LIST, "root.pem"):
        assert issuing.write(name, keys, request, now)
    return keys
