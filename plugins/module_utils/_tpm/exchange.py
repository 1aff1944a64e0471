# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EK:
    """The endorsement key that makes a TPM this TPM and no other.

    :param public: TPM2B_PUBLIC.
    :param certificate: X.509 (DER) of the TPM's manufacturer, if the TPM has one.
    """

    public: bytes
    certificate: bytes | None


@dataclass(frozen=True)
class Challenge:
    """What only the TPM of one endorsement key answers, and only for one attestation key.

    :param credential: the answer. It stays at the server until the machine sends it.
    :param credential_blob: TPM2B_ID_OBJECT.
    :param secret: TPM2B_ENCRYPTED_SECRET.
    """

    credential: bytes = field(repr=False)
    credential_blob: bytes
    secret: bytes


@dataclass(frozen=True)
class Quote:
    """What a TPM says about its registers (PCRs), SHA-256 bank.

    :param attest: TPMS_ATTEST.
    :param signature: TPMT_SIGNATURE by the attestation key.
    :param pcrs: the values that the digest in ``attest`` was made of, hexadecimal.
    """

    attest: bytes
    signature: bytes
    pcrs: Mapping[int, str]


@dataclass(frozen=True)
class TpmModel:
    """What the manufacturer says about a TPM.

    :param manufacturer: as the TCG registers it, for example ``id:49465800`` (Infineon).
    """

    manufacturer: str
    model: str
    version: str


@dataclass(frozen=True)
class Endorsement:
    """Which TPM a machine says it has. That it really has it is proven by answering a challenge.

    :param sha256: of the endorsement key as SubjectPublicKeyInfo (DER), hexadecimal: what a site lists.
    :param model: what the manufacturer certifies; none without a certificate.
    """

    sha256: str
    model: TpmModel | None


@dataclass(frozen=True)
class Quoted:
    """What a good quote says.

    :param pcrs: the registers, SHA-256 bank, hexadecimal.
    :param resets: how often the TPM has been started afresh, as at each boot of the machine; only grows.
    :param restarts: how often it was started with its saved state since, as after suspension; a reset makes it 0.
    :param clock: milliseconds that the TPM has run; grows, but may jump back a little if not ``clock_safe``.
    :param firmware: version of the TPM's firmware.
    """

    pcrs: Mapping[int, str]
    resets: int
    restarts: int
    clock: int
    clock_safe: bool
    firmware: int
