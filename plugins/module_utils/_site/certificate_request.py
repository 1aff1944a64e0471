# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Whether a certificate request asks for exactly what is given: what it asks for goes into the certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID
except ImportError:  # who needs it says what to install
    pass

CURVES = ("secp256r1", "brainpoolP256r1")


@dataclass(frozen=True)
class Given:
    """What a request may ask for."""

    common_name: str
    names: Sequence[str]  # DNS
    usages: Sequence[str]  # extended key usages, as dotted numbers
    curves: Sequence[str] = CURVES

    def extensions(self) -> list[x509.ExtensionType]:
        """All of them, and no others."""
        return [
            x509.SubjectAlternativeName([x509.DNSName(name) for name in self.names]),
            x509.BasicConstraints(ca=False, path_length=None),
            x509.KeyUsage(True, False, False, False, False, False, False, False, False),  # digitalSignature alone
            x509.ExtendedKeyUsage([x509.ObjectIdentifier(oid) for oid in self.usages]),
        ]


def weakness(signed: x509.Certificate | x509.CertificateSigningRequest, curves: Sequence[str] = CURVES) -> str:
    """What of profile dr it breaks, if anything: ECDSA on a 256-bit curve with SHA-256, through the whole chain."""
    key = signed.public_key()
    found = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
    if found not in curves:
        return f"its key is {found}, and neither on {' nor on '.join(curves)}"
    algorithm = signed.signature_hash_algorithm
    if algorithm is None or algorithm.name != "sha256":
        return f"is signed with {algorithm.name if algorithm else 'none'}, and not with SHA-256"
    return ""


def fault(content: str, given: Given) -> str:
    """What is wrong with a request in PEM, if anything. It may come from a stranger."""
    try:
        return _fault(x509.load_pem_x509_csr(content.encode()), given)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion):
        return "cannot be read"
    except x509.UnsupportedGeneralNameType:
        return "has a name of an unknown kind"


def _fault(request: x509.CertificateSigningRequest, given: Given) -> str:
    if not request.is_signature_valid:
        return "is not signed with its own key"
    if weak := weakness(request, given.curves):
        return weak
    subject = [(part.oid, part.value) for part in request.subject]
    if subject != [(NameOID.COMMON_NAME, given.common_name)]:
        return f"is for {request.subject.rfc4514_string() or 'nobody'}"
    extensions = {extension.oid: extension.value for extension in request.extensions}
    expected = {extension.oid: extension for extension in given.extensions()}
    for oid in [*expected, *extensions]:
        if extensions.get(oid) != expected.get(oid):
            what = getattr(oid, "_name", oid.dotted_string)
            return f"has another {what} than the site gives" if oid in extensions else f"has no {what}"
    return ""
