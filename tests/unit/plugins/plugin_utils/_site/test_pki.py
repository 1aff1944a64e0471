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
from ansible_collections.vauban.fleet.plugins.module_utils._site.certificate_request import Given
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import read
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import contents, files, revocations, state
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.signer import Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.work import Work
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.plan import Plan

from .conftest import BASE, Load

P256 = ec.SECP256R1()
PASSPHRASE = "a passphrase of some length"
SERVER = ("north-server.small.example",)
NOW = datetime.now(UTC).replace(microsecond=0)
Extensions = list[x509.ExtensionType]


def extensions(purpose: str, names: tuple[str, ...]) -> Extensions:
    return Given("", names, contents.usages(purpose)).extensions()


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
            path = files.authority_path(self.directory, name)
            write(path, authority.certificate)
            key = key_file(directory / f"{name}.key", authority.key)
            self.signers[name] = Signer(path, key, PASSPHRASE, f"site_pki_{name}_passphrase")
            self.sign_list(name)

    def sign_list(self, name: str, days: int = 14) -> None:
        authority = {"root": self.root, "issuing": self.issuing}[name]
        path = files.list_path(self.directory, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(revocations.signed(authority.certificate, authority.key, self.directory, name, days=days))

    def issue(
        self,
        path: str,
        names: tuple[str, ...],
        *,
        purpose: str = files.HOSTS,
        days: int = 100,
        by: Authority | None = None,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        key = ec.generate_private_key(P256)
        certificate = (by or self.issuing).sign(subject, key, extensions(purpose, names), days=days)
        return write(self.directory / path, certificate)

    def states(self, *hosts: str) -> dict[tuple[str, str], str]:
        found = state.host_certificates(self.plan, self.directory, hosts, days=30)
        return {(each.name, each.purpose): each.state for each in found}

    def work(self, verb: str, *hosts: str, force: bool = False) -> Work:
        work = Work.of(self.plan, self.directory, hosts, verb, days=30, force=force)
        return work.settled(self.signers)

    def revoking_issuing(self) -> Work:
        work = Work.of(self.plan, self.directory, (), "revoke_issuing", days=30)
        return work.revoking(files.issuing_certificates(self.directory))

    def revoke_issuing(self) -> None:
        """As the role does."""
        work = self.revoking_issuing().settled(self.signers)
        assert work.withdrawals == (files.authority_path(self.directory, "issuing"),)
        assert work.due == {files.list_path(self.directory, "root")}
        write(self.directory / "revoked/issuing_authority.1.pem", self.issuing.certificate)
        self.sign_list("root")
        self.signers["issuing"].key.unlink()

    def due(self, verb: str, *hosts: str, force: bool = False) -> set[str]:
        """What a verb makes, as paths below the directory."""
        found = self.work(verb, *hosts, force=force).due
        return {str(path.relative_to(self.directory).with_suffix("")) for path in found}


@pytest.fixture
def made(load_site: Load, site_file: Path) -> Made:
    load_site(BASE)
    return Made(read(site_file).plan, site_file.parent)


def test_what_hosts_need(made: Made) -> None:
    plan = made.plan
    assert dict(contents.wanted(plan, "north-gw1")) == {
        "hosts": ("north-gw1.small.example", "gateway.north.small.example")
    }
    assert dict(contents.wanted(plan, "north-server")) == {"hosts": SERVER, "nts": SERVER}
    assert dict(contents.wanted(plan, "north-admin")) == {"hosts": ("north-admin.small.example",)}


def test_states_of_certificates(made: Made) -> None:
    made.issue("hosts/north-server.pem", SERVER)
    made.issue("nts/north-server.pem", SERVER, purpose=files.NTS, days=20)
    made.issue("hosts/north-admin.pem", ("north-admin.small.example",), days=-1)
    made.issue("hosts/north-gw1.pem", ("north-gw1.small.example",))
    made.issue("hosts/south-laptop.pem", ("south-laptop.small.example",), by=Authority("issuing"))
    made.issue("hosts/north-laptop-01.pem", ("north-laptop-01.small.example",), purpose=files.NTS)
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
    made.issue("nts/north-server.pem", SERVER, purpose=files.NTS, days=20)
    made.issue("hosts/north-admin.pem", ("north-admin.small.example",), days=-1)
    made.issue("hosts/east-server.pem", ("east-server.small.example",))
    hosts = ("north-server", "north-admin", "north-gw1")
    assert made.due("create", *hosts) == {"hosts/north-admin", "hosts/north-gw1"}
    assert made.due("renew", *hosts) == {"nts/north-server", "hosts/north-admin"}
    everything = {"hosts/north-server", "nts/north-server", "hosts/north-admin"}
    assert made.due("renew", *hosts, force=True) == everything
    for verb in ("list", "expiring", "crl", "install", "revoke"):
        assert made.due(verb, *hosts) == set()


def test_what_is_revoked_stays_in_every_list(made: Made) -> None:
    first = made.issue("revoked/north-admin.1.pem", ("north-admin.small.example",))
    assert {each.name: each.state for each in state.revocation_lists(made.directory)} == {
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
    current = files.read_list(files.list_path(made.directory, "issuing"), made.issuing.certificate)
    assert current is not None
    assert {entry.serial_number for entry in current} == {first.serial_number, second.serial_number}
    assert {each.state for each in state.revocation_lists(made.directory)} == {"valid"}


def test_lists_have_growing_numbers_and_name_their_key(made: Made) -> None:
    numbers = []
    for _time in range(2):
        current = files.read_list(files.list_path(made.directory, "issuing"), made.issuing.certificate)
        assert current is not None
        numbers.append(current.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
        named = current.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        own = x509.SubjectKeyIdentifier.from_public_key(made.issuing.key.public_key())
        assert named == own.digest
        made.sign_list("issuing")
    assert numbers[1] == numbers[0] + 1


def test_a_list_is_due_when_most_of_its_life_is_over(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made.due("crl") == set()
    assert made.due("crl", force=True) == {"crl/issuing"}
    later: dict[int, str] = {}
    for days in (9, 10, 15):

        class Later(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return NOW + timedelta(days=days)  # noqa: B023

        monkeypatch.setattr(state, "datetime", Later)
        (later[days],) = (each.state for each in state.revocation_lists(made.directory) if each.name == "issuing")
    assert later == {9: "valid", 10: "ending", 15: "ended"}


def test_revoking_a_host_takes_all_it_was_ever_given(made: Made) -> None:
    for path in (
        "hosts/north-server.pem",
        "nts/north-server.pem",
        "replaced/north-server.7.pem",
        "hosts/north-gw1.pem",
    ):
        made.issue(path, SERVER)
    held = files.held_by(made.directory, "north-server")
    assert [str(path.relative_to(made.directory)) for path in held] == [
        "hosts/north-server.pem",
        "nts/north-server.pem",
        "replaced/north-server.7.pem",
    ]


def test_revoking_the_issuing_authority_takes_all_it_has_signed(made: Made) -> None:
    made.issue("hosts/north-server.pem", SERVER)
    made.issue("revoked/north-admin.1.pem", ("north-admin.small.example",))
    made.sign_list("issuing")
    made.revoke_issuing()
    assert [each.state for each in state.authorities(made.directory, days=30)] == ["valid", "revoked"]
    assert [each.state for each in state.revocation_lists(made.directory)] == ["valid", "unfit"]
    (found,) = [each for each in made.work("list", "north-server").certificates if each.state != "absent"]
    assert (found.state, found.reason) == ("unfit", "is of an authority that is revoked")
    assert made.work("install").due == set()
    # Done before: nothing is left to do.
    assert made.revoking_issuing().due == set()
    for verb in ("renew", "revoke", "crl"):
        with pytest.raises(FleetError, match=r"ca/issuing\.pem: is revoked, .*\nRemedy: .*site_pki_verb=create"):
            made.work(verb, "north-server")


def test_all_certificates_of_a_key_are_revoked_with_it(made: Made) -> None:
    before = made.root.sign(made.issuing.name, made.issuing.key, [x509.BasicConstraints(True, None)])
    kept = files.kept_name(files.authority_path(made.directory, "issuing"), before.serial_number)
    assert kept == f"issuing_authority.{before.serial_number:x}.pem"
    path = made.directory / "replaced" / kept
    write(path, before)
    assert files.kept_name(path, before.serial_number) == kept
    assert made.revoking_issuing().withdrawals == (files.authority_path(made.directory, "issuing"), path)
    write(made.directory / "revoked" / kept, before)
    assert made.revoking_issuing().withdrawals == (files.authority_path(made.directory, "issuing"),)


def test_revocation_of_the_issuing_authority_goes_on_after_an_interruption(made: Made) -> None:
    write(made.directory / "revoked/issuing.1.pem", made.issuing.certificate)
    work = made.revoking_issuing()
    assert work.settled(made.signers).due == {files.list_path(made.directory, "root")}


def test_revocation_of_the_issuing_authority_does_not_wait_for_the_root(made: Made) -> None:
    made.sign_list("root", days=0)
    made.signers["root"].key.unlink()
    work = made.revoking_issuing()
    with pytest.raises(FleetError, match=r"root\.key: the key of the root authority is not here"):
        work.settled(made.signers)


def test_another_issuing_authority_takes_the_place_of_one_that_is_revoked(made: Made) -> None:
    made.issue("hosts/north-server.pem", SERVER)
    made.revoke_issuing()
    everything = {"ca/issuing", "crl/issuing", "hosts/north-server", "nts/north-server"}
    assert made.due("create", "north-server") == everything
    key = made.signers["issuing"].key
    key_file(key, made.issuing.key)
    with pytest.raises(FleetError, match=r"issuing\.key: it is the key of .*, which is revoked\nRemedy: remove it"):
        made.work("create", "north-server")
    # A run was interrupted when the key was made, but not the certificate.
    another = Authority("issuing", made.root)
    key_file(key, another.key)
    assert made.due("create", "north-server") == everything
    first = made.issuing
    made.issuing = another
    write(files.authority_path(made.directory, "issuing"), another.certificate)
    made.issue("revoked/north-admin.1.pem", ("north-admin.small.example",), by=first)
    made.sign_list("issuing")
    # Its list names what it has signed itself, and nothing that went with the other.
    current = files.read_list(files.list_path(made.directory, "issuing"), another.certificate)
    assert current is not None
    assert not list(current)
    assert {each.state for each in state.revocation_lists(made.directory)} == {"valid"}
    assert made.states("north-server")["north-server", "hosts"] == "unfit"
    made.issue("hosts/north-server.pem", SERVER)
    assert made.states("north-server")["north-server", "hosts"] == "valid"


def test_root_is_needed_for_what_only_it_can_do(made: Made) -> None:
    root = made.signers["root"].key
    root.unlink()
    assert made.due("create", "north-server") == {"hosts/north-server", "nts/north-server"}
    made.sign_list("root", days=0)
    with pytest.raises(
        FleetError, match=f"{root}: the key of the root authority is not here\nRemedy: .*site_pki_root_key"
    ):
        made.work("crl")


def test_what_can_wait_for_the_root_is_a_warning(made: Made) -> None:
    made.signers["root"].key.unlink()
    ending = Authority("issuing", made.root, days=20)
    write(files.authority_path(made.directory, "issuing"), ending.certificate)
    key_file(made.signers["issuing"].key, ending.key)
    made.issuing = ending
    made.sign_list("issuing")
    work = made.work("renew")
    assert not work.due
    (warning,) = work.warnings
    assert "ca/issuing.pem: ends on " in warning
    key_file(made.signers["root"].key, made.root.key)
    assert made.due("renew") == {"ca/issuing"}


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
            lambda made: write(files.authority_path(made.directory, "issuing"), Authority("issuing").certificate),
            "ca/issuing.pem: cannot be used: is not signed by the root",
        ),
        (lambda made: files.authority_path(made.directory, "issuing").unlink(), "ca/issuing.pem: is not there"),
        (
            lambda made: files.authority_path(made.directory, "issuing").write_text("nonsense"),
            "ca/issuing.pem: is no certificate",
        ),
        (
            lambda made: (
                made.issue("revoked/x.1.pem", ("x",))
                and write(made.directory / "revoked/issuing.1.pem", made.issuing.certificate)
            ),
            "ca/issuing.pem: is revoked, and signs nothing any more",
        ),
    ],
)
def test_authority_that_cannot_sign(made: Made, break_it: Callable[[Made], object], said: str) -> None:
    made.issue("hosts/north-server.pem", SERVER, days=5)
    assert "hosts/north-server" in made.due("renew", "north-server")
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
    write(files.authority_path(made.directory, "issuing"), ended)
    assert made.due("renew") == {"ca/issuing"}
    with pytest.raises(FleetError, match=r"ca/issuing\.pem: ended on .*, and signs nothing any more"):
        made.work("crl", force=True)
    made.signers["root"].key.unlink()
    with pytest.raises(FleetError, match=r"root\.key: the key of the root authority is not here"):
        made.work("renew")


def test_missing_and_short_passphrases(made: Made) -> None:
    signer = made.signers["issuing"]
    with pytest.raises(FleetError, match="site_pki_issuing_passphrase is not set"):
        Signer(signer.authority, signer.key, "", signer.variable).load()
    with pytest.raises(FleetError, match="fewer than 12 characters"):
        Signer(signer.authority, signer.key.with_name("new"), "short", signer.variable).check_new()


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
    contents.judge_request(made.plan, "north-server", "hosts", request(SERVER, extensions("hosts", SERVER)), "here")


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
        contents.judge_request(made.plan, "north-server", "hosts", content, "requests/x.csr")


def test_common_name_fits() -> None:
    long = f"{'a' * 40}.{'b' * 40}.example"
    assert contents.common_name(long) == "a" * 40
    assert contents.common_name("short.example") == "short.example"
