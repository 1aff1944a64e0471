# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What binds a recipient of age to a TPM and to the installer that runs: see ``roles/enrolment/README.md``."""

from __future__ import annotations

import hashlib

# What the service has a TPM sign has NONCE_SIZE bytes, so it can never pass as what is signed for a recipient. A TPM
# takes two bytes more than its longest digest (TPM 2.0 Library part 2, 10.4.3); some know no longer one than SHA-256.
NONCE_SIZE = 32  # bytes
_PURPOSE = bytes.fromhex("0001")
_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_IDENTITY = "age-secret-key-"


def qualifying_data(recipient: str) -> bytes:
    """What a quote has to sign for a recipient."""
    return _PURPOSE + hashlib.sha256(recipient.encode()).digest()


def identity_of(secret: bytes) -> str:
    """The identity of age (X25519) with this secret (age-encryption.org/v1, "The X25519 recipient type").

    :param secret: 32 random bytes.
    """
    bits = "".join(f"{byte:08b}" for byte in secret)
    bits += "0" * (-len(bits) % 5)
    values = [int(bits[start : start + 5], 2) for start in range(0, len(bits), 5)]
    return f"{_IDENTITY}1{''.join(_LETTERS[value] for value in [*values, *_checksum(values)])}".upper()


def _checksum(values: list[int]) -> list[int]:
    """As BIP 173 has it."""
    prefix = [ord(letter) for letter in _IDENTITY]
    state = 1
    for value in [*(each >> 5 for each in prefix), 0, *(each & 31 for each in prefix), *values, *[0] * 6]:
        top, state = state >> 25, (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            state ^= generator if top >> bit & 1 else 0
    return [(state ^ 1) >> 5 * (5 - place) & 31 for place in range(6)]
