# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Revocation lists as RFC 5280 wants them: with a number, and with the identifier of the authority's key.

``community.crypto.x509_crl`` writes neither, and strongSwan looks lists up by that identifier.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import files

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:  # certificates.CRYPTOGRAPHY_ERROR says so
    pass


def renewed(authority: x509.Certificate, directory: Path, name: str) -> tuple[list[int], list[int]]:
    """Serial numbers that the list of an authority has, and those that it has to have."""
    current = files.read_list(files.list_path(directory, name), authority)
    before = sorted(entry.serial_number for entry in current or ())
    added = (files.read_certificate(path).serial_number for path in files.unlisted(directory, authority, current))
    return before, sorted({*before, *added})


def signed(
    authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, directory: Path, name: str, *, days: int
) -> bytes:
    """A new list (PEM), which names all that the last one named, and of what lies in ``revoked`` what is its own.

    :param days: how long it counts from now on.
    """
    current = files.read_list(files.list_path(directory, name), authority)
    now = datetime.now(UTC).replace(microsecond=0)
    # Clocks of hosts differ a little from this one.
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now - timedelta(minutes=5)).next_update(now + timedelta(days=days))
    builder = builder.add_extension(x509.CRLNumber(_number(current, now)), critical=False)
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    builder = builder.add_extension(signer, critical=False)
    for entry in current or ():
        builder = builder.add_revoked_certificate(entry)
    for path in files.unlisted(directory, authority, current):
        added = x509.RevokedCertificateBuilder().serial_number(files.read_certificate(path).serial_number)
        builder = builder.add_revoked_certificate(added.revocation_date(now).build())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _number(current: x509.CertificateRevocationList | None, now: datetime) -> int:
    """One more than the last; by the time, where that is lost."""
    if current is None:
        return int(now.timestamp())
    return current.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
