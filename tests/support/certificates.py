# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and revocation lists, good and bad ones."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Digest = hashes.SHA256 | hashes.SHA384
BRAINPOOL = ec.BrainpoolP256R1()
P256 = ec.SECP256R1()
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
_SERIALS = count(1000)


def ec_key(curve: ec.EllipticCurve = BRAINPOOL) -> ec.EllipticCurvePrivateKey:
    """A new key on a curve."""
    return ec.generate_private_key(curve)


def rsa_key() -> rsa.RSAPrivateKey:
    """A new RSA key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=3072)


def pem(key: Key) -> bytes:
    """A private key as a file."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Authority(Certificate):
    """One that signs others."""

    @classmethod
    def root(cls, name: str, key: Key | None = None, digest: Digest | None = None) -> Authority:
        """One that signs itself."""
        key = key or ec_key()
        return cls(_sign(_name(name), key, _name(name), key, digest, _authority()), key)

    def issuing(self, name: str, key: Key | None = None, digest: Digest | None = None) -> Authority:
        """An authority below this one."""
        key = key or ec_key()
        return Authority(_sign(_name(name), key, self.certificate.subject, self.key, digest, _authority()), key)

    def issue(
        self,
        identity: str,
        key: Key | None = None,
        digest: Digest | None = None,
        *,
        authority: bool = False,
        also: Sequence[str] = (),
        valid: tuple[datetime.datetime, datetime.datetime] = (NOW - DAY, NOW + 30 * DAY),
        usage: x509.ExtendedKeyUsage | None = None,
    ) -> Certificate:
        """A certificate for a host.

        :param also: identities beside the first.
        :param usage: what it is for; anything, unless said.
        """
        key = key or ec_key()
        extensions: list[Extension] = _authority() if authority else [(x509.BasicConstraints(False, None), True)]
        extensions.append((x509.SubjectAlternativeName([x509.DNSName(name) for name in (identity, *also)]), False))
        if usage is not None:
            extensions.append((usage, False))
        issuer = self.certificate.subject
        return Certificate(_sign(_name(identity), key, issuer, self.key, digest, extensions, valid), key)

    def revocations(self, *revoked: Certificate, until: datetime.datetime = NOW + 7 * DAY) -> bytes:
        """A revocation list that names these."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(until - 8 * DAY).next_update(until)
        builder = builder.add_extension(x509.CRLNumber(next(_SERIALS)), critical=False)
        builder = builder.add_extension(_authority_key(self.key), critical=False)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(NOW - DAY).build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


Extension = tuple[x509.ExtensionType, bool]


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _authority() -> list[Extension]:
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return [(x509.BasicConstraints(True, None), True), (usage, True)]


def _authority_key(key: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _sign(
    subject: x509.Name,
    key: Key,
    issuer: x509.Name,
    issuer_key: Key,
    digest: Digest | None,
    extensions: list[Extension],
    valid: tuple[datetime.datetime, datetime.datetime] = (NOW - DAY, NOW + 30 * DAY),
) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(next(_SERIALS)).not_valid_before(valid[0]).not_valid_after(valid[1])
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    builder = builder.add_extension(_authority_key(issuer_key), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, digest or hashes.SHA256())
