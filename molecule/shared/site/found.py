# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the keys and certificates of a site: those of its machines, and those of its people.

found.py DIRECTORY '{"HOST": ["IDENTITY", ...], ...}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests/support"))

from certificates import P256, Authority, ec_key, pem
from guests import new_key, write

directory = Path(sys.argv[1])
for each in ("pki/ca", "secrets"):
    (directory / each).mkdir(parents=True, mode=0o700)
# GnuTLS, and so chrony, knows no Brainpool curve.
root = Authority.root("Root of the site", ec_key(P256))
write(directory / "pki/ca/root.pem", root.pem, 0o644)
for host, (identity, *also) in json.loads(sys.argv[2]).items():
    issued = root.issue(identity, ec_key(P256), also=also)
    write(directory / f"secrets/{host}.pem", issued.pem, 0o644)
    write(directory / f"secrets/{host}.key", pem(issued.key), 0o600)
for person in ("admin", "audit"):
    key = new_key()
    write(directory / person, key.private, 0o600)
    write(directory / f"{person}.pub", key.public + b"\n", 0o644)
write(directory / "crl.pem", root.revocations(), 0o644)
