# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""A recovery key that several officers open together, and fewer cannot: Shamir's secret sharing, by PyCryptodome.

It is encrypted to an identity of age that nobody has: each officer has a share of that. So age says whether what shares
give is the identity, which the sharing itself cannot.

As a program, in the SDK: reads shares as JSON from standard input, and writes ``fault`` or the recovery key as JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import identity_of

FORMAT = 1
SECRETS = "/run"  # a tmpfs
_HALF = 16  # bytes that one sharing has room for; an identity has two


@dataclass(frozen=True)
class Brought:
    """A share that an officer has brought.

    :param where: by which people know it: a file.
    """

    where: str
    text: str


def share(key: bytes, recipients: Sequence[str], threshold: int) -> dict[str, Any]:
    """Encrypt a recovery key so that the holders of any ``threshold`` of the recipients open it, and fewer do not.

    :param recipients: of age; one share each, encrypted to it alone.
    :returns: ``recovery_key``, encrypted to an identity that is forgotten here, and ``shared``: ``set``, which names
        this sharing, ``threshold``, and ``shares``, each with ``recipient``, ``share`` (encrypted) and ``sha256`` (of
        the share itself, which is as random as the secret).
    :raises FleetError: what was shared cannot be joined again.
    """
    secret, name = secrets.token_bytes(2 * _HALF), secrets.token_hex(16)
    texts = [
        json.dumps(
            {
                "format": FORMAT,
                "set": name,
                "number": number,
                "threshold": threshold,
                "of": len(recipients),
                "share": value.hex(),
            }
        )
        for number, value in enumerate(_split(secret, threshold, len(recipients)), 1)
    ]
    shares = [
        {"recipient": recipient, "sha256": _digest(text), "share": encrypt(text.encode(), [recipient])}
        for recipient, text in zip(recipients, texts, strict=True)
    ]
    shared = {
        "recovery_key": _under(secret, ["age", "--encrypt", "--armor"], key).decode(),
        "shared": {"set": name, "threshold": threshold, "shares": shares},
    }
    for some in (texts[:threshold], texts[-threshold:]):
        if join(shared, [Brought("share", text) for text in some]) != key:
            raise FleetError("what the shares of the recovery key give is not the recovery key")
    return shared


def encrypt(secret: bytes, recipients: Sequence[str]) -> str:
    """Encrypt to recipients of age, each of whom opens it alone.

    :returns: armoured.
    """
    options = [word for recipient in recipients for word in ("--recipient", recipient)]
    text = run(["age", "--encrypt", "--armor", *options], stdin=secret).stdout
    if "BEGIN AGE ENCRYPTED FILE" not in text:
        raise FleetError("age gave no encrypted recovery key")
    return text


def join(escrow: Mapping[str, Any], brought: Sequence[Brought]) -> bytes:
    """The recovery key, of officers who are enough.

    :param escrow: as :func:`share` gives it.
    :raises FleetError: names the share that is not one of this recovery key, or says who is missing.
    """
    shared = escrow["shared"]
    known = {each["sha256"]: each["recipient"] for each in shared["shares"]}
    good: dict[int, bytes] = {}
    here: set[str] = set()
    for each in brought:
        number, value = _read(each, shared["set"], known)
        good[number] = value
        here.add(known[_digest(each.text)])
    if len(good) < shared["threshold"]:
        absent = [recipient for recipient in known.values() if recipient not in here]
        raise FleetError(
            f"it takes {shared['threshold']} of {len(known)} officers, and here are shares of {len(good)}",
            where="shares",
            remedy=f"bring shares of others: {', '.join(absent)}",
        )
    secret = _combine(list(good.items())[: shared["threshold"]])
    try:
        return _under(secret, ["age", "--decrypt"], escrow["recovery_key"].encode())
    except CommandError:
        said = ", ".join(each.where for each in brought)
        raise FleetError("these shares do not open the recovery key, which may have been changed", where=said) from None


def _read(brought: Brought, name: str, known: Mapping[str, str]) -> tuple[int, bytes]:
    try:
        given = json.loads(brought.text)
        if given["format"] != FORMAT:
            raise ValueError
        number, value, of = int(given["number"]), bytes.fromhex(given["share"]), str(given["set"])
    except (KeyError, TypeError, ValueError, RecursionError):
        remedy = "bring what age has decrypted, as it is"
        raise FleetError("is no share of a recovery key", where=brought.where, remedy=remedy) from None
    if of != name:
        remedy = "an older one of the same host, maybe, or another host's: bring the share of this one"
        raise FleetError("is a share of another recovery key", where=brought.where, remedy=remedy)
    if _digest(brought.text) not in known:
        remedy = "decrypt it once more from what the officer was sent"
        raise FleetError("has been changed since the machine made it", where=brought.where, remedy=remedy)
    return number, value


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().encode()).hexdigest()


def _under(secret: bytes, command: Sequence[str], text: bytes) -> bytes:
    """Have age work with the identity that has this secret."""
    with tempfile.TemporaryDirectory(prefix="shared-", dir=SECRETS) as name:
        identity = Path(name) / "identity"
        identity.touch(mode=0o600)
        identity.write_text(f"{identity_of(secret)}\n")
        return run([*command, "--identity", identity], stdin=text).stdout_bytes


def _split(secret: bytes, threshold: int, number: int) -> list[bytes]:
    """In the order of the shares' numbers, which begin with 1."""
    from Cryptodome.Protocol.SecretSharing import Shamir

    halves = (Shamir.split(threshold, number, half) for half in (secret[:_HALF], secret[_HALF:]))
    return [first + second for (_one, first), (_same, second) in zip(*halves, strict=True)]


def _combine(shares: Sequence[tuple[int, bytes]]) -> bytes:
    from Cryptodome.Protocol.SecretSharing import Shamir

    halves = ([(number, value[part]) for number, value in shares] for part in (slice(_HALF), slice(_HALF, None)))
    return b"".join(Shamir.combine(half) for half in halves)


def main() -> None:
    """One question, one answer."""
    asked = json.load(sys.stdin)
    try:
        key = join(asked["escrow"], [Brought(**each) for each in asked["brought"]])
    except FleetError as exc:
        json.dump({"fault": exc.as_failure()}, sys.stdout)
    else:
        json.dump({"recovery_key": base64.b64encode(key).decode()}, sys.stdout)


if __name__ == "__main__":
    main()
