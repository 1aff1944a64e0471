# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError


@contextmanager
def refusing(message: str, *, where: str) -> Iterator[None]:
    """Turn whatever a parser raises into a refusal.

    The libraries document no complete list of their errors, and what they read here comes from machines that nobody
    trusts yet: nothing that these send may end in anything but a refusal.
    """
    try:
        yield
    except FleetError:
        raise
    except Exception as exc:
        raise FleetError(message, where=where) from exc
