# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The site's PKI: which certificates a site needs, which it has, and which have to be made.

Below the directory that ``pki.directory`` names lies the public part: ``ca/root.pem`` and ``ca/issuing.pem``,
``crl/NAME.crl`` of both, ``hosts/HOST.pem`` and ``nts/HOST.pem``; and what is no longer in use, by host and serial
number: ``replaced/HOST.SERIAL.pem`` and ``revoked/HOST.SERIAL.pem``. Keys are elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import certificates
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:  # certificates.CRYPTOGRAPHY_ERROR says so
    pass

ROOT, ISSUING = "root", "issuing"
HOSTS, NTS = certificates.HOSTS, certificates.NTS
LISTS, REPLACED, REVOKED = "crl", "replaced", "revoked"
ABSENT, VALID, ENDING, ENDED, WITHDRAWN, UNFIT = "absent", "valid", "ending", "ended", "revoked", "unfit"
VERBS = ("create", "renew", "revoke", "list", "expiring", "crl", "install")
# Of each state, the verbs that make a new one.
_MAKES = {
    ABSENT: ("create",),
    ENDING: ("renew",),
    ENDED: ("create", "renew"),
    WITHDRAWN: ("create",),
    UNFIT: ("create", "renew"),
}
MIN_PASSPHRASE = 12  # characters; PKCS#8 makes each guess slow, but not slow enough for a word


@dataclass(frozen=True)
class Entry:
    """A certificate that a host should have, or has.

    :param purpose: directory that it lies in.
    :param names: what it has to name, the host itself first; empty for a host that the site does not have.
    :param key: SHA-256 of the public key, as community.crypto writes fingerprints.
    """

    host: str
    purpose: str
    names: tuple[str, ...]
    path: Path
    state: str
    reason: str = ""
    serial: int | None = None
    ends: datetime | None = None
    key: str | None = None

    def due(self, verb: str, *, force: bool = False) -> bool:
        """Whether a verb makes a new one. Nothing is made for a host that the site does not have."""
        forced = force and verb == "renew" and self.state not in (ABSENT, WITHDRAWN)
        return bool(self.names) and (forced or verb in _MAKES.get(self.state, ()))


@dataclass(frozen=True)
class Authority:
    """The root or the issuing authority."""

    name: str
    path: Path
    state: str
    reason: str = ""
    ends: datetime | None = None
    serial: int | None = None


@dataclass(frozen=True)
class RevocationList:
    """What an authority no longer vouches for."""

    name: str
    path: Path
    state: str
    reason: str = ""
    ends: datetime | None = None


def usages(purpose: str) -> list[str]:
    """Extended key usage: IKE (RFC 4945) or TLS server, and never both."""
    oid = ExtendedKeyUsageOID.IPSEC_IKE if purpose == HOSTS else ExtendedKeyUsageOID.SERVER_AUTH
    return [str(oid.dotted_string)]


def wanted(plan: Plan, host: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The certificates that a host needs, with the names in them."""
    if plan.tunnels_of.get(host):
        shared = (plan.gateway_identity(plan.gateways[host]),) if host in plan.gateways else ()
        yield HOSTS, (plan.fqdn(host), *shared)
    if plan.site.time is not None and host in plan.site.time.servers:
        yield NTS, (plan.fqdn(host),)


def survey(plan: Plan, directory: Path, hosts: Iterable[str], *, days: int) -> list[Entry]:
    """The certificates of these hosts, and those of hosts that the site no longer has.

    :param days: one that ends within so many is ending.
    """
    signers = [certificate for certificate in _authorities(directory).values() if certificate is not None]
    withdrawn = revoked_serials(directory)
    judge = _Judge(signers, withdrawn, days)
    entries = []
    for host in hosts:
        for purpose, names in wanted(plan, host):
            entries.append(judge.entry(host, purpose, names, directory / purpose / f"{host}.pem"))
    for purpose in (HOSTS, NTS):
        for path in sorted((directory / purpose).glob("*.pem")):
            known = path.stem in plan.members and purpose in dict(wanted(plan, path.stem))
            if not known:
                entries.append(judge.entry(path.stem, purpose, (), path))
    return entries


class _Judge:
    def __init__(self, signers: list[x509.Certificate], withdrawn: frozenset[int], days: int) -> None:
        self._signers = signers
        self._withdrawn = withdrawn
        self._now = datetime.now(UTC)
        self._soon = self._now + timedelta(days=days)

    def entry(self, host: str, purpose: str, names: tuple[str, ...], path: Path) -> Entry:
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except FileNotFoundError:
            return Entry(host, purpose, names, path, ABSENT)
        except ValueError:
            return Entry(host, purpose, names, path, UNFIT, "is no certificate")
        state, reason = self._state(certificate, purpose, names)
        ends, key = certificate.not_valid_after_utc, fingerprint(certificate.public_key())
        return Entry(host, purpose, names, path, state, reason, certificate.serial_number, ends, key)

    def _state(self, certificate: x509.Certificate, purpose: str, names: tuple[str, ...]) -> tuple[str, str]:
        if certificate.serial_number in self._withdrawn:
            return WITHDRAWN, ""
        if not names:
            return UNFIT, "no such host" if purpose == HOSTS else "no such server of time"
        if reason := certificates.weakness(certificate):
            return UNFIT, reason
        if not any(is_signed_by(certificate, signer) for signer in self._signers):
            return UNFIT, "is of an authority that the site does not have"
        if set(_names(certificate)) != set(names):
            return UNFIT, f"names {', '.join(_names(certificate)) or 'nothing'}"
        if _usages(certificate) != usages(purpose):
            return UNFIT, "is for another use"
        return self.lasts(certificate.not_valid_after_utc), ""

    def lasts(self, ends: datetime) -> str:
        """Whether it ends now, soon or later."""
        return ENDED if ends <= self._now else ENDING if ends <= self._soon else VALID


def authorities(directory: Path, *, days: int) -> list[Authority]:
    """The two authorities."""
    judge = _Judge([], frozenset(), days)
    found = _authorities(directory)
    root = found[ROOT]
    withdrawn = revoked_serials(directory)
    result = []
    for name in (ROOT, ISSUING):
        path, certificate = authority_path(directory, name), found[name]
        if certificate is None:
            result.append(Authority(name, path, ABSENT))
            continue
        ends, serial = certificate.not_valid_after_utc, certificate.serial_number
        state, reason = judge.lasts(ends), certificates.weakness(certificate)
        if not reason and root is not None and not is_signed_by(certificate, root):
            reason = "is not signed by the root"
        if serial in withdrawn:
            state, reason = WITHDRAWN, ""
        result.append(Authority(name, path, UNFIT if reason else state, reason, ends, serial))
    return result


def revocation_lists(directory: Path) -> list[RevocationList]:
    """The list of each authority. It is ending when the last third of its life has begun."""
    result = []
    now = datetime.now(UTC)
    for name, certificate in _authorities(directory).items():
        path = list_path(directory, name)
        revocations = None if certificate is None else read_list(path, certificate)
        if certificate is None or not path.exists():
            result.append(RevocationList(name, path, ABSENT))
        elif revocations is None or revocations.next_update_utc is None:
            result.append(RevocationList(name, path, UNFIT, "is no list of this authority"))
        elif missing := unlisted(directory, certificate, revocations):
            reason = f"lacks {len(missing)} of the revoked certificates"
            result.append(RevocationList(name, path, UNFIT, reason, revocations.next_update_utc))
        else:
            ends, began = revocations.next_update_utc, revocations.last_update_utc
            state = ENDED if ends <= now else ENDING if (ends - now) * 3 <= ends - began else VALID
            result.append(RevocationList(name, path, state, "", ends))
    return result


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
    """The revoked certificates of an authority that its list does not name: a run was interrupted."""
    listed = {entry.serial_number for entry in revocations} if revocations is not None else set()
    return [
        path
        for path in sorted((directory / REVOKED).glob("*.pem"))
        if (certificate := read_certificate(path)).issuer == authority.subject
        and certificate.serial_number not in listed
    ]


def revoked_serials(directory: Path) -> frozenset[int]:
    """Serial numbers of all that is revoked, or was about to be when a run was interrupted."""
    found = {read_certificate(path).serial_number for path in (directory / REVOKED).glob("*.pem")}
    for name, certificate in _authorities(directory).items():
        revocations = None if certificate is None else read_list(list_path(directory, name), certificate)
        found |= {entry.serial_number for entry in revocations or ()}
    return frozenset(found)


def held_by(directory: Path, host: str) -> list[Path]:
    """All certificates that a host was ever given and that are not revoked."""
    current = [path for purpose in (HOSTS, NTS) if (path := directory / purpose / f"{host}.pem").exists()]
    return [*current, *sorted((directory / REPLACED).glob(f"{host}.*.pem"))]


def judge_request(plan: Plan, host: str, purpose: str, content: str, where: str) -> None:
    """Refuse a request that asks for anything but what the site gives: what it asks for goes into the certificate.

    :raises FleetError: it does.
    """

    def refuse(message: str) -> FleetError:
        remedy = f"make it anew for CN={names[0]} and DNS names {', '.join(names)}, as docs/site-pki.md says"
        return FleetError(f"{host}: its request {message}", where=where, remedy=remedy)

    names = dict(wanted(plan, host)).get(purpose, (plan.fqdn(host),))
    try:
        request = x509.load_pem_x509_csr(content.encode())
    except ValueError:
        raise refuse("cannot be read") from None
    if not request.is_signature_valid:
        raise refuse("is not signed with its own key")
    if weak := certificates.weakness(request):
        raise refuse(weak)
    subject = [(part.oid, part.value) for part in request.subject]
    if subject != [(NameOID.COMMON_NAME, common_name(names[0]))]:
        raise refuse(f"is for {request.subject.rfc4514_string() or 'nobody'}")
    extensions = {extension.oid: extension.value for extension in request.extensions}
    expected = {extension.oid: extension for extension in _extensions(purpose, names)}
    for oid in [*expected, *extensions]:
        if extensions.get(oid) != expected.get(oid):
            what = getattr(oid, "_name", oid.dotted_string)
            raise refuse(f"has another {what} than the site gives" if oid in extensions else f"has no {what}")


def _extensions(purpose: str, names: tuple[str, ...]) -> list[x509.ExtensionType]:
    return [
        x509.SubjectAlternativeName([x509.DNSName(name) for name in names]),
        x509.BasicConstraints(ca=False, path_length=None),
        x509.KeyUsage(True, False, False, False, False, False, False, False, False),
        x509.ExtendedKeyUsage([x509.ObjectIdentifier(oid) for oid in usages(purpose)]),
    ]


def common_name(name: str) -> str:
    """The subject: as much of the name as fits (X.520). What counts is the alternative name."""
    return name if len(name) <= 64 else name.partition(".")[0]


@dataclass(frozen=True)
class Signer:
    """What an authority signs with.

    :param authority: its certificate, if it has one.
    :param variable: where the passphrase comes from.
    """

    authority: Path
    key: Path
    passphrase: str | None
    variable: str

    def load(self) -> ec.EllipticCurvePrivateKey:
        """The key, if it is there, can be opened, and fits an authority that lasts.

        :raises FleetError: it cannot be used.
        """
        name = self.authority.stem
        if not self.key.exists():
            raise FleetError(
                f"the key of the {name} authority is not here",
                where=str(self.key),
                remedy=f"bring it there from its medium, or say where it is: -e site_pki_{name}_key=FILE",
            )
        if not self.passphrase:
            raise FleetError(
                f"{self.variable} is not set, and the key of the {name} authority is encrypted",
                where=str(self.key),
                remedy=f"put {self.variable} into a file of ansible-vault, and name it: -e @FILE",
            )
        if self.key.stat().st_mode & 0o077:
            raise FleetError("others may read it", where=str(self.key), remedy=f"chmod 600 {self.key}")
        loaded = self._open()
        if self.authority.exists():
            certificate = read_certificate(self.authority)
            if fingerprint(certificate.public_key()) != fingerprint(loaded.public_key()):
                raise FleetError(
                    f"it is not the key of {self.authority}",
                    where=str(self.key),
                    remedy="bring key and certificate that belong together",
                )
            if certificate.not_valid_after_utc <= datetime.now(UTC):
                raise FleetError(
                    f"ended on {certificate.not_valid_after_utc:%Y-%m-%d}, and signs nothing any more",
                    where=str(self.authority),
                    remedy="bring the key of the root and renew: -e site_pki_verb=renew",
                )
        return loaded

    def _open(self) -> ec.EllipticCurvePrivateKey:
        try:
            loaded = serialization.load_pem_private_key(self.key.read_bytes(), (self.passphrase or "").encode())
        except TypeError:
            remedy = f"encrypt it: openssl pkcs8 -topk8 -in {self.key} -out NEW, and let NEW take its place"
            raise FleetError("it is not encrypted", where=str(self.key), remedy=remedy) from None
        except ValueError:
            remedy = f"set {self.variable} to the passphrase that the key was made with"
            raise FleetError(f"{self.variable} does not open it", where=str(self.key), remedy=remedy) from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            remedy = "bring the authority's own key"
            raise FleetError("it is no key on an elliptic curve", where=str(self.key), remedy=remedy)
        return loaded

    def check_new(self) -> None:
        """Whether a key can be made with it.

        :raises FleetError: it would not be protected.
        """
        if self.key.exists():
            self.load()
        elif len(self.passphrase or "") < MIN_PASSPHRASE:
            raise FleetError(
                f"{self.variable} has fewer than {MIN_PASSPHRASE} characters",
                where=str(self.key),
                remedy=f"put a longer {self.variable} into a file of ansible-vault, and name it: -e @FILE",
            )


@dataclass(frozen=True)
class Work:
    """What there is, and what a verb has to do about it.

    :param withdrawals: certificates to revoke.
    """

    verb: str
    authorities: list[Authority]
    lists: list[RevocationList]
    entries: list[Entry]
    authorities_due: frozenset[str]
    lists_due: frozenset[str]
    certificates_due: bool
    withdrawals: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls, plan: Plan, directory: Path, hosts: Iterable[str], verb: str, *, days: int, force: bool = False
    ) -> Work:
        """Look at all of it."""
        found = authorities(directory, days=days)
        lists = revocation_lists(directory)
        entries = survey(plan, directory, hosts, days=days)
        return cls(
            verb,
            found,
            lists,
            entries,
            frozenset(each.name for each in found if verb in _MAKES.get(each.state, ())),
            frozenset(each.name for each in lists if _refreshes(verb, each, force)),
            any(entry.due(verb, force=force) for entry in entries),
        )

    def revoking(self, paths: Iterable[Path]) -> Work:
        """The same, with certificates to revoke."""
        withdrawals = tuple(paths)
        due = self.lists_due | {ISSUING} if withdrawals else self.lists_due
        return replace(self, withdrawals=withdrawals, lists_due=due)

    @property
    def warnings(self) -> list[str]:
        """What the root has to do before long."""
        parts: list[Authority | RevocationList] = [
            *self.authorities,
            *(each for each in self.lists if each.name == ROOT),
        ]
        return [
            f"{part.path}: ends on {part.ends:%Y-%m-%d}; bring the key of the root and run verb renew"
            for part in parts
            if part.state == ENDING and part.ends is not None
        ]

    def settled(self, signers: Mapping[str, Signer]) -> Work:
        """The same without what can wait for the key of the root, once all is there that it takes.

        :raises FleetError: something is missing.
        """
        states = {each.name: each for each in self.authorities}
        root, issuing = states[ROOT], states[ISSUING]
        if self.verb in ("list", "expiring", "install"):
            return self
        for authority in (root, issuing):
            if authority.state == ABSENT and (self.verb != "create" or any(entry.serial for entry in self.entries)):
                raise FleetError(
                    "is not there, but it has to sign",
                    where=str(authority.path),
                    remedy="bring it back, or begin with -e site_pki_verb=create where there are no certificates yet",
                )
            if authority.state in (UNFIT, WITHDRAWN):
                raise FleetError(
                    f"cannot be used: {authority.reason or authority.state}",
                    where=str(authority.path),
                    remedy="bring back the site's own; to begin anew, move its directory and keys away",
                )
        if ROOT in self.authorities_due and root.state == ABSENT:
            signers[ROOT].check_new()
        elif self._takes_root(signers):
            signers[ROOT].load()
        if issuing.state == ABSENT:
            signers[ISSUING].check_new()
        elif (self.certificates_due or ISSUING in self.lists_due) and (
            issuing.state != ENDED or ISSUING not in self.authorities_due
        ):
            signers[ISSUING].load()
        if self._takes_root(signers):
            return self
        return replace(self, authorities_due=frozenset(), lists_due=self.lists_due - {ROOT})

    def _takes_root(self, signers: Mapping[str, Signer]) -> bool:
        """Whether the root has to sign now. What only ends before long can wait for its key."""
        pressing = {each.name for each in self.authorities if each.state != ENDING} & self.authorities_due
        pressing |= {each.name for each in self.lists if each.name == ROOT and each.state != ENDING} & self.lists_due
        return bool(pressing) or (signers[ROOT].key.exists() and bool(self.authorities_due or ROOT in self.lists_due))


def _refreshes(verb: str, revocations: RevocationList, force: bool) -> bool:
    if verb == "crl" and force and revocations.name == ISSUING:
        return True
    if verb == "revoke":
        return revocations.state == UNFIT and revocations.name == ISSUING
    if verb in ("renew", "crl"):
        return revocations.state != VALID
    return verb == "create" and revocations.state in (ABSENT, ENDED, UNFIT)


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate that has to be one.

    :raises FleetError: it is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        remedy = "bring back what was there, or remove it"
        raise FleetError("is no certificate", where=str(path), remedy=remedy) from None


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


def authority_path(directory: Path, name: str) -> Path:
    """The certificate of an authority."""
    return directory / certificates.AUTHORITIES / f"{name}.pem"


def list_path(directory: Path, name: str) -> Path:
    """The revocation list of an authority."""
    return directory / LISTS / f"{name}.crl"


def _authorities(directory: Path) -> dict[str, x509.Certificate | None]:
    paths = {name: authority_path(directory, name) for name in (ROOT, ISSUING)}
    return {name: read_certificate(path) if path.exists() else None for name, path in paths.items()}


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(extension.value.get_values_for_type(x509.DNSName))


def _usages(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return []
    return [oid.dotted_string for oid in extension.value]
