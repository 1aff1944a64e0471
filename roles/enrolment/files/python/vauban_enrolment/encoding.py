# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""How bytes are written in documents, and what is kept of secrets."""

from __future__ import annotations

import base64
import hashlib
from typing import Any


def sha256(data: bytes) -> str:
    """The hash, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def text(data: bytes | None) -> Any:
    """Base64, as the models of documents take bytes."""
    return base64.b64encode(data or b"").decode("ascii")
