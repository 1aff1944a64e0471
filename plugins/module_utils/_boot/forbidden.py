# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Programs that firmware is to refuse although their signature is valid: what a release adds to variable ``dbx``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._boot import measurement, signature_list
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import (
    FORBIDDEN_LIST,
    FORBIDDEN_UPDATE,
    UPDATE_SIGNER,
    ProductKeys,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

SETTING = "product_secure_boot_dbx"
SIGNER = UPDATE_SIGNER["db"]
# Each takes 76 bytes, and some firmware has no more than 32 KiB for the variable.
MOST = 256
_DIGEST = re.compile(r"[0-9a-f]{64}")


def check(digests: Sequence[str]) -> None:
    """Refuse what is no list of programs.

    :raises FleetError: naming the entry.
    """
    remedy = "name the SHA-256 that firmware computes of a program: uki.authenticode_sha256 of its release's manifest"
    for digest in digests:
        if not _DIGEST.fullmatch(digest):
            raise FleetError(f"{digest!r} is no SHA-256 in small hexadecimal digits", where=SETTING, remedy=remedy)
    if len(set(digests)) != len(digests):
        raise FleetError("an entry stands there twice", where=SETTING, remedy="name each program once")
    if len(digests) > MOST:
        raise FleetError(f"{len(digests)} entries are too many for firmware", where=SETTING, remedy=f"name {MOST}")


def require(keys: ProductKeys, digests: Sequence[str]) -> None:
    """Refuse to build with an update of ``dbx`` that is not signed, or is another than the one asked for.

    :raises FleetError: with the command that makes it.
    """
    payload = signature_list.digests_list(digests, keys.owner())
    update = keys.directory / FORBIDDEN_UPDATE
    current = signature_list.update_is_current(update, payload, keys.certificate(SIGNER))
    remedy = f"run playbook pki where {SIGNER}.key is, and bring {FORBIDDEN_LIST} and {FORBIDDEN_UPDATE} from there"
    if not current or (keys.directory / FORBIDDEN_LIST).read_bytes() != payload:
        raise FleetError(f"this is not the signed update for {SETTING}", where=str(update), remedy=remedy)


def refuse_own(programs: Iterable[Path], digests: Sequence[str]) -> None:
    """Refuse to forbid what the same release wants started: machines would not start any more.

    :raises FleetError: naming program and entry.
    """
    for program in programs:
        digest = measurement.authenticode(program)
        if digest in digests:
            raise FleetError(
                f"{digest} would forbid {program.name} of this very release",
                where=SETTING,
                remedy="take the entry out; a boot loader can be forbidden when Debian has another one",
            )
