# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Judges a machine that asks for a recovery key, without believing the service: for the controller, inside the SDK.

Reads JSON from standard input and writes JSON: ``fault``, or a secret that only this TPM can release.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import qualifying_data
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import Quote
from vauban_enrolment import verification


def judge(asked: Mapping[str, Any]) -> dict[str, str]:
    """Whether the recipient was made by the installer on the machine with this EK.

    The quote says that our installer runs and that it has made the recipient; what the attestation key says is worth
    something because only the TPM that has it, and has the EK, can release the secret.

    :param asked: ``ek_public``, ``ak_public``, ``quote``, ``signature`` (base64), ``pcrs`` and ``recipient`` of the
        machine; ``ek_sha256``, the EK that the site lists, and ``expected``, the registers of the release.
    :returns: ``credential``, which is the secret, and ``credential_blob`` and ``secret``, which hold it for the TPM.
    :raises FleetError: says which check failed.
    """
    ek, ak, attest, signature = (
        base64.b64decode(asked[name]) for name in ("ek_public", "ak_public", "quote", "signature")
    )
    found = verification.check_ek(ek, None, ())
    if found.sha256 != asked["ek_sha256"]:
        raise FleetError(f"it is {found.sha256}, and the site lists {asked['ek_sha256']}", where="endorsement key")
    verification.check_ak(ak)
    quote = Quote(attest, signature, {int(number): value for number, value in asked["pcrs"].items()})
    expected: dict[int, str | None] = {int(number): value for number, value in asked["expected"].items()}
    verification.check_quote(ak, quote, qualifying_data(asked["recipient"]), expected)
    made = verification.make_challenge(ek, verification.name_of(ak))
    parts = {"credential": made.credential, "credential_blob": made.credential_blob, "secret": made.secret}
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}


def main() -> None:
    """One question, one answer."""
    try:
        answer = judge(json.load(sys.stdin))
    except FleetError as exc:
        answer = {"fault": f"{exc.where}: {exc.message}" if exc.where else exc.message}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
