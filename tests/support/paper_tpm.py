# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a TPM sends, made by a program: a server cannot tell, and a thousand of them cost nothing.

It has the keys of :class:`_tpm.machine.Tpm` on the curve P-256 (template L-2 of the TCG EK Credential Profile), and
says of its registers what it is told to. Section numbers are of the TPM 2.0 Library, part 1.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from enrolment import text

_SHA256, _ECDSA, _NULL = 0x000B, 0x0018, 0x0010
_EK_ATTRIBUTES, _AK_ATTRIBUTES = 0x000300B2, 0x00050472
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
_AES_128_CFB = struct.pack(">HHH", 0x0006, 128, 0x0043)
_ENDORSEMENT = bytes.fromhex("4000000b")


class PaperTpm:
    """As tests use TPMs of machines (``enrolment.Tpm``)."""

    def __init__(self, certificate: bytes | None = None) -> None:
        self.ek_key, self.ak_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate
        ek = struct.pack(">H", len(_EK_POLICY)) + _EK_POLICY + _AES_128_CFB + struct.pack(">H", _NULL)
        self._ek = _public(_EK_ATTRIBUTES, ek, self.ek_key)
        ak = struct.pack(">HHHH", 0, _NULL, _ECDSA, _SHA256)
        self._ak = _public(_AK_ATTRIBUTES, ak, self.ak_key)

    def public(self) -> dict[str, str | None]:
        certificate = text(self.certificate) if self.certificate else None
        return {"ek_public": text(_sized(self._ek)), "ek_certificate": certificate, "ak_public": text(_sized(self._ak))}

    def activate(self, challenge: Mapping[str, str]) -> bytes:
        """Section 24, and annex C.6.4 for the seed."""
        blob, secret = (base64.b64decode(challenge[name]) for name in ("credential_blob", "secret"))
        x, y = (int.from_bytes(part, "big") for part in _parts(_parts(secret)[0]))
        ephemeral = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        shared = self.ek_key.exchange(ec.ECDH(), ephemeral)
        other, own = x.to_bytes(32, "big"), _point(self.ek_key)[0]
        seed = hashlib.sha256(struct.pack(">I", 1) + shared + b"IDENTITY\0" + other + own).digest()
        label = struct.pack(">I", 1) + b"STORAGE\0" + _name(self._ak) + struct.pack(">I", 128)
        key = hmac.digest(seed, label, "sha256")[:16]
        encrypted = blob[2 + 2 + 32 :]  # behind the sizes of blob and HMAC, and the HMAC
        return _parts(_decrypt(key, encrypted))[0]

    def quote(self, nonce: str, pcrs: Mapping[str, str]) -> dict[str, Any]:
        """TPMS_ATTEST, signed."""
        numbers = sorted(int(number) for number in pcrs)
        selected = sum(1 << number for number in numbers).to_bytes(3, "little")
        digest = hashlib.sha256(b"".join(bytes.fromhex(pcrs[str(number)]) for number in numbers)).digest()
        signer = struct.pack(">H", _SHA256) + hashlib.sha256(_ENDORSEMENT + _name(self._ak)).digest()
        attest = bytes.fromhex("ff5443478018") + _sized(signer) + _sized(base64.b64decode(nonce))
        attest += struct.pack(">QIIBQ", 60_000, 1, 0, 1, 1)
        attest += struct.pack(">IHB", 1, _SHA256, len(selected)) + selected + _sized(digest)
        found = decode_dss_signature(self.ak_key.sign(attest, ec.ECDSA(hashes.SHA256())))
        signature = struct.pack(">HH", _ECDSA, _SHA256)
        signature += b"".join(_sized(number.to_bytes(32, "big")) for number in found)
        return {"quote": text(attest), "signature": text(signature), "pcrs": dict(pcrs)}


def _decrypt(key: bytes, data: bytes) -> bytes:
    """AES in mode CFB, which the library is about to give up."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    pad, start = b"", bytes(16)
    for offset in range(0, len(data), 16):
        pad += block.update(start)
        start = data[offset : offset + 16]
    return bytes(a ^ b for a, b in zip(data, pad, strict=False))


def _public(attributes: int, middle: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """TPMT_PUBLIC."""
    head = struct.pack(">HHI", 0x0023, _SHA256, attributes)
    return head + middle + struct.pack(">HH", 0x0003, _NULL) + b"".join(_sized(part) for part in _point(key))


def _point(key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")


def _name(public: bytes) -> bytes:
    return struct.pack(">H", _SHA256) + hashlib.sha256(public).digest()


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _parts(data: bytes) -> list[bytes]:
    found = []
    while data:
        (size,) = struct.unpack_from(">H", data)
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found
