# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import TpmModel
from vauban_enrolment.refusal import refusing
from vauban_enrolment.verifier import Unable

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

WHERE = "EK certificate"
# TCG EK Credential Profile: who made the TPM is in the subjectAltName, what the certificate is for in the extended key
# usage (tcg-kp-EKCertificate).
_MANUFACTURER = x509.ObjectIdentifier("2.23.133.2.1")
_MODEL = x509.ObjectIdentifier("2.23.133.2.2")
_VERSION = x509.ObjectIdentifier("2.23.133.2.3")
_EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")
_LARGEST = 16 * 1024  # bytes; those of manufacturers have 1 to 2 KiB
_PROBLEM = re.compile(r"^error \d+ at (\d+) depth lookup: (.*)$", re.MULTILINE)


def check(der: bytes, public_key: bytes, authorities: Sequence[x509.Certificate]) -> TpmModel:
    """Check that a manufacturer whom the site trusts vouches for an endorsement key.

    :param der: the certificate, as the machine sent it.
    :param public_key: the endorsement key, SubjectPublicKeyInfo (DER).
    :param authorities: the roots that the site trusts, and what is needed between them and the certificate.
    :raises FleetError: says which check failed.
    """
    if len(der) > _LARGEST:
        raise FleetError(f"it has more than {_LARGEST} bytes", where=WHERE)
    with refusing("this is no X.509 certificate that can be read", where=WHERE):
        certificate = x509.load_der_x509_certificate(der)
        extensions = certificate.extensions
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key != public_key:
        raise FleetError("it is for another key than this machine's endorsement key", where=WHERE)
    _check_usage(extensions)
    model = _model(extensions)
    _check_chain(certificate, authorities)
    return model


def _check_usage(extensions: x509.Extensions) -> None:
    """A manufacturer's authority may have signed other certificates than those of endorsement keys."""
    constraints = _extension(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise FleetError("it is one of an authority", where=WHERE)
    usage = _extension(extensions, x509.KeyUsage)
    if usage is not None and not (usage.key_encipherment or usage.key_agreement):
        raise FleetError("its key usage does not allow encryption", where=WHERE)
    purposes = _extension(extensions, x509.ExtendedKeyUsage)
    if purposes is not None and _EK_CERTIFICATE not in purposes:
        raise FleetError("its extended key usage is not that of an endorsement key (tcg-kp-EKCertificate)", where=WHERE)


def _model(extensions: x509.Extensions) -> TpmModel:
    alternative = _extension(extensions, x509.SubjectAlternativeName)
    names = [] if alternative is None else alternative.get_values_for_type(x509.DirectoryName)
    found = {attribute.oid: str(attribute.value) for name in names for attribute in name}
    if missing := {_MANUFACTURER, _MODEL, _VERSION} - set(found):
        numbers = ", ".join(sorted(oid.dotted_string for oid in missing))
        raise FleetError(f"its subjectAltName does not describe a TPM: {numbers} missing", where=WHERE)
    return TpmModel(found[_MANUFACTURER], found[_MODEL], found[_VERSION])


def _extension(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_chain(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> None:
    """openssl-verify(1) checks signatures, validity, constraints, and that no critical extension is unknown to it.

    The library's own verifier is for certificates of web servers and their clients: it refuses the directory name
    that a TPM's certificate has to carry.
    """
    if not authorities:
        raise FleetError("the site trusts no manufacturer of TPMs", where=WHERE)
    trusted = [each.public_bytes(Encoding.PEM) for each in authorities]
    done = _openssl_verify(certificate.public_bytes(Encoding.PEM), trusted)
    if done.returncode != 0:
        found = _PROBLEM.search(done.stderr)
        depth, problem = (int(found[1]), found[2]) if found else (0, done.stderr.strip())
        subject = "it" if depth == 0 else f"the authority {depth} above it"
        raise FleetError(f"{subject} is refused: {problem}", where=WHERE)


def _openssl_verify(certificate: bytes, authorities: Sequence[bytes]) -> Completed:
    """Run it; its status is 0 or tells of a problem.

    :raises Unable: it could not be run to its end.
    """
    try:
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(b"".join(authorities))
            file.flush()
            words = ["openssl", "verify", "-no-CApath", "-no-CAstore", "-CAfile", file.name, "-auth_level", "2"]
            done = run(words, stdin=certificate, check=False, timeout=10)
    except (FleetError, OSError) as exc:
        raise Unable(f"openssl verify: {exc}") from exc
    if done.returncode < 0:
        raise Unable(f"openssl verify was ended by signal {-done.returncode}")
    return done
