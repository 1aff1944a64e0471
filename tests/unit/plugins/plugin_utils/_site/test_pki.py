# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a site's PKI has and lacks, and what it refuses to sign."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import pki, revocations
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import read
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

from .conftest import BASE, Load

P256 = ec.SECP256R1()
PASSPHRASE = "a passphrase of some length"
SERVER = ("north-server.small.example",)
NOW = datetime.now(UTC).replace(microsecond=0)
Extensions = list[x509.ExtensionType]


def extensions(purpose: str, names: tuple[str, ...]) -> Extensions:
    return pki._extensions(purpose, names)


class Authority:
    """A key that signs."""

    def __init__(self, name: str, signer: Authority | None = None, *, days: int = 100) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(P256)
        own = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        self.certificate = (signer or self).sign(
            self.name, self.key, [x509.BasicConstraints(True, None), own], days=days
        )

    def sign(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, found: Extensions, *, days: int = 100
    ) -> x509.Certificate:
        end = NOW + timedelta(days=days, minutes=5)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(end - timedelta(days=9000))
        for extension in found:
            builder = builder.add_extension(extension, critical=False)
        return builder.not_valid_after(end).sign(self.key, hashes.SHA256())


def write(path: Path, certificate: x509.Certificate) -> x509.Certificate:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate


def key_file(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: str | None = PASSPHRASE) -> Path:
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    path.chmod(0o600)
    return path


class Made:
    """A site with a whole PKI."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.directory = directory / "pki"
        self.root = Authority("root")
        self.issuing = Authority("issuing", self.root)
        self.signers = {}
        for name, authority in (("root", self.root), ("issuing", self.issuing)):
            path = pki.authority_path(self.directory, name)
            write(path, authority.certificate)
            key = key_file(directory / f"{name}.key", authority.key)
            self.signers[name] = pki.Signer(path, key, PASSPHRASE, f"site_pki_{name}_passphrase")
            self.sign_list(name)

    def sign_list(self, name: str, days: int = 14) -> None:
        authority = {"root": self.root, "issuing": self.issuing}[name]
        path = pki.list_path(self.directory, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(revocations.signed(authority.certificate, authority.key, self.directory, name, days=days))

    def issue(
        self,
        path: str,
        names: tuple[str, ...],
        *,
        purpose: str = pki.HOSTS,
        days: int = 100,
        by: Authority | None = None,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        key = ec.generate_private_key(P256)
        certificate = (by or self.issuing).sign(subject, key, extensions(purpose, names), days=days)
        return write(self.directory / path, certificate)

    def states(self, *hosts: str) -> dict[tuple[str, str], str]:
        entries = pki.survey(self.plan, self.directory, hosts, days=30)
        return {(entry.host, entry.purpose): entry.state for entry in entries}

    def work(self, verb: str, *hosts: str, force: bool = False) -> pki.Work:
        work = pki.Work.of(self.plan, self.directory, hosts, verb, days=30, force=force)
        return work.settled(self.signers)


@pytest.fixture
def made(load_site: Load, site_file: Path) -> Made:
    load_site(BASE)
    return Made(read(site_file).plan, site_file.parent)


def test_what_hosts_need(made: Made) -> None:
    plan = made.plan
    assert dict(pki.wanted(plan, "north-gw1")) == {"hosts": ("north-gw1.small.example", "gateway.north.small.example")}
    assert dict(pki.wanted(plan, "north-server")) == {"hosts": SERVER, "nts": SERVER}
    assert dict(pki.wanted(plan, "north-admin")) == {"hosts": ("north-admin.small.example",)}


def test_states_of_certificates(made: Made) -> None:
    made.issue("hosts/north-server.pem", SERVER)
    made.issue("nts/north-server.pem", SERVER, purpose=pki.NTS, days=20)
    made.issue("hosts/north-admin.pem", ("north-admin.small.example",), days=-1)
    made.issue("hosts/north-gw1.pem", ("north-gw1.small.example",))
    made.issue("hosts/south-laptop.pem", ("south-laptop.small.example",), by=Authority("issuing"))
    made.issue("hosts/north-laptop-01.pem", ("north-laptop-01.small.example",), purpose=pki.NTS)
    made.issue("hosts/east-server.pem", ("east-server.small.example",))
    hosts = ("north-server", "north-admin", "north-gw1", "south-laptop", "north-laptop-01", "north-laptop-02")
    assert made.states(*hosts) == {
        ("north-server", "hosts"): "valid",
        ("north-server", "nts"): "ending",
        ("north-admin", "hosts"): "ended",
        ("north-gw1", "hosts"): "unfit",
        ("south-laptop", "hosts"): "unfit",
        ("north-laptop-01", "hosts"): "unfit",
        ("north-laptop-02", "hosts"): "absent",
        ("east-server", "hosts"): "unfit",
    }


def test_each_verb_makes_what_it_is_for(made: Made) -> None:
    made.issue("hosts/north-server.pem", SERVER)
    made.issue("nts/north-server.pem", SERVER, purpose=pki.NTS, days=20)
    made.issue("hosts/north-admin.pem", ("north-admin.small.example",), days=-1)
    made.issue("hosts/east-server.pem", ("east-server.small.example",))
    entries = made.work("list", "north-server", "north-admin", "north-gw1").entries

    def due(verb: str, *, force: bool = False) -> set[str]:
        return {f"{entry.purpose}/{entry.host}" for entry in entries if entry.due(verb, force=force)}

    assert due("create") == {"hosts/north-admin", "hosts/north-gw1"}
    assert due("renew") == {"nts/north-server", "hosts/north-admin"}
    assert due("renew", force=True) == {"hosts/north-server", "nts/north-server", "hosts/north-admin"}
    assert due("list") == due("expiring") == due("crl") == due("install") == due("revoke") == set()


def test_what_is_revoked_stays_in_every_list(made: Made) -> None:
    first = made.issue("revoked/north-admin.1.pem", ("north-admin.small.example",))
    assert {each.name: each.state for each in pki.revocation_lists(made.directory)} == {
        "root": "valid",
        "issuing": "unfit",
    }
    made.sign_list("issuing")
    second = made.issue("hosts/north-server.pem", SERVER)
    assert made.states("north-server")["north-server", "hosts"] == "valid"
    write(made.directory / "revoked/north-server.2.pem", second)
    # From here on, whether a list names it yet or not.
    assert made.states("north-server")["north-server", "hosts"] == "revoked"
    (made.directory / "revoked/north-admin.1.pem").unlink()
    made.sign_list("issuing")
    current = pki.read_list(pki.list_path(made.directory, "issuing"), made.issuing.certificate)
    assert current is not None
    assert {entry.serial_number for entry in current} == {first.serial_number, second.serial_number}
    assert {each.state for each in pki.revocation_lists(made.directory)} == {"valid"}


def test_lists_have_growing_numbers_and_name_their_key(made: Made) -> None:
    numbers = []
    for _time in range(2):
        current = pki.read_list(pki.list_path(made.directory, "issuing"), made.issuing.certificate)
        assert current is not None
        numbers.append(current.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
        named = current.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        own = x509.SubjectKeyIdentifier.from_public_key(made.issuing.key.public_key())
        assert named == own.digest
        made.sign_list("issuing")
    assert numbers[1] == numbers[0] + 1


def test_a_list_is_due_when_most_of_its_life_is_over(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made.work("crl").lists_due == frozenset()
    assert made.work("crl", force=True).lists_due == {"issuing"}
    later: dict[int, str] = {}
    for days in (9, 10, 15):

        class Later(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return NOW + timedelta(days=days)  # noqa: B023

        monkeypatch.setattr(pki, "datetime", Later)
        (later[days],) = (each.state for each in pki.revocation_lists(made.directory) if each.name == "issuing")
    assert later == {9: "valid", 10: "ending", 15: "ended"}


def test_revoking_a_host_takes_all_it_was_ever_given(made: Made) -> None:
    for path in (
        "hosts/north-server.pem",
        "nts/north-server.pem",
        "replaced/north-server.7.pem",
        "hosts/north-gw1.pem",
    ):
        made.issue(path, SERVER)
    held = pki.held_by(made.directory, "north-server")
    assert [str(path.relative_to(made.directory)) for path in held] == [
        "hosts/north-server.pem",
        "nts/north-server.pem",
        "replaced/north-server.7.pem",
    ]


def test_root_is_needed_for_what_only_it_can_do(made: Made) -> None:
    root = made.signers["root"].key
    root.unlink()
    assert not made.work("create", "north-server").authorities_due
    made.sign_list("root", days=0)
    with pytest.raises(
        FleetError, match=f"{root}: the key of the root authority is not here\nRemedy: .*site_pki_root_key"
    ):
        made.work("crl")


def test_what_can_wait_for_the_root_is_a_warning(made: Made) -> None:
    made.signers["root"].key.unlink()
    ending = Authority("issuing", made.root, days=20)
    write(pki.authority_path(made.directory, "issuing"), ending.certificate)
    key_file(made.signers["issuing"].key, ending.key)
    made.issuing = ending
    made.sign_list("issuing")
    work = made.work("renew")
    assert not work.authorities_due
    (warning,) = work.warnings
    assert "ca/issuing.pem: ends on " in warning
    key_file(made.signers["root"].key, made.root.key)
    assert made.work("renew").authorities_due == {"issuing"}


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda made: made.signers["issuing"].key.unlink(),
            "issuing.key: the key of the issuing authority is not here",
        ),
        (lambda made: made.signers["issuing"].key.chmod(0o640), "issuing.key: others may read it\nRemedy: chmod 600"),
        (
            lambda made: key_file(made.signers["issuing"].key, made.issuing.key, "another passphrase"),
            "issuing.key: site_pki_issuing_passphrase does not open it",
        ),
        (
            lambda made: key_file(made.signers["issuing"].key, made.issuing.key, None),
            "issuing.key: it is not encrypted",
        ),
        (
            lambda made: key_file(made.signers["issuing"].key, ec.generate_private_key(P256)),
            "issuing.key: it is not the key of .*ca/issuing.pem",
        ),
        (
            lambda made: write(pki.authority_path(made.directory, "issuing"), Authority("issuing").certificate),
            "ca/issuing.pem: cannot be used: is not signed by the root",
        ),
        (lambda made: pki.authority_path(made.directory, "issuing").unlink(), "ca/issuing.pem: is not there"),
        (
            lambda made: pki.authority_path(made.directory, "issuing").write_text("nonsense"),
            "ca/issuing.pem: is no certificate",
        ),
        (
            lambda made: (
                made.issue("revoked/x.1.pem", ("x",))
                and write(made.directory / "revoked/issuing.1.pem", made.issuing.certificate)
            ),
            "ca/issuing.pem: cannot be used: revoked",
        ),
    ],
)
def test_authority_that_cannot_sign(made: Made, break_it: Callable[[Made], object], said: str) -> None:
    made.issue("hosts/north-server.pem", SERVER, days=5)
    assert made.work("renew", "north-server").certificates_due
    break_it(made)
    with pytest.raises(FleetError, match=said) as caught:
        made.work("renew", "north-server")
    assert caught.value.remedy


def test_authority_that_has_ended(made: Made) -> None:
    ended = made.root.sign(
        made.issuing.name,
        made.issuing.key,
        [x509.SubjectKeyIdentifier.from_public_key(made.issuing.key.public_key())],
        days=-1,
    )
    write(pki.authority_path(made.directory, "issuing"), ended)
    assert made.work("renew").authorities_due == {"issuing"}
    with pytest.raises(FleetError, match=r"ca/issuing\.pem: ended on .*, and signs nothing any more"):
        made.work("crl", force=True)
    made.signers["root"].key.unlink()
    with pytest.raises(FleetError, match=r"root\.key: the key of the root authority is not here"):
        made.work("renew")


def test_missing_and_short_passphrases(made: Made) -> None:
    signer = made.signers["issuing"]
    with pytest.raises(FleetError, match="site_pki_issuing_passphrase is not set"):
        pki.Signer(signer.authority, signer.key, "", signer.variable).load()
    with pytest.raises(FleetError, match="fewer than 12 characters"):
        pki.Signer(signer.authority, signer.key.with_name("new"), "short", signer.variable).check_new()


def request(
    names: tuple[str, ...], found: Extensions, *, common: str | None = None, curve: ec.EllipticCurve = P256
) -> str:
    key = ec.generate_private_key(curve)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common or names[0])])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in found:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_request_for_what_the_site_gives(made: Made) -> None:
    pki.judge_request(made.plan, "north-server", "hosts", request(SERVER, extensions("hosts", SERVER)), "here")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nonsense", "cannot be read"),
        (request(SERVER, extensions("hosts", SERVER), curve=ec.SECP384R1()), "its key is secp384r1"),
        (request(SERVER, extensions("hosts", SERVER), common="root"), "is for CN=root"),
        (request(SERVER, extensions("hosts", (*SERVER, "gateway.north.small.example"))), "has another subjectAltName"),
        (request(SERVER, extensions("hosts", SERVER)[1:]), "has no subjectAltName"),
        (
            request(SERVER, [*extensions("hosts", SERVER)[:1], x509.BasicConstraints(True, None)]),
            "another basicConstraints",
        ),
        (request(SERVER, extensions("nts", SERVER)), "has another extendedKeyUsage"),
        (request(SERVER, [*extensions("hosts", SERVER), x509.OCSPNoCheck()]), "has another OCSPNoCheck"),
    ],
)
def test_request_for_anything_else_is_refused(made: Made, content: str, said: str) -> None:
    with pytest.raises(FleetError, match=f"requests/x.csr: north-server: its request .*{said}"):
        pki.judge_request(made.plan, "north-server", "hosts", content, "requests/x.csr")


def test_common_name_fits() -> None:
    long = f"{'a' * 40}.{'b' * 40}.example"
    assert pki.common_name(long) == "a" * 40
    assert pki.common_name("short.example") == "short.example"
