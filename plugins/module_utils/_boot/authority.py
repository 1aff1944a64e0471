# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The root of a product: issues the certificates of the keys that sign, and says which of them count no more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import (
    CRYPTOGRAPHY_ERROR,
    Certificate,
    key_usage,
    subject_of,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._signatures import PURPOSES

if TYPE_CHECKING:  # without cryptography there is none
    from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import PrivateKey

if CRYPTOGRAPHY_ERROR is None:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    _USAGES = {"codesign": ExtendedKeyUsageOID.CODE_SIGNING, "smimesign": ExtendedKeyUsageOID.EMAIL_PROTECTION}


@dataclass(frozen=True)
class RevocationList:
    """What the root says of certificates that it has issued.

    :param number: of the list (RFC 5280, 5.2.3); a machine never believes a lower one again.
    :param serials: serial numbers of the certificates that count no more, and since when (aware).
    """

    number: int
    serials: Mapping[int, dt.datetime]


def root_certificate(key: PrivateKey, product: str, *, development: bool, days: int, now: dt.datetime) -> bytes:
    """A self-signed certificate (PEM) that may issue certificates, but no other authorities (RFC 5280, 4.2.1.9)."""
    subject = subject_of("root", product, development=development)
    builder = _builder(subject, subject, key.public_key(), now, days)
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def issue(
    public_key: bytes, name: str, root: Certificate, root_key: PrivateKey, product: str, *, days: int, now: dt.datetime
) -> bytes:
    """The certificate (PEM) of a key below the root.

    :param public_key: DER SubjectPublicKeyInfo.
    :param name: of the key; it becomes the common name, which is what machines compare.
    :param days: validity from ``now``; it ends with the root at the latest.
    """
    issuer = x509.load_der_x509_certificate(root.der)
    key = serialization.load_der_public_key(public_key)
    subject = subject_of(name, product, development=root.development)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return (
        _builder(subject, issuer.subject, key, now, days, until=root.not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[PURPOSES[name]]]), critical=True)
        .add_extension(authority, critical=False)
        .sign(root_key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: object, now: dt.datetime, days: int, until: dt.datetime | None = None
) -> x509.CertificateBuilder:
    start = now.replace(microsecond=0)
    end = start + dt.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(end, until) if until is not None else end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)  # type: ignore[arg-type]
    )


def is_issued(certificate: Certificate, root: Certificate) -> bool:
    """Whether this root has issued it."""
    issuer = x509.load_der_x509_certificate(root.der)
    try:
        x509.load_der_x509_certificate(certificate.der).verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def serial_of(certificate: Certificate) -> int:
    """The serial number."""
    return x509.load_der_x509_certificate(certificate.der).serial_number


def revocation_list(
    root: Certificate, root_key: PrivateKey, serials: Mapping[int, dt.datetime], number: int, *, now: dt.datetime
) -> bytes:
    """A list (PEM, RFC 5280, 5) that counts until the root ends: who has the root offline signs no list each week.

    That nobody keeps machines from the newest one is the channel's part, which names its number and expires.
    """
    issuer = x509.load_der_x509_certificate(root.der)
    start = now.replace(microsecond=0)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(start)
        .next_update(root.not_after)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    for serial, since in sorted(serials.items()):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def is_listed_by(path: Path, root: Certificate) -> bool:
    """Whether this root has signed a list.

    :raises FleetError: missing, or no list.
    """
    key = x509.load_der_x509_certificate(root.der).public_key()
    return _parse(path)[0].is_signature_valid(key)  # type: ignore[arg-type]


def number_of(path: Path) -> int:
    """The number of a list, whoever has signed it: that of another root goes on from there.

    :raises FleetError: missing, or no list.
    """
    return _parse(path)[1]


def _parse(path: Path) -> tuple[x509.CertificateRevocationList, int]:
    try:
        parsed = x509.load_pem_x509_crl(path.read_bytes())
        return parsed, parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except FileNotFoundError as exc:
        remedy = "run playbook pki where root.key is, and bring root.crt and root.crl from there"
        raise FleetError("the list of revoked certificates is not there", where=str(path), remedy=remedy) from exc
    except (ValueError, x509.ExtensionNotFound) as exc:
        raise FleetError("this is no list of revoked certificates in PEM", where=str(path)) from exc


def read_list(path: Path, root: Certificate) -> RevocationList:
    """Read the list of a root.

    :raises FleetError: missing, no list, or not signed by this root.
    """
    parsed, number = _parse(path)
    if not is_listed_by(path, root):
        raise FleetError(
            f"this list of revoked certificates is not signed by {root.path}",
            where=str(path),
            remedy="bring root.crt and root.crl from the directory that has root.key",
        )
    return RevocationList(number, {each.serial_number: each.revocation_date_utc for each in parsed})


def request(key: PrivateKey, name: str, product: str, *, development: bool) -> bytes:
    """A request (PEM, PKCS #10) for the certificate of a key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_of(name, product, development=development))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested(path: Path) -> bytes:
    """The public key (DER SubjectPublicKeyInfo) that a request is for; nothing else of it counts.

    :raises FleetError: no request, or not signed with the key's private half.
    """
    try:
        parsed = x509.load_pem_x509_csr(path.read_bytes())
        whole = parsed.is_signature_valid
    except ValueError:
        whole = False
    if not whole:
        raise FleetError("this is no request for a certificate (PKCS #10, PEM)", where=str(path))
    return parsed.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
