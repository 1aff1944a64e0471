# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

VARIABLES = Path("/sys/firmware/efi/efivars")
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
_DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"  # EFI_IMAGE_SECURITY_DATABASE_GUID
# In this order: with PK, setup mode ends.
_OWNERS = {"db": _DATABASE, "KEK": _GLOBAL, "PK": _GLOBAL}
_ATTRIBUTES = 4  # bytes in front of the value (efivarfs)
# Non-volatile, for boot and run time, authenticated by time (UEFI specification, 8.2).
_AUTHENTICATED = (0x27).to_bytes(_ATTRIBUTES, "little")
# Drivers that firmware has taken from cards (TCG PC Client Platform Firmware Profile, 10.4.1).
_DRIVER = re.compile(r"EventType: EV_EFI_(?:BOOT|RUNTIME)_SERVICES_DRIVER")


def require(variables: Path = VARIABLES) -> None:
    """See that firmware starts nothing but what is signed (UEFI specification, 32.1).

    State that is sealed while it does not would stay closed as soon as it does: PCR 7 differs.

    :param variables: where efivarfs is mounted.
    :raises FleetError: Secure Boot is off, or anybody may change its keys.
    """
    if in_setup_mode(variables):
        remedy = "enrol the product's keys, by hand or by the installer (secure_boot_keys of product_enrolment)"
        raise FleetError("the firmware is in setup mode: it has no platform key", where="SetupMode", remedy=remedy)
    if _value(variables, "SecureBoot") != 1:
        raise FleetError("Secure Boot is off", where="SecureBoot", remedy="switch it on in the firmware's settings")


def in_setup_mode(variables: Path = VARIABLES) -> bool:
    """Whether the firmware takes keys from anybody."""
    return _value(variables, "SetupMode") == 1


def enrol(updates: Mapping[str, bytes], variables: Path = VARIABLES, event_log: Path = EVENT_LOG) -> None:
    """Give firmware in setup mode its keys. They count from the next start on.

    :param updates: authenticated updates (EFI_VARIABLE_AUTHENTICATION_2) of db, KEK and PK.
    :raises FleetError: a card has a driver that these keys would refuse, so that the machine might not show a picture
        or find its disk any more; or the firmware does not take them.
    """
    if drivers := _drivers_of_cards(event_log):
        raise FleetError(
            f"{drivers} drivers of cards (option ROMs) run, and the product's keys would refuse them",
            where=str(event_log),
            remedy="enrol the keys by hand, with those of the drivers' makers in db beside them",
        )
    for name, owner in _OWNERS.items():
        try:
            (variables / f"{name}-{owner}").write_bytes(_AUTHENTICATED + updates[name])
        except OSError as exc:
            raise FleetError(f"the firmware does not take it: {exc.strerror}", where=name) from exc
    if in_setup_mode(variables):
        raise FleetError("the firmware has taken the keys and is still in setup mode", where="SetupMode")


def _drivers_of_cards(event_log: Path) -> int:
    """How many there are.

    :raises FleetError: firmware keeps no log; then nobody knows.
    """
    if not event_log.exists():
        raise FleetError("the firmware keeps no event log, so what its cards start is not known", where=str(event_log))
    return len(_DRIVER.findall(run(["tpm2_eventlog", event_log]).stdout))


def _value(variables: Path, name: str) -> int | None:
    """The one byte that the variable has; none without the variable."""
    try:
        return (variables / f"{name}-{_GLOBAL}").read_bytes()[_ATTRIBUTES]
    except (OSError, IndexError):
        return None
