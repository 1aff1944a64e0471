# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests are those that the site signs, and keys end up where services read them and nobody else."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
from certificates import P256, Authority, Certificate, ec_key
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from ansible_collections.vauban.fleet.plugins.module_utils import _command
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import certificates
from ansible_collections.vauban.fleet.plugins.module_utils._site.certificate_request import Given, fault

IKE = "1.3.6.1.5.5.7.3.17"
SERVER = "1.3.6.1.5.5.7.3.1"
NAMES = ["paris-gw1.example.internal", "gateway.paris.example.internal"]
HOST = {"name": "hosts", "subject": NAMES[0], "dns": NAMES, "usages": [IKE]}
ROOT = Authority.root("Site", ec_key(P256))
ISSUING = ROOT.issuing("Issuing", ec_key(P256))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where keys wait."""
    (tmp_path / "keys").mkdir(mode=0o700)
    return tmp_path / "keys"


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A core with role strongswan; its accounts are whoever runs the test, who may give files to nobody else."""
    root = tmp_path / "core"
    (root / "etc/swanctl").mkdir(parents=True)
    for name in ("private", "x509"):
        (root / "etc/swanctl" / name).symlink_to(f"../../var/lib/vauban/ipsec/{name}")
    own = f"{os.getuid()}:{os.getgid()}"
    users = [f"{name}:x:{own}::/:/usr/sbin/nologin\n" for name in ("root", "ipsec")]
    (root / "etc/passwd").write_text("".join(users))
    groups = [f"{name}:x:{os.getgid()}:\n" for name in ("root", "ipsec", "_chrony", "www-data")]
    (root / "etc/group").write_text("".join(groups))
    return root


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for name in ("configuration/etc", "var"):
        (tmp_path / "state" / name).mkdir(parents=True)
    return tmp_path / "state"


def signed(request: bytes) -> Certificate:
    """The certificate that a request asks for."""
    asked = x509.load_pem_x509_csr(request)
    stand_in = ISSUING.issue(NAMES[0], ec_key(P256))
    builder = x509.CertificateBuilder(
        stand_in.certificate.issuer, asked.subject, asked.public_key(), stand_in.certificate.serial_number
    )
    builder = builder.not_valid_before(stand_in.certificate.not_valid_before_utc)
    builder = builder.not_valid_after(stand_in.certificate.not_valid_after_utc)
    return Certificate(builder.sign(ISSUING.key, asked.signature_hash_algorithm), stand_in.key)  # type: ignore[arg-type]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_site_signs_the_request(directory: Path) -> None:
    assert fault(certificates.make(directory, HOST).decode(), Given(NAMES[0], NAMES, [IKE])) == ""
    assert mode(directory / "hosts.key") == 0o600


def test_key_is_in_no_command_line(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def run(argv: Any, **options: Any) -> Any:
        commands.append(" ".join(map(str, argv)))
        return _command.run(argv, **options)

    monkeypatch.setattr(certificates, "run", run)
    certificates.make(directory, HOST)
    secret = (directory / "hosts.key").read_text().splitlines()[1]
    assert commands
    assert [command for command in commands if secret in command] == []


@pytest.mark.parametrize(
    ("name", "key", "certificate", "modes", "in_file"),
    [
        ("hosts", "ipsec/private/host.pem", "ipsec/x509/host.pem", (0o700, 0o600), 1),
        ("nts", "nts/key.pem", "nts/certificate.pem", (0o750, 0o640), 2),
        ("https", "https/key.pem", "https/certificate.pem", (0o750, 0o640), 2),
    ],
)
def test_key_and_certificate_are_where_their_service_reads_them(
    directory: Path,
    state: Path,
    core: Path,
    name: str,
    key: str,
    certificate: str,
    modes: tuple[int, int],
    in_file: int,
) -> None:
    made = signed(certificates.make(directory, {**HOST, "name": name, "usages": [SERVER]}))
    evidence = certificates.place(directory, name, made.pem + ISSUING.pem + ROOT.pem, state, core)
    own = state / "var/lib/vauban"
    assert (mode((own / key).parent), mode(own / key)) == modes
    assert mode(own / certificate) == 0o644
    placed = x509.load_pem_x509_certificates((own / certificate).read_bytes())
    assert placed == [made.certificate, ISSUING.certificate][:in_file]
    public = load_pem_private_key((own / key).read_bytes(), None).public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public.public_bytes(*form) == made.certificate.public_key().public_bytes(*form)
    assert evidence == {
        "name": name,
        "sha256": made.certificate.fingerprint(made.certificate.signature_hash_algorithm).hex(),
    }  # type: ignore[arg-type]
    assert list(directory.iterdir()) == []


def test_certificate_is_shown_alone_while_its_key_waits(directory: Path) -> None:
    """Its authorities are left out, and ``place`` finds everything as it was."""
    made = signed(certificates.make(directory, HOST))
    certificate, key = certificates.shown(directory, "hosts", made.pem + ISSUING.pem + ROOT.pem)
    assert certificate.read_bytes() == made.pem
    assert mode(key) == 0o600
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key)
    with pytest.raises(FleetError, match="the site gave no certificate"):
        certificates.shown(directory, "hosts", b"")


def test_certificate_of_another_key_is_refused(directory: Path, state: Path, core: Path) -> None:
    certificates.make(directory, HOST)
    with pytest.raises(FleetError, match="of another key"):
        certificates.place(directory, "hosts", ISSUING.issue(NAMES[0], ec_key(P256)).pem, state, core)
    assert list((state / "var").iterdir()) == []


@pytest.mark.parametrize("chain", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(directory: Path, state: Path, core: Path, chain: bytes) -> None:
    certificates.make(directory, HOST)
    with pytest.raises(FleetError, match=r"gave no certificate|cannot be read"):
        certificates.place(directory, "hosts", chain, state, core)


def test_account_that_the_core_does_not_have(directory: Path, state: Path, core: Path) -> None:
    (core / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    made = signed(certificates.make(directory, HOST))
    with pytest.raises(FleetError, match="no such account"):
        certificates.place(directory, "hosts", made.pem, state, core)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"name": "../hosts"},
        {"subject": "a/O=b"},
        {"subject": ""},
        {"dns": ["a.example", "b,IP:192.0.2.1"]},
        {"dns": ["a\nb"]},
        {"usages": ["serverAuth"]},
        {"usages": ["1.2,anyExtendedKeyUsage"]},
    ],
)
def test_what_is_no_wish_for_a_certificate_is_refused(directory: Path, change: dict[str, Any]) -> None:
    with pytest.raises(FleetError):
        certificates.make(directory, {**HOST, **change})
    assert list(directory.iterdir()) == []


def test_directory_that_others_can_read_is_refused(directory: Path) -> None:
    directory.chmod(0o755)
    with pytest.raises(FleetError, match="for its owner only"):
        certificates.make(directory, HOST)


def test_keys_of_before_are_gone_when_others_come(directory: Path, state: Path, core: Path) -> None:
    """A volume that stays gets keys of the machine that it is in now."""
    for __ in range(2):
        certificates.remove(state, core)
        made = signed(certificates.make(directory, HOST))
        certificates.place(directory, "hosts", made.pem + ISSUING.pem + ROOT.pem, state, core)
    placed = x509.load_pem_x509_certificates((state / "var/lib/vauban/ipsec/x509/host.pem").read_bytes())
    assert placed == [made.certificate]
    certificates.remove(state, core)
    assert not [path for path in state.rglob("*") if path.is_file()]
