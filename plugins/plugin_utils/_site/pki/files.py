# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Where the public part of a site's PKI lies, and what is in it.

Below the directory that ``pki.directory`` names: ``ca/root.pem`` and ``ca/issuing.pem``, ``crl/NAME.crl`` of both,
``hosts/HOST.pem`` and ``nts/HOST.pem``; ``https/NAME.pem`` of web servers; and what is no longer in use, by host (or
``issuing_authority``) and serial number: ``replaced/HOST.SERIAL.pem`` and ``revoked/HOST.SERIAL.pem``. Keys
are elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:  # certificates.CRYPTOGRAPHY_ERROR says so
    pass

ROOT, ISSUING = "root", "issuing"
AUTHORITIES, HOSTS, NTS = "ca", "hosts", "nts"
SERVERS = "https"  # of web servers, by name, whether they are hosts or not
LISTS, REPLACED, REVOKED = "crl", "replaced", "revoked"


def authority_path(directory: Path, name: str) -> Path:
    """The certificate of an authority."""
    return directory / AUTHORITIES / f"{name}.pem"


def list_path(directory: Path, name: str) -> Path:
    """The revocation list of an authority."""
    return directory / LISTS / f"{name}.crl"


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate that has to be one.

    :raises FleetError: it is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        remedy = "bring back what was there, or remove it"
        raise FleetError("is no certificate", where=str(path), remedy=remedy) from None


def authorities(directory: Path) -> dict[str, x509.Certificate | None]:
    """The certificates of the two authorities, by name; None for one that is not there.

    :raises FleetError: a file is no certificate.
    """
    paths = {name: authority_path(directory, name) for name in (ROOT, ISSUING)}
    return {name: read_certificate(path) if path.exists() else None for name, path in paths.items()}


def read_list(path: Path, authority: x509.Certificate) -> x509.CertificateRevocationList | None:
    """A list, if it is there and this authority has signed it."""
    try:
        revocations = x509.load_pem_x509_crl(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    key = authority.public_key()
    mine = revocations.issuer == authority.subject and isinstance(key, ec.EllipticCurvePublicKey)
    return revocations if mine and revocations.is_signature_valid(key) else None  # type: ignore[arg-type]


def unlisted(
    directory: Path, authority: x509.Certificate, revocations: x509.CertificateRevocationList | None
) -> list[Path]:
    """The revoked certificates of an authority that its list does not name: a run was interrupted.

    By signature, since an issuing authority that takes the place of a revoked one has the same name.
    """
    listed = {entry.serial_number for entry in revocations} if revocations is not None else set()
    return [
        path
        for path in sorted((directory / REVOKED).glob("*.pem"))
        if (certificate := read_certificate(path)).serial_number not in listed and is_signed_by(certificate, authority)
    ]


def revoked_serials(directory: Path) -> frozenset[int]:
    """Serial numbers of all that is revoked, or was about to be when a run was interrupted."""
    found = {read_certificate(path).serial_number for path in (directory / REVOKED).glob("*.pem")}
    for name, certificate in authorities(directory).items():
        revocations = None if certificate is None else read_list(list_path(directory, name), certificate)
        found |= {entry.serial_number for entry in revocations or ()}
    return frozenset(found)


def kept_name(path: Path, serial: int) -> str:
    """The name of a certificate once it is no longer in use. That of an authority is no name of a host."""
    owner = f"{path.stem}_authority" if path.parent.name == AUTHORITIES else path.name.partition(".")[0]
    return f"{owner}.{serial:x}.pem"


def issuing_certificates(directory: Path) -> list[Path]:
    """All certificates of the issuing authority that are not revoked: those before a renewal are of the same key."""
    current = authority_path(directory, ISSUING)
    before = sorted((directory / REPLACED).glob(f"{ISSUING}_authority.*.pem"))
    revoked = revoked_serials(directory)
    found = [current, *before] if current.exists() else before
    return [path for path in found if read_certificate(path).serial_number not in revoked]


def held_by(directory: Path, host: str) -> list[Path]:
    """All certificates that a host was ever given and that are not revoked."""
    current = [path for purpose in (HOSTS, NTS) if (path := directory / purpose / f"{host}.pem").exists()]
    return [*current, *sorted((directory / REPLACED).glob(f"{host}.*.pem"))]


def fingerprint(key: Any) -> str:
    """SHA-256 of a public key, as community.crypto writes it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, form))
    return digest.finalize().hex(":")


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether it says so, and its signature is right."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
