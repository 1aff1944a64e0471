# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime
from typing import Any

import pytest
from certificates import DAY
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from endorsement import MODEL, PLATFORM_CERTIFICATE, Manufacturer
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import TpmModel
from vauban_enrolment import ek_certificate
from vauban_enrolment.verifier import Unable

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
ROOT = Manufacturer.make("root")
MIDDLE = Manufacturer.make("middle", above=ROOT)
TRUSTED = [ROOT.certificate, MIDDLE.certificate]


def info(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def refusal(der: bytes, trusted: list[x509.Certificate] | None = None) -> str:
    with pytest.raises(FleetError) as caught:
        ek_certificate.check(der, info(KEY), TRUSTED if trusted is None else trusted)
    assert caught.value.where == "EK certificate"
    return caught.value.message


@pytest.mark.parametrize("key", [KEY, RSA_KEY])
def test_manufacturer_vouches(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> None:
    usage = {"key_agreement": True} if isinstance(key, ec.EllipticCurvePublicKey) else {"key_encipherment": True}
    model = ek_certificate.check(MIDDLE.vouch(key, usage={"key_encipherment": False, **usage}), info(key), TRUSTED)
    assert model == TpmModel("id:54455354", "T1000", "id:00010002")


def test_root_vouches_itself() -> None:
    assert ek_certificate.check(ROOT.vouch(KEY), info(KEY), [ROOT.certificate]).model == "T1000"


def test_other_key() -> None:
    assert refusal(MIDDLE.vouch(RSA_KEY)) == "it is for another key than this machine's endorsement key"


def test_unknown_authority() -> None:
    unknown = "it is refused: unable to get local issuer certificate"
    assert refusal(MIDDLE.vouch(KEY), [Manufacturer.make("other").certificate]) == unknown
    assert refusal(MIDDLE.vouch(KEY), []) == "the site trusts no manufacturer of TPMs"


def test_authority_without_its_root() -> None:
    assert "unable to get" in refusal(MIDDLE.vouch(KEY), [MIDDLE.certificate])


def test_namesake_of_an_authority() -> None:
    for name in ("root", "middle"):
        assert refusal(Manufacturer.make(name).vouch(KEY)) == "it is refused: certificate signature failure"


@pytest.mark.parametrize("ends", [-DAY, -datetime.timedelta(seconds=1)])
def test_expired(ends: datetime.timedelta) -> None:
    assert refusal(MIDDLE.vouch(KEY, ends=ends)) == "it is refused: certificate has expired"


def test_expired_authority() -> None:
    old = Manufacturer.make("old", above=ROOT, ends=-DAY)
    trusted = [ROOT.certificate, old.certificate]
    assert refusal(old.vouch(KEY), trusted) == "the authority 1 above it is refused: certificate has expired"


def test_holder_of_a_certificate_is_no_authority() -> None:
    holder = Manufacturer.make("holder", above=ROOT, authority=False)
    problem = refusal(holder.vouch(KEY), [ROOT.certificate, holder.certificate])
    assert problem == "the authority 1 above it is refused: invalid CA certificate"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"purpose": PLATFORM_CERTIFICATE}, "its extended key usage is not that of an endorsement key"),
        ({"usage": {"key_encipherment": False, "digital_signature": True}}, "its key usage does not allow encryption"),
        ({"authority": True}, "it is one of an authority"),
        ({"model": {"2.5.4.3": "T1000"}}, "its subjectAltName does not describe a TPM: 2.23.133.2.1, 2.23.133.2.2"),
        ({"model": {oid: MODEL[oid] for oid in list(MODEL)[:2]}}, "describe a TPM: 2.23.133.2.3 missing"),
        (
            {"further": [x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")]},
            "it is refused: unhandled critical extension",
        ),
    ],
)
def test_certificate_of_something_else(changes: dict[str, object], problem: str) -> None:
    assert problem in refusal(MIDDLE.vouch(KEY, **changes))  # type: ignore[arg-type]


def test_web_server_is_no_tpm() -> None:
    names = x509.SubjectAlternativeName([x509.DNSName("tpm.example")])
    good = x509.load_der_x509_certificate(MIDDLE.vouch(KEY))
    builder = x509.CertificateBuilder(
        good.issuer, good.subject, KEY, 1, good.not_valid_before_utc, good.not_valid_after_utc
    )
    signed = builder.add_extension(names, critical=True).sign(MIDDLE.key, good.signature_hash_algorithm)
    assert "does not describe a TPM" in refusal(signed.public_bytes(Encoding.DER))


GOOD = MIDDLE.vouch(KEY)


def test_certificates_cut_off() -> None:
    for length in range(len(GOOD)):
        assert refusal(GOOD[:length]) == "this is no X.509 certificate that can be read"
    assert refusal(GOOD + b"\0") == "this is no X.509 certificate that can be read"
    assert refusal(bytes(20_000)) == "it has more than 16384 bytes"


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=400) | st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)))
def test_garbage_is_refused(data: bytes | tuple[int, int]) -> None:
    if isinstance(data, tuple):
        changed = bytearray(GOOD)
        changed[data[0]] ^= data[1]
        data = bytes(changed)
    assert refusal(data)


@pytest.mark.parametrize("trouble", ["not started", "ended by a signal"])
def test_trouble_of_the_server_is_no_fault_of_the_certificate(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when there is no process left, or no memory."""

    def run(*_words: Any, **_options: Any) -> Completed:
        if trouble == "not started":
            raise FleetError("openssl cannot be started: Resource temporarily unavailable")
        return Completed(("openssl",), -9, b"", b"")

    monkeypatch.setattr(ek_certificate, "run", run)
    with pytest.raises(Unable, match="openssl"):
        ek_certificate.check(ROOT.vouch(KEY), info(KEY), TRUSTED)
