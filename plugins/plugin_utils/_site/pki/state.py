# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""In what state the certificates and revocation lists of a site are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._site.certificate_request import weakness
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import contents, files
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.files import HOSTS, ISSUING, NTS, ROOT
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

if TYPE_CHECKING:
    from cryptography import x509

ABSENT, VALID, ENDING, ENDED, WITHDRAWN, UNFIT = "absent", "valid", "ending", "ended", "revoked", "unfit"


@dataclass(frozen=True)
class Part:
    """A certificate or a revocation list that a site should have, or has.

    :param name: the authority or the host that it is of.
    :param state: one of the above.
    :param reason: why it is unfit, to follow its path.
    :param ends: when it no longer counts.
    :param serial: number of a certificate.
    """

    name: str
    path: Path
    state: str
    reason: str = ""
    ends: datetime | None = None
    serial: int | None = None


@dataclass(frozen=True, kw_only=True)
class HostCertificate(Part):
    """A certificate of a host.

    :param purpose: directory that it lies in.
    :param names: what it has to name, the host itself first; empty for a host that the site does not have.
    :param key: SHA-256 of the public key, as community.crypto writes fingerprints.
    """

    purpose: str
    names: tuple[str, ...]
    key: str = ""


def host_certificates(plan: Plan, directory: Path, hosts: Iterable[str], *, days: int) -> list[HostCertificate]:
    """The certificates of these hosts, and those of hosts that the site no longer has.

    :param days: one that ends within so many is ending.
    """
    signers = [certificate for certificate in files.authorities(directory).values() if certificate is not None]
    judge = _Judge(signers, files.revoked_serials(directory), days)
    found = []
    for host in hosts:
        for purpose, names in contents.wanted(plan, host):
            found.append(judge.look(directory / purpose / f"{host}.pem", names))
    for purpose in (HOSTS, NTS):
        for path in sorted((directory / purpose).glob("*.pem")):
            known = path.stem in plan.members and purpose in dict(contents.wanted(plan, path.stem))
            if not known:
                found.append(judge.look(path, ()))
    return found


def certificate(directory: Path, path: Path, names: tuple[str, ...], *, days: int) -> HostCertificate:
    """The state of one certificate, whoever has it.

    :param names: what it has to name.
    """
    signers = [each for each in files.authorities(directory).values() if each is not None]
    return _Judge(signers, files.revoked_serials(directory), days).look(path, names)


class _Judge:
    def __init__(self, signers: list[x509.Certificate], withdrawn: frozenset[int], days: int) -> None:
        self._signers = signers
        self._withdrawn = withdrawn
        self._now = datetime.now(UTC)
        self._soon = self._now + timedelta(days=days)

    def look(self, path: Path, names: tuple[str, ...]) -> HostCertificate:
        host, purpose = path.stem, path.parent.name
        try:
            certificate = files.read_certificate(path)
        except FileNotFoundError:
            return HostCertificate(host, path, ABSENT, purpose=purpose, names=names)
        except FleetError:
            return HostCertificate(host, path, UNFIT, "is no certificate", purpose=purpose, names=names)
        state, reason = self._state(certificate, purpose, names)
        return HostCertificate(
            host,
            path,
            state,
            reason,
            certificate.not_valid_after_utc,
            certificate.serial_number,
            purpose=purpose,
            names=names,
            key=files.fingerprint(certificate.public_key()),
        )

    def _state(self, certificate: x509.Certificate, purpose: str, names: tuple[str, ...]) -> tuple[str, str]:
        if certificate.serial_number in self._withdrawn:
            return WITHDRAWN, ""
        if not names:
            return UNFIT, "no such host" if purpose == HOSTS else "no such server of time"
        if reason := weakness(certificate):
            return UNFIT, reason
        signer = next((each for each in self._signers if files.is_signed_by(certificate, each)), None)
        if signer is None:
            return UNFIT, "is of an authority that the site does not have"
        if signer.serial_number in self._withdrawn:
            return UNFIT, "is of an authority that is revoked"
        if set(contents.names_in(certificate)) != set(names):
            return UNFIT, f"names {', '.join(contents.names_in(certificate)) or 'nothing'}"
        if contents.usages_in(certificate) != contents.usages(purpose):
            return UNFIT, "is for another use"
        return self.lasts(certificate.not_valid_after_utc), ""

    def lasts(self, ends: datetime) -> str:
        """Whether it ends now, soon or later."""
        return ENDED if ends <= self._now else ENDING if ends <= self._soon else VALID


def authorities(directory: Path, *, days: int) -> list[Part]:
    """The root, then the issuing authority.

    :param days: one that ends within so many is ending.
    """
    judge = _Judge([], frozenset(), days)
    found = files.authorities(directory)
    root = found[ROOT]
    withdrawn = files.revoked_serials(directory)
    result = []
    for name in (ROOT, ISSUING):
        path, certificate = files.authority_path(directory, name), found[name]
        if certificate is None:
            result.append(Part(name, path, ABSENT))
            continue
        ends, serial = certificate.not_valid_after_utc, certificate.serial_number
        state, reason = judge.lasts(ends), weakness(certificate)
        if not reason and root is not None and not files.is_signed_by(certificate, root):
            reason = "is not signed by the root"
        if serial in withdrawn:
            state, reason = WITHDRAWN, ""
        result.append(Part(name, path, UNFIT if reason else state, reason, ends, serial))
    return result


def revocation_lists(directory: Path) -> list[Part]:
    """The list of each authority. It is ending when the last third of its life has begun."""
    result = []
    now = datetime.now(UTC)
    withdrawn = files.revoked_serials(directory)
    for name, certificate in files.authorities(directory).items():
        path = files.list_path(directory, name)
        revocations = None if certificate is None else files.read_list(path, certificate)
        if certificate is None or not path.exists():
            result.append(Part(name, path, ABSENT))
        elif revocations is None or revocations.next_update_utc is None:
            result.append(Part(name, path, UNFIT, "is no list of this authority"))
        elif certificate.serial_number in withdrawn:
            result.append(Part(name, path, UNFIT, "is of an authority that is revoked", revocations.next_update_utc))
        elif missing := files.unlisted(directory, certificate, revocations):
            reason = f"lacks {len(missing)} of the revoked certificates"
            result.append(Part(name, path, UNFIT, reason, revocations.next_update_utc))
        else:
            ends, began = revocations.next_update_utc, revocations.last_update_utc
            state = ENDED if ends <= now else ENDING if (ends - now) * 3 <= ends - began else VALID
            result.append(Part(name, path, state, "", ends))
    return result
