# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the certificates of a site say: whom they name, and what for."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._site.certificate_request import Given, fault
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.files import HOSTS, NTS
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

try:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID
except ImportError:  # certificates.CRYPTOGRAPHY_ERROR says so
    pass


def wanted(plan: Plan, host: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The certificates that a host needs, with the names in them."""
    if plan.tunnels_of.get(host):
        shared = (plan.gateway_identity(plan.gateways[host]),) if host in plan.gateways else ()
        yield HOSTS, (plan.fqdn(host), *shared)
    if plan.site.time is not None and host in plan.site.time.servers:
        yield NTS, (plan.fqdn(host),)


def usages(purpose: str) -> list[str]:
    """Extended key usage: IKE (RFC 4945) or TLS server, and never both."""
    oid = ExtendedKeyUsageOID.IPSEC_IKE if purpose == HOSTS else ExtendedKeyUsageOID.SERVER_AUTH
    return [str(oid.dotted_string)]


def names(plan: Plan, host: str, purpose: str) -> tuple[str, ...]:
    """What a certificate for this purpose has to name, whether the host needs one or not."""
    return dict(wanted(plan, host)).get(purpose, (plan.fqdn(host),))


def common_name(name: str) -> str:
    """The subject: as much of the name as fits (X.520). What counts is the alternative name."""
    return name if len(name) <= 64 else name.partition(".")[0]


def judge_request(plan: Plan, host: str, purpose: str, content: str, where: str) -> None:
    """Refuse a request that asks for anything but what the site gives: what it asks for goes into the certificate.

    :raises FleetError: it does.
    """

    def refuse(message: str) -> FleetError:
        remedy = f"make it anew for CN={own[0]} and DNS names {', '.join(own)}, as docs/site-pki.md says"
        return FleetError(f"{host}: its request {message}", where=where, remedy=remedy)

    own = names(plan, host, purpose)
    if found := fault(content, Given(common_name(own[0]), own, usages(purpose))):
        raise refuse(found)


def names_in(certificate: x509.Certificate) -> list[str]:
    """The DNS names that a certificate has."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(extension.value.get_values_for_type(x509.DNSName))


def usages_in(certificate: x509.Certificate) -> list[str]:
    """Its extended key usages, as :func:`usages` writes them."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return []
    return [oid.dotted_string for oid in extension.value]
