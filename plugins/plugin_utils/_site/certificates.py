# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The public part of the site's PKI: whether certificates are there, fit and last."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Problem

CRYPTOGRAPHY_ERROR: ImportError | None = None
try:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError as exc:
    CRYPTOGRAPHY_ERROR = exc

AUTHORITIES = "ca"
HOSTS = "hosts"
NTS = "nts"
_CURVES = ("secp256r1", "brainpoolP256r1")


def authorities(directory: Path) -> dict[str, bytes]:
    """The certificates of the site's authorities, by name of file; none until it has any."""
    return {path.name: path.read_bytes() for path in sorted((directory / AUTHORITIES).glob("*.pem"))}


def judge(plan: Plan, directory: Path) -> tuple[list[Problem], list[Problem]]:
    """What is wrong with the certificates below ``directory``, and what soon will be.

    A certificate that is not there yet is no error: hosts get theirs when they are enrolled.
    """
    errors: list[Problem] = []
    warnings: list[Problem] = []
    now = datetime.now(UTC)
    soon = now + timedelta(days=plan.site.pki.warn_days)
    for path in [path for part in (AUTHORITIES, HOSTS, NTS) for path in sorted((directory / part).glob("*.pem"))]:
        name = path.stem if path.parent.name != AUTHORITIES else None
        where = ("hosts", plan.members[name].key) if name in plan.members and name else ("pki", "directory")
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (ValueError, OSError) as exc:
            errors.append(Problem(where, f"{path}: is no certificate ({exc})", "replace it"))
            continue
        day = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        if certificate.not_valid_after_utc <= now:
            errors.append(Problem(where, f"{path}: ended on {day}", "renew it with playbook site_pki"))
        elif certificate.not_valid_after_utc <= soon:
            warnings.append(Problem(where, f"{path}: ends on {day}", "renew it with playbook site_pki"))
        if weak := weakness(certificate):
            errors.append(Problem(where, f"{path}: {weak}", "issue it anew with playbook site_pki"))
        if name is not None:
            errors += _identity(plan, certificate, path, name)
    return errors, warnings


def weakness(signed: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """What of profile dr it breaks, if anything: ECDSA on a 256-bit curve with SHA-256, through the whole chain."""
    key = signed.public_key()
    found = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__
    if found not in _CURVES:
        return f"its key is {found}, and neither on {' nor on '.join(_CURVES)}"
    algorithm = signed.signature_hash_algorithm
    if algorithm is None or algorithm.name != "sha256":
        return f"is signed with {algorithm.name if algorithm else 'none'}, and not with SHA-256"
    return ""


def _identity(plan: Plan, certificate: x509.Certificate, path: Path, name: str) -> list[Problem]:
    if name not in plan.members:
        return [Problem(("pki", "directory"), f"{path}: there is no host {name}", "revoke it, then remove the file")]
    wanted = {plan.fqdn(name)}
    if name in plan.gateways and path.parent.name == HOSTS:
        wanted.add(plan.gateway_identity(plan.gateways[name]))
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = set(names.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        found = set()
    if missing := sorted(wanted - found):
        where = ("hosts", plan.members[name].key)
        return [Problem(where, f"{path}: does not name {', '.join(missing)}", "issue it anew with playbook site_pki")]
    return []
