# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The key ``pcr`` of each security epoch. A TPM that has moved on to that of a new one opens nothing for older UKIs.

The directory holds the key of the epoch that counts as ``pcr`` and those before as ``pcr_epoch_N``. UKIs carry a
signature by each, so that machines which have not moved on yet still open their state volume, and can.
"""

from __future__ import annotations

import os
import re

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_bytes
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import (
    generate_key,
    private_pem,
    public_pem,
    read_certificate,
)
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import RSA_BITS, KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

KEY = "pcr"
_BEFORE = re.compile(r"pcr_epoch_([1-9][0-9]*)\.crt")


def recorded(keys: ProductKeys) -> int | None:
    """The security epoch that key ``pcr`` belongs to; None if there are no keys yet."""
    if keys.marker.exists():
        return int(keys.read_marker().get("security_epoch", 1))
    return len(before(keys)) + 1 if keys.public(KEY).exists() else None


def before(keys: ProductKeys) -> tuple[str, ...]:
    """Names of the keys of epochs before, the newest first."""
    found = [_BEFORE.fullmatch(path.name) for path in keys.directory.glob("pcr_epoch_*.crt")]
    numbers = sorted((int(match[1]) for match in found if match), reverse=True)
    return tuple(f"{KEY}_epoch_{number}" for number in numbers)


def require(keys: ProductKeys, epoch: int) -> None:
    """Refuse to sign for another epoch than that of the keys.

    :raises FleetError: with the command that makes the key.
    """
    found = recorded(keys)
    if found != epoch:
        raise FleetError(
            f"the keys are of security epoch {found}, the product wants {epoch}",
            where=f"{keys.marker}: security_epoch",
            remedy="run playbook pki, which makes the key of a new epoch; an epoch never becomes lower",
        )


def plan(keys: ProductKeys, request: KeyRequest) -> tuple[str, ...]:
    """What :func:`move` would write.

    :raises FleetError: the epoch would become lower, or a key that is held elsewhere has not been replaced there.
    """
    found = recorded(keys)
    if found is None or found == request.security_epoch:
        return ()
    if request.security_epoch < found:
        raise FleetError(
            f"the keys are of security epoch {found}, and {request.security_epoch} is lower",
            where=f"{keys.marker}: security_epoch",
            remedy=f"set product_security_epoch to {found} or more",
        )
    name = f"{KEY}_epoch_{found}"
    if KEY in request.held_elsewhere:
        _check_replaced(keys, name)
        return ()
    return (f"{name}.key", f"{name}.crt", f"{name}.pub", "pcr.key", "pcr.crt", "pcr.pub")


def move(keys: ProductKeys, request: KeyRequest) -> None:
    """Put key ``pcr`` aside under the name of its epoch and make a new one, whose certificate is then missing.

    Can be interrupted anywhere and run again: no key is lost, and none is made twice.
    """
    if not plan(keys, request):
        return
    aside = f"{KEY}_epoch_{recorded(keys)}"
    if not keys.private(aside).exists():
        os.link(keys.private(KEY), keys.private(aside))
    if not keys.public(aside).exists():
        write_bytes(keys.public(aside), keys.public(KEY).read_bytes())
    write_bytes(keys.directory / f"{aside}.pub", public_pem(keys.certificate(aside)))
    keys.public(KEY).unlink(missing_ok=True)
    if keys.private(KEY).samefile(keys.private(aside)):
        write_bytes(keys.private(KEY), private_pem(generate_key("rsa", RSA_BITS)), mode=0o600)


def _check_replaced(keys: ProductKeys, aside: str) -> None:
    known = keys.read_marker()["certificates"][KEY]["sha256"]
    path = keys.public(aside)
    if not path.exists() or read_certificate(path).fingerprint != known or keys.certificate(KEY).fingerprint == known:
        raise FleetError(
            f"key {KEY} is held elsewhere, so the key of a new security epoch has to be made there",
            where=str(path),
            remedy=f"keep the present {KEY}.crt as {path.name}, bring the certificate of the new key as {KEY}.crt",
        )
