# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Mutual TLS: a machine that was given a certificate speaks for its enrolment by that certificate's key.

In TLS the client proves that it has the key (RFC 8446, section 4.4.3). The web server in front asks for no more: which
certificate it has to be, is known here, where it was handed out in this very enrolment.
"""

from __future__ import annotations

import ssl
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.types import Scope

from vauban_enrolment.case import Case
from vauban_enrolment.encoding import sha256
from vauban_enrolment.storage import GivenCertificate

_HEADER = b"x-client-certificate"


def shown(scope: Scope) -> str | None:
    """SHA-256 of the certificate whose key the client has, as the web server in front says: it alone can reach the
    socket, and it sets this header itself (PEM, percent-encoded). None without one, or without one that can be read."""
    given = next((value for name, value in scope["headers"] if name == _HEADER), b"")
    try:
        return sha256(ssl.PEM_cert_to_DER_cert(unquote(given.decode("ascii"))))
    except ValueError:
        return None


def give(case: Case, name: str, chain: str) -> None:
    """Note that the machine is given a certificate: the first one of this chain (PEM)."""
    own = x509.load_pem_x509_certificates(chain.encode("ascii"))[0]
    digest = sha256(own.public_bytes(Encoding.DER))
    if case.session.get(GivenCertificate, (case.enrolment.id, digest)) is None:
        case.session.add(GivenCertificate(enrolment=case.enrolment.id, sha256=digest))
        case.note("certificate handed out", name=name, sha256=digest)


def fault(session: Session, enrolment: str, certificate: str | None) -> str | None:
    """Why a client does not speak for an enrolment, if so.

    :param certificate: what it has shown (:func:`shown`).
    """
    given = session.scalars(select(GivenCertificate.sha256).where(GivenCertificate.enrolment == enrolment)).all()
    if not given or certificate in given:
        return None
    return "none was shown" if certificate is None else f"it is none that was handed out: {certificate}"
