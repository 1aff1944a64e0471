# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Signs what hosts ask for. The same rules as role ``site_pki``, for requests that come by the hundred."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._lock import locked
from ansible_collections.vauban.fleet.plugins.module_utils._site.certificate_request import Given, fault
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import contents, files, state
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.files import ISSUING, ROOT
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.signer import Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
except ImportError:  # certificates.CRYPTOGRAPHY_ERROR says so
    pass

_SINCE = timedelta(hours=1)  # clocks of hosts differ a little


@dataclass(frozen=True)
class Issuer:
    """The issuing authority of a site.

    :param directory: of what is public.
    :param days: for which a certificate lasts.
    """

    plan: Plan
    directory: Path
    signer: Signer
    days: int

    @classmethod
    def of_site(cls, plan: Plan, site_file: Path, key: Path, passphrase: str | None, days: int) -> Issuer:
        """That of the site in a file.

        :param key: its private key, encrypted.
        """
        directory = (site_file.parent / plan.site.pki.directory).resolve()
        certificate = files.authority_path(directory, ISSUING)
        return cls(plan, directory, Signer(certificate, key, passphrase, "site_pki_issuing_passphrase"), days)

    def check(self) -> None:
        """Whether it can sign.

        :raises FleetError: its key or certificate cannot be used.
        """
        self.check_authorities()
        self.signer.load()

    def check_authorities(self) -> None:
        """Whether what it has signed is believed.

        :raises FleetError: a certificate above is missing, has ended or is withdrawn.
        """
        for part in state.authorities(self.directory, days=0):
            if part.state != state.VALID:
                raise FleetError(
                    part.reason or f"is {part.state}",
                    where=str(part.path),
                    remedy="make it with playbook site_pki, or bring back the site's own",
                )

    @cached_property
    def _key(self) -> ec.EllipticCurvePrivateKey:
        return self.signer.load()

    def issue(self, host: str, purpose: str, request: str) -> str:
        """The certificate that answers a request, and those above it (PEM).

        A request that was answered before gets the same answer: a run may end before the host has it.

        :raises FleetError: it asks for something that is not the host's.
        """
        if purpose not in dict(contents.wanted(self.plan, host)):
            raise FleetError(f"the site gives {host} no such certificate", where=f"{host}: {purpose}")
        contents.judge_request(self.plan, host, purpose, request, f"{host}: {purpose}")
        path = self.directory / purpose / f"{host}.pem"
        return self._answer(request, path, dict(contents.wanted(self.plan, host))[purpose], days=0)

    def issue_server(self, name: str, request: str) -> str:
        """The same for a web server of the site, by its name.

        :raises FleetError: it asks for something else.
        """
        given = Given(contents.common_name(name), [name], contents.usages(files.SERVERS))
        if found := fault(request, given):
            raise FleetError(
                f"its request {found}", where=name, remedy="remove the key on the server, and run it again"
            )
        days = self.plan.site.pki.warn_days
        return self._answer(request, self.directory / files.SERVERS / f"{name}.pem", (name,), days=days)

    def _answer(self, request: str, path: Path, names: tuple[str, ...], *, days: int) -> str:
        """The certificate that is there, unless it ends within so many days or is of another key; else a new one."""
        asked = x509.load_pem_x509_csr(request.encode())
        # Two runs beside each other sign one request once.
        with locked(self.directory):
            self._renew(asked, path, names, days)
        above = [files.authority_path(self.directory, name) for name in (ISSUING, ROOT)]
        return "".join(each.read_text("ascii").strip() + "\n" for each in (path, *above))

    def _renew(self, asked: x509.CertificateSigningRequest, path: Path, names: tuple[str, ...], days: int) -> None:
        kept = state.certificate(self.directory, path, names, days=days)
        if kept.state != state.VALID or kept.key != files.fingerprint(asked.public_key()):
            if kept.serial is not None and kept.state != state.WITHDRAWN:
                # Who revokes the host revokes it, too.
                _write(self.directory / files.REPLACED / files.kept_name(path, kept.serial), path.read_bytes())
            _write(path, self._sign(asked).public_bytes(serialization.Encoding.PEM))

    def _sign(self, asked: x509.CertificateSigningRequest) -> x509.Certificate:
        authority = files.read_certificate(files.authority_path(self.directory, ISSUING))
        now = datetime.now(UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(authority.subject)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SINCE)
            .not_valid_after(now + timedelta(days=self.days))
        )
        for extension in asked.extensions:  # which were judged: there are no others than the site gives
            builder = builder.add_extension(extension.value, extension.critical)
        own = x509.SubjectKeyIdentifier.from_public_key(asked.public_key())
        above = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(own, False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), False)
        return builder.sign(self._key, hashes.SHA256())


def _write(path: Path, content: bytes) -> None:
    with replacing_file(path) as new:
        new.write_bytes(content)
