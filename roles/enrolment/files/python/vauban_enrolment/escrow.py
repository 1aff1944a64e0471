# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Whether what a machine gives into escrow can be a recovery key. It is kept as it came; only officers can open it."""

from __future__ import annotations

import base64
import binascii
import re

from vauban_enrolment.documents import EscrowIn, Expectation, Shared

# systemd-cryptenroll(1) makes keys of 256 bits, written with 64 letters and seven dashes.
SHORTEST = 64
_OVERHEAD = 16 + 16  # nonce, and tag of the one chunk of the payload (age-encryption.org/v1)
_ARMOUR = re.compile(
    r"-----BEGIN AGE ENCRYPTED FILE-----\n((?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{1,64}={0,2}\n)"
    r"-----END AGE ENCRYPTED FILE-----\n?"
)
_HEADER = re.compile(
    rb"age-encryption\.org/v1\n((?:-> [\x21-\x7e]+(?: [\x21-\x7e]+)*\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n)+)"
    rb"--- [A-Za-z0-9+/]{43}\n"
)
_STANZA = re.compile(rb"^-> ([\x21-\x7e]+)", re.MULTILINE)


def fault(escrow: EscrowIn, wanted: Expectation) -> str | None:
    """Why it is not taken, if so."""
    if sorted(escrow.recipients) != sorted(wanted.recipients):
        return "is for other recipients than asked for"
    tokens = ["systemd-recovery"] if wanted.machine_class == "no_tpm" else ["systemd-recovery", "systemd-tpm2"]
    if sorted(escrow.tokens) != tokens:
        return f"has tokens other than {' and '.join(tokens)}"
    if len(escrow.key_slots) != len(tokens) or len(set(escrow.key_slots)) != len(tokens):
        return f"has {len(escrow.key_slots)} key slots, and not one for each token"
    if wanted.threshold == 1:
        if escrow.shared is not None:
            return "is shared among officers, and should not be"
        return _ciphertext(escrow.recovery_key, len(wanted.recipients))
    if escrow.shared is None:
        return f"is not shared, and should take {wanted.threshold} officers"
    return _ciphertext(escrow.recovery_key, 1) or _shares(escrow.shared, wanted)


def _shares(shared: Shared, wanted: Expectation) -> str | None:
    """Why they are not one share for each officer, if so."""
    if shared.threshold != wanted.threshold:
        return f"takes {shared.threshold} officers, and not {wanted.threshold}"
    if sorted(each.recipient for each in shared.shares) != sorted(wanted.recipients):
        return "has shares for other recipients than asked for"
    if len({each.sha256 for each in shared.shares}) != len(shared.shares):
        return "has the same share twice"
    faults = (_ciphertext(each.share, 1) for each in shared.shares)
    return next((f"has a share that {fault}" for fault in faults if fault), None)


def _ciphertext(text: str, recipients: int) -> str | None:
    armour = _ARMOUR.fullmatch(text)
    if armour is None:
        return "is not an armoured age file"
    try:
        data = base64.b64decode(armour[1].replace("\n", ""), validate=True)
    except binascii.Error:
        return "is not an armoured age file"
    if fault := unencrypted(data, recipients):
        return fault
    length = len(data) - _end_of_header(data) - _OVERHEAD
    if length < SHORTEST:
        return f"encrypts {max(length, 0)} bytes: that is no recovery key"
    return None


def unencrypted(data: bytes, recipients: int) -> str | None:
    """Why a file that begins so is not encrypted by age to that many recipients, if so."""
    header = _HEADER.match(data)
    if header is None:
        return "has no header of age"
    # Clients may add stanzas that nobody can open, so that others learn to ignore them.
    stanzas = [name for name in _STANZA.findall(header[1]) if not name.endswith(b"-grease")]
    if b"scrypt" in stanzas:
        return "is encrypted with a passphrase"
    if len(stanzas) != recipients:
        return f"is encrypted to {len(stanzas)} recipients, and not to {recipients}"
    return None


def _end_of_header(data: bytes) -> int:
    header = _HEADER.match(data)
    return header.end() if header else len(data)
