# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates beside the site file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import read
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import SiteError

from .conftest import BASE, Load


def certificate(
    *names: str, days: int = 365, curve: ec.EllipticCurve | None = None, digest: hashes.HashAlgorithm | None = None
) -> bytes:
    """A certificate that ends in so many days."""
    key = ec.generate_private_key(curve or ec.BrainpoolP256R1())
    return _signed(key, names, days, digest or hashes.SHA256())


def _signed(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, names: tuple[str, ...], days: int, digest: hashes.HashAlgorithm
) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    end = datetime.now(UTC) + timedelta(days=days, minutes=5)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(end - timedelta(days=9000)).not_valid_after(end)
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    for name in ("ca", "hosts"):
        (tmp_path / "pki" / name).mkdir(parents=True)
    return tmp_path / "pki"


def test_certificates_that_fit(load_site: Load, pki: Path) -> None:
    (pki / "ca/site.pem").write_bytes(certificate(curve=ec.SECP256R1()))
    (pki / "hosts/north-server.pem").write_bytes(certificate("north-server.small.example"))
    (pki / "hosts/north-gw1.pem").write_bytes(certificate("north-gw1.small.example", "gateway.north.small.example"))
    loaded = load_site(BASE)
    assert loaded.warnings == ()
    assert list(loaded.plan.authorities) == ["site.pem"]


def test_certificate_that_soon_ends_is_a_warning(load_site: Load, pki: Path) -> None:
    (pki / "hosts/north-server.pem").write_bytes(certificate("north-server.small.example", days=20))
    (warning,) = load_site(BASE).warnings
    assert "hosts.north-server: " in warning
    assert ": ends on " in warning
    assert load_site({**BASE, "pki": {"warn_days": 10}}).warnings == ()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "hosts/north-server.pem",
            certificate("north-server.small.example", days=-1),
            "hosts.north-server: .*: ended on ",
        ),
        ("ca/site.pem", certificate(days=-1), "pki.directory: .*: ended on "),
        ("ca/site.pem", certificate(curve=ec.SECP384R1()), "its key is secp384r1"),
        ("ca/site.pem", certificate(digest=hashes.SHA512()), "is signed with sha512"),
        (
            "ca/site.pem",
            _signed(rsa.generate_private_key(65537, 2048), (), 9, hashes.SHA256()),
            "its key is _?RSAPublicKey",
        ),
        ("ca/site.pem", b"nonsense", "is no certificate"),
        ("hosts/north-server.pem", certificate("south-gw.small.example"), "does not name north-server.small.example"),
        ("hosts/north-server.pem", certificate(), "does not name north-server.small.example"),
        ("hosts/north-gw1.pem", certificate("north-gw1.small.example"), "does not name gateway.north.small.example"),
        ("hosts/east-server.pem", certificate("east-server.small.example"), "there is no host east-server"),
    ],
)
def test_certificate_that_does_not_fit(load_site: Load, pki: Path, file: str, content: bytes, said: str) -> None:
    (pki / file).write_bytes(content)
    with pytest.raises(SiteError, match=said):
        load_site(BASE)


def test_inventory_of_a_site_whose_certificates_have_ended(load_site: Load, pki: Path, site_file: Path) -> None:
    """Whoever makes new ones needs it; whoever would use them is refused."""
    for part in ("hosts", "nts"):
        (pki / part).mkdir(exist_ok=True)
        (pki / part / "north-server.pem").write_bytes(certificate("north-server.small.example", days=-1))
    with pytest.raises(SiteError):
        load_site(BASE)
    loaded = read(site_file)
    assert "north-server" in loaded.plan.members
    assert str(loaded.refused).count(": ended on ") == 2
