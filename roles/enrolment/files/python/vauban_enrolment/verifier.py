# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the service asks of the code that knows TPMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509


class Unable(Exception):
    """The server cannot judge now, as when it has no memory or processes left. That says nothing about the machine."""


class Endorsement(Protocol):
    """What is known of a TPM."""

    @property
    def sha256(self) -> str:
        """Of the EK as SubjectPublicKeyInfo (DER), hexadecimal: what a site lists."""


class Challenge(Protocol):
    """What only the TPM that holds the EK and the AK can answer."""

    @property
    def credential(self) -> bytes:
        """The answer."""

    @property
    def credential_blob(self) -> bytes:
        """TPM2B_ID_OBJECT."""

    @property
    def secret(self) -> bytes:
        """TPM2B_ENCRYPTED_SECRET."""


@dataclass(frozen=True)
class Quote:
    """What a TPM says of its registers."""

    attest: bytes  # TPMS_ATTEST
    signature: bytes  # TPMT_SIGNATURE
    pcrs: Mapping[int, str]  # hexadecimal, of the SHA-256 bank


class Verifier(Protocol):
    """Judges what a TPM says. Everything it is given comes from a stranger.

    Each method raises ``FleetError`` if what it is given is not good, and :class:`Unable` if it cannot say.
    """

    def check_ek(
        self, public: bytes, certificate: bytes | None, authorities: Sequence[x509.Certificate]
    ) -> Endorsement:
        """An endorsement key: a restricted decryption key in its one encoding, and the certificate's if there is one.

        :param certificate: with one, the authorities have to vouch for it.
        """

    def check_ak(self, public: bytes) -> object:
        """An attestation key: restricted, signs, fixed to its TPM, made inside it."""

    def name_of(self, public: bytes) -> bytes:
        """The name of a key (TPM2B_NAME without its size)."""

    def make_challenge(self, ek_public: bytes, ak_name: bytes) -> Challenge:
        """A new credential for this EK and AK."""

    def check_quote(self, ak_public: bytes, quote: Quote, nonce: bytes, expected: Mapping[int, str]) -> object:
        """A quote by this AK, of this nonce, of exactly these registers with these values."""
