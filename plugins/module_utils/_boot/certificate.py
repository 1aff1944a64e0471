# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import datetime as dt
import hashlib
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

# The module that needs keys reports a missing library (missing_required_lib); importing must work without it.
CRYPTOGRAPHY_ERROR: str | None = None
try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    CRYPTOGRAPHY_ERROR = traceback.format_exc()
else:
    PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

# In the subject, so that the mark goes wherever the certificate goes: into firmware, a UKI, a signature.
DEVELOPMENT_UNIT = "DEVELOPMENT - NOT FOR PRODUCTION"

Algorithm = Literal["rsa", "p256"]


@dataclass(frozen=True)
class Certificate:
    """What a certificate file says. Times are aware and in UTC."""

    path: Path
    subject: str
    development: bool
    fingerprint: str
    not_before: dt.datetime
    not_after: dt.datetime
    der: bytes
    public_key: bytes

    def days_left(self, now: dt.datetime) -> int:
        """Whole days until the certificate expires; negative afterwards."""
        return (self.not_after - now).days


def generate_key(algorithm: Algorithm, bits: int) -> PrivateKey:
    """A new private key; ``bits`` counts for RSA only."""
    if algorithm == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def private_pem(key: PrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_private_key(path: Path) -> PrivateKey:
    """Read an unencrypted PEM key.

    :raises FleetError: unreadable, encrypted, or neither RSA nor an elliptic curve.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as exc:
        raise FleetError("this is no unencrypted private key in PEM", where=str(path)) from exc
    if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        raise FleetError("neither an RSA nor an elliptic curve key", where=str(path))
    return key


def public_der(key: PrivateKey) -> bytes:
    """The public half as DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_pem(certificate: Certificate) -> bytes:
    """The public key of a certificate in PEM."""
    return serialization.load_der_public_key(certificate.public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def subject_of(common_name: str, organization: str | None, *, development: bool) -> x509.Name:
    """The subject of a certificate, with the mark of development if it is for that."""
    names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    names += [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    names += [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, DEVELOPMENT_UNIT)] if development else []
    return x509.Name(names)


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    """What a key may do, and nothing else (RFC 5280, 4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def self_signed(key: PrivateKey, common_name: str, *, development: bool, days: int, now: dt.datetime) -> bytes:
    """A self-signed certificate (PEM) that may sign code and nothing else: no CA, RFC 5280 section 4.2.1.

    :param days: validity from ``now``, which is cut to whole seconds.
    """
    subject = subject_of(common_name, None, development=development)
    start = now.replace(microsecond=0)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def read_certificate(path: Path) -> Certificate:
    """Read one PEM certificate.

    :raises FleetError: missing or no certificate.
    """
    try:
        parsed = x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError as exc:
        raise FleetError("the certificate is not there", where=str(path)) from exc
    except ValueError as exc:
        raise FleetError("this is no certificate in PEM", where=str(path)) from exc
    units = [str(unit.value) for unit in parsed.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    der = parsed.public_bytes(serialization.Encoding.DER)
    return Certificate(
        path=path,
        subject=parsed.subject.rfc4514_string(),
        development=DEVELOPMENT_UNIT in units,
        fingerprint=hashlib.sha256(der).hexdigest(),
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        der=der,
        public_key=parsed.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
