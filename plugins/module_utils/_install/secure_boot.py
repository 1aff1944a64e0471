# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

VARIABLES = Path("/sys/firmware/efi/efivars")
_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
_ATTRIBUTES = 4  # bytes in front of the value (efivarfs)


def require(variables: Path = VARIABLES) -> None:
    """See that firmware starts nothing but what is signed (UEFI specification, 32.1).

    State that is sealed while it does not would stay closed as soon as it does: PCR 7 differs.

    :param variables: where efivarfs is mounted.
    :raises FleetError: Secure Boot is off, or anybody may change its keys.
    """
    if _value(variables, "SetupMode") == 1:
        remedy = "enrol the product's keys, then install (docs/keys.md)"
        raise FleetError("the firmware is in setup mode: it has no platform key", where="SetupMode", remedy=remedy)
    if _value(variables, "SecureBoot") != 1:
        raise FleetError("Secure Boot is off", where="SecureBoot", remedy="switch it on in the firmware's settings")


def _value(variables: Path, name: str) -> int | None:
    """The one byte that the variable has; none without the variable."""
    try:
        return (variables / f"{name}-{_GLOBAL}").read_bytes()[_ATTRIBUTES]
    except (OSError, IndexError):
        return None
