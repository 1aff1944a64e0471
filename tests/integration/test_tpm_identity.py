# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines prove by software TPMs who they are and what they run, and a server believes no other.

Machine `honest` has a TPM with a certificate of its manufacturer, the TPM of `other` has none. That of `curve` has one
for an elliptic curve key only, as small TPMs do.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from certificates import DAY
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from endorsement import Ends, Manufacturer
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk import SDK
from tpm_machines import authorities, machines

from ansible_collections.vauban.fleet.plugins.module_utils._boot.uki import extend
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import EK, Challenge, Quote
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.machine import AK

ZERO = "0" * 64
MEASURED = {4: "an installer", 11: "enter-initrd"}
EXPECTED: dict[int, str | None] = {4: extend(ZERO, MEASURED[4]), 7: None, 11: extend(ZERO, MEASURED[11]), 12: ZERO}
FIXED = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth"

pytestmark = [
    pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed: run 'make host'"),
]


@dataclass(frozen=True)
class Identity:
    """What one machine can show."""

    machine: str
    ek: EK
    ak: AK


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of the TPMs, and the manufacturers' authorities."""
    return tmp_path_factory.mktemp("tpm")


@pytest.fixture(scope="module")
def manufacturer(directory: Path) -> list[bytes]:
    """The authorities of the manufacturer: a root and one below it (PEM)."""
    return authorities(directory / "ca")


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, directory: Path) -> Iterator[Ends]:
    with machines(sandbox, directory, {"honest": "ca", "other": None, "curve": None}) as started:
        yield started


def identity_of(both: Ends, machine: str) -> Identity:
    return Identity(machine, both.machine(machine, "read_ek"), both.machine(machine, "make_ak"))


@pytest.fixture(scope="module")
def honest(both: Ends) -> Identity:
    identity = identity_of(both, "honest")
    both.machine("honest", "off")
    both.machine("honest", "boot", MEASURED)
    again = identity_of(both, "honest")
    assert again == identity
    return again


@pytest.fixture(scope="module")
def other(both: Ends) -> Identity:
    return identity_of(both, "other")


@pytest.fixture(scope="module")
def nonce() -> bytes:
    return secrets.token_bytes(32)


@pytest.fixture(scope="module")
def quote(both: Ends, honest: Identity, nonce: bytes) -> Quote:
    made = both.machine("honest", "quote", honest.ak, nonce, list(EXPECTED))
    assert isinstance(made, Quote)
    return made


def challenge(both: Ends, ek: EK, ak: AK) -> Challenge:
    made = both.server("make_challenge", ek.public, both.server("name_of", ak.public))
    assert isinstance(made, Challenge)
    return made


def test_machine_proves_its_tpm_and_its_registers(
    both: Ends, honest: Identity, manufacturer: list[bytes], quote: Quote, nonce: bytes
) -> None:
    endorsement = both.check_ek(honest.ek.public, honest.ek.certificate, manufacturer)
    assert endorsement.model.model == "swtpm"
    both.server("check_ak", honest.ak.public)
    asked = challenge(both, honest.ek, honest.ak)
    answer = both.machine("honest", "activate", honest.ak, asked.credential_blob, asked.secret)
    assert answer == asked.credential
    quoted = both.server("check_quote", honest.ak.public, quote, nonce, EXPECTED)
    assert quoted.pcrs == {**EXPECTED, 7: ZERO}


def test_tpm_without_certificate_is_known_by_its_key(both: Ends, other: Identity, manufacturer: list[bytes]) -> None:
    assert other.ek.certificate is None
    endorsement = both.check_ek(other.ek.public, None, manufacturer)
    assert endorsement.model is None
    shown = both.machine("other", "tool", "tpm2_readpublic", "-c", "ek.context", "-f", "der", "-o", "/dev/stdout", "-Q")
    assert endorsement.sha256 == hashlib.sha256(shown).hexdigest()
    asked = challenge(both, other.ek, other.ak)
    answer = both.machine("other", "activate", other.ak, asked.credential_blob, asked.secret)
    assert answer == asked.credential


def test_tpm_with_a_certificate_for_an_elliptic_curve_key(both: Ends) -> None:
    maker = Manufacturer.make("maker")
    both.machine("curve", "tool", "tpm2_createek", "-G", "ecc", "-c", "curve.context", "-u", "curve.pem", "-f", "pem")
    key = load_pem_public_key(both.machine("curve", "leftovers")["curve.pem"][1])
    assert isinstance(key, ec.EllipticCurvePublicKey)
    padded = maker.vouch(key, usage={"key_encipherment": False, "key_agreement": True}) + b"\xff" * 40
    access = ["-C", "p", "-s", str(len(padded)), "-a", "ppwrite|ppread|ownerread|authread|no_da|platformcreate"]
    both.machine("curve", "tool", "tpm2_nvdefine", "0x1c0000a", *access)
    both.machine("curve", "feed", padded, "tpm2_nvwrite", "0x1c0000a", "-C", "p", "-i", "-")

    shown = identity_of(both, "curve")
    endorsement = both.check_ek(shown.ek.public, shown.ek.certificate, [maker.pem])
    assert endorsement.model.manufacturer == "id:54455354"
    asked = challenge(both, shown.ek, shown.ak)
    assert both.machine("curve", "activate", shown.ak, asked.credential_blob, asked.secret) == asked.credential
    for wrong, problem in ((maker.vouch(key, ends=-DAY), "certificate has expired"), (padded, "no X.509 certificate")):
        with pytest.raises(FleetError, match=problem):
            both.check_ek(shown.ek.public, wrong, [maker.pem])


def test_keys_and_counters_over_a_boot(both: Ends, other: Identity, nonce: bytes) -> None:
    def quoted(ak: AK) -> Any:
        made = both.machine("other", "quote", ak, nonce, [4])
        return both.server("check_quote", ak.public, made, nonce, {4: None})

    before = quoted(both.machine("other", "make_ak"))
    both.machine("other", "off")
    both.machine("other", "boot", {4: "a loader"})
    again = identity_of(both, "other")
    assert (again.ek, again.ak) == (other.ek, other.ak)
    after = quoted(again.ak)
    assert after.resets == before.resets + 1
    assert after.pcrs == {4: extend(before.pcrs[4], "a loader")} == {4: extend(ZERO, "a loader")}


def test_only_root_reads_what_the_tools_leave_and_no_credential_stays(both: Ends, honest: Identity) -> None:
    asked = challenge(both, honest.ek, honest.ak)
    both.machine("honest", "activate", honest.ak, asked.credential_blob, asked.secret)
    files = both.machine("honest", "leftovers")
    ours = {name: mode for name, (mode, _content) in files.items() if re.match(r"(ek|ak)\.|challenge", name)}
    assert ours == dict.fromkeys(
        ["ak.context", "ak.public", "challenge", "ek.certificate", "ek.context", "ek.public"], 0o600
    )
    assert not [name for name, (_mode, content) in files.items() if asked.credential in content]


def test_manufacturer_nobody_trusts(both: Ends, honest: Identity, manufacturer: list[bytes]) -> None:
    for trusted in ([Manufacturer.make("unknown").pem], manufacturer[:1]):
        with pytest.raises(FleetError, match="EK certificate: it is refused: unable to get local issuer certificate"):
            both.check_ek(honest.ek.public, honest.ek.certificate, trusted)
    with pytest.raises(FleetError, match="the site trusts no manufacturer of TPMs"):
        both.check_ek(honest.ek.public, honest.ek.certificate, [])


def test_certificate_of_another_tpm(both: Ends, honest: Identity, other: Identity, manufacturer: list[bytes]) -> None:
    with pytest.raises(FleetError, match="it is for another key than this machine's endorsement key"):
        both.check_ek(other.ek.public, honest.ek.certificate, manufacturer)


def test_attestation_key_is_no_endorsement_key(both: Ends, honest: Identity) -> None:
    with pytest.raises(FleetError, match="endorsement key: it is not decrypt"):
        both.check_ek(honest.ak.public, None, [])


@pytest.mark.parametrize(
    ("attributes", "algorithm", "problem"),
    [
        (f"{FIXED}|sign", "ecc256:ecdsa-sha256:null", "it is not restricted"),
        (f"{FIXED}|restricted|decrypt", "ecc256:null:aes128cfb", "it must not be decrypt"),
        (f"{FIXED}|sign|decrypt", "rsa2048:null:null", "it is not restricted"),
        ("sensitivedataorigin|userwithauth|restricted|sign", "ecc256:ecdsa-sha256:null", "it is not fixedTPM"),
        (f"{FIXED}|restricted|sign|stclear", "ecc256:ecdsa-sha256:null", "it must not be stClear"),
        (f"{FIXED}|restricted|sign", "ecc384:ecdsa-sha384:null", "it signs with something else"),
        (f"{FIXED}|restricted|sign", "rsa2048:rsassa-sha1:null", "it signs with something else"),
        (f"{FIXED}|restricted|sign", "ecc384:ecdsa-sha256:null", "it is on another curve than P-256"),
    ],
)
def test_keys_that_must_not_attest(both: Ends, attributes: str, algorithm: str, problem: str) -> None:
    key = both.machine("other", "make_key", attributes, algorithm)
    with pytest.raises(FleetError, match=f"attestation key: {problem}"):
        both.server("check_ak", key.public)


@pytest.mark.parametrize("scheme", ["rsapss", "rsassa"])
def test_rsa_keys_may_attest(both: Ends, nonce: bytes, scheme: str) -> None:
    key = both.machine("other", "make_key", f"{FIXED}|restricted|sign", f"rsa2048:{scheme}-sha256:null")
    both.server("check_ak", key.public)
    words = ["-c", "key.context", "-l", "sha256:12", "-q", nonce.hex(), "-g", "sha256", "--scheme", scheme]
    both.machine("other", "tool", "tpm2_quote", *words, "-m", "rsa", "-s", "rsa.signature")
    files = both.machine("other", "leftovers")
    made = Quote(files["rsa"][1], files["rsa.signature"][1], {12: ZERO})
    both.server("check_quote", key.public, made, nonce, {12: ZERO})
    changed = replace(made, signature=flipped(made.signature, -1))
    assert refusal(both, key, changed, nonce, {12: ZERO}) == "this attestation key has not signed it"


def edited(public: bytes, offset: int, new: bytes, length: int) -> bytes:
    """A TPM2B_PUBLIC with other bytes at a place, and a size that fits."""
    area = public[2:offset] + new + public[offset + length :]
    return len(area).to_bytes(2, "big") + area


@pytest.mark.parametrize(
    ("offset", "new", "length", "problem"),
    [
        (4, b"\0\x0c", 2, "its name is not made with SHA-256"),
        (48, b"\0\x42", 2, "it protects credentials by something else"),
        (46, b"\0\xc0", 2, "it protects credentials by something else"),
        (44, b"\0\x10", 6, "it protects credentials by something else"),
        (50, b"\0\x14\0\x0b", 2, "it has a scheme, so it is no storage key"),
        (52, b"\x0c\0", 2, "it is no RSA key of 2048"),
        (54, b"\0\0\0\3", 4, "it is no RSA key of 2048"),
        (60, b"\0", 1, "it is no RSA key of 2048"),
    ],
)
def test_weak_or_odd_endorsement_key(
    both: Ends, honest: Identity, offset: int, new: bytes, length: int, problem: str
) -> None:
    """Offsets of template L-1: name algorithm, policy, symmetric algorithm (44), scheme, size, exponent, modulus."""
    with pytest.raises(FleetError, match=f"endorsement key: {problem}"):
        both.check_ek(edited(honest.ek.public, offset, new, length), None, [])


def test_attestation_key_with_a_symmetric_algorithm(both: Ends, honest: Identity) -> None:
    with pytest.raises(FleetError, match="attestation key: it has a symmetric algorithm"):
        both.server("check_ak", edited(honest.ak.public, 12, b"\0\6\0\x80\0\x43", 2))


def test_every_attribute_of_an_attestation_key_counts(both: Ends, honest: Identity) -> None:
    """All but those that say how the key is used, which the TPM's owner may decide."""
    accepted = set()
    for bit in range(32):
        public = bytearray(honest.ak.public)
        public[6 + 3 - bit // 8] ^= 1 << bit % 8  # behind size, type and name algorithm
        with contextlib.suppress(FleetError):
            both.server("check_ak", bytes(public))
            accepted.add(bit)
    assert accepted == {6, 7, 10}  # userWithAuth, adminWithPolicy, noDA


def test_key_made_outside_a_tpm(both: Ends, honest: Identity) -> None:
    """It looks right, but no TPM has it, so none answers a challenge for it."""
    forged = Forger(both, honest.ak).ak
    both.server("check_ak", forged.public)
    asked = challenge(both, honest.ek, forged)
    with pytest.raises(FleetError, match="it is for another TPM or another attestation key"):
        both.machine("honest", "activate", honest.ak, asked.credential_blob, asked.secret)


def test_point_that_is_on_no_curve(both: Ends, honest: Identity) -> None:
    with pytest.raises(FleetError, match="its numbers are no public key"):
        both.server("check_ak", flipped(honest.ak.public, -1))


def test_challenge_for_another_tpm(both: Ends, honest: Identity, other: Identity) -> None:
    asked = challenge(both, honest.ek, honest.ak)
    with pytest.raises(FleetError, match="it is for another TPM or another attestation key"):
        both.machine("other", "activate", other.ak, asked.credential_blob, asked.secret)


def test_challenge_for_another_key(both: Ends, honest: Identity) -> None:
    key = both.machine("honest", "make_key", f"{FIXED}|sign")
    asked = challenge(both, honest.ek, key)
    with pytest.raises(
        FleetError, match=r"it is for another TPM or another attestation key \(.*integrity check failed"
    ):
        both.machine("honest", "activate", honest.ak, asked.credential_blob, asked.secret)


def test_changed_challenge(both: Ends, honest: Identity) -> None:
    asked = challenge(both, honest.ek, honest.ak)
    with pytest.raises(FleetError, match="it is for another TPM or another attestation key"):
        both.machine("honest", "activate", honest.ak, flipped(asked.credential_blob, -1), asked.secret)


def refusal(both: Ends, ak: AK, quote: Quote, nonce: bytes, expected: dict[int, Any] | None = None) -> str:
    with pytest.raises(FleetError) as caught:
        both.server("check_quote", ak.public, quote, nonce, expected or EXPECTED)
    assert caught.value.where == "quote"
    return caught.value.message


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def test_replayed_quote(both: Ends, honest: Identity, quote: Quote) -> None:
    new = secrets.token_bytes(32)
    assert refusal(both, honest.ak, quote, new) == "it answers another nonce than this one"


def test_forgotten_nonce(both: Ends, honest: Identity) -> None:
    made = both.machine("honest", "quote", honest.ak, b"\0", list(EXPECTED))
    assert "a nonce of 1 bytes" in refusal(both, honest.ak, made, b"\0")


def test_quote_of_another_machine(both: Ends, honest: Identity, other: Identity, nonce: bytes) -> None:
    foreign = both.machine("other", "quote", other.ak, nonce, list(EXPECTED))
    assert refusal(both, honest.ak, foreign, nonce) == "this attestation key has not signed it"


def test_key_of_another_hierarchy(both: Ends, nonce: bytes) -> None:
    key = both.machine("other", "make_key", f"{FIXED}|restricted|sign", "ecc256:ecdsa-sha256:null", "o")
    both.server("check_ak", key.public)
    made = both.machine("other", "quote", key, nonce, [12])
    assert refusal(both, key, made, nonce, {12: ZERO}) == "its signer is no primary key of the endorsement hierarchy"


@pytest.mark.parametrize("registers", [[4, 11, 12], [4, 7, 11, 12, 13], [4, 7, 11, 16]])
def test_quote_of_other_registers(both: Ends, honest: Identity, nonce: bytes, registers: list[int]) -> None:
    made = both.machine("honest", "quote", honest.ak, nonce, registers)
    shown = f"it is about the registers {registers} instead of [4, 7, 11, 12]"
    assert refusal(both, honest.ak, made, nonce) == shown
    lie = replace(made, pcrs={number: value or ZERO for number, value in EXPECTED.items()})
    assert refusal(both, honest.ak, lie, nonce) == shown


def test_other_system_is_running(both: Ends, honest: Identity, other: Identity, nonce: bytes) -> None:
    made = both.machine("other", "quote", other.ak, nonce, list(EXPECTED))
    assert refusal(both, other.ak, made, nonce).startswith("PCR 4 is ")
    lie = replace(made, pcrs={**made.pcrs, 4: EXPECTED[4], 11: EXPECTED[11]})
    assert refusal(both, other.ak, lie, nonce) == "the values sent with it are not those that the TPM signed"


@pytest.mark.parametrize(
    "pcrs", [{}, {4: ZERO}, {4: "", 7: "", 11: "", 12: ""}, {**EXPECTED, 7: ZERO.upper() + "A"}, {**EXPECTED, 7: 0}]
)
def test_values_that_are_none(both: Ends, honest: Identity, quote: Quote, nonce: bytes, pcrs: dict[int, Any]) -> None:
    problem = refusal(both, honest.ak, replace(quote, pcrs=pcrs), nonce)
    assert problem == "the values sent with it are not one SHA-256 digest for each register"


def test_flipped_bits(both: Ends, honest: Identity, quote: Quote, nonce: bytes) -> None:
    for position in range(len(quote.attest)):
        refusal(both, honest.ak, replace(quote, attest=flipped(quote.attest, position)), nonce)
    for position in range(len(quote.signature)):
        refusal(both, honest.ak, replace(quote, signature=flipped(quote.signature, position)), nonce)
    inner = replace(quote, attest=flipped(quote.attest, -1))
    assert refusal(both, honest.ak, inner, nonce) == "this attestation key has not signed it"
    outside = replace(quote, attest=flipped(quote.attest, 0))
    assert refusal(both, honest.ak, outside, nonce).startswith("it was not made inside a TPM")


def test_other_statement_of_the_same_key(both: Ends, honest: Identity, quote: Quote, nonce: bytes) -> None:
    """A restricted key signs other things that its TPM says, for example the time."""
    words = ["tpm2_gettime", "-c", "ak.context", "-q", nonce.hex(), "--attestation", "time", "-o", "time.signature"]
    both.machine("honest", "tool", *words)
    files = both.machine("honest", "leftovers")
    stated = replace(quote, attest=files["time"][1], signature=files["time.signature"][1])
    assert refusal(both, honest.ak, stated, nonce) == "it states something else than registers"


class Forger:
    """An attestation key outside any TPM, which therefore signs whatever it likes. No machine answers for it."""

    def __init__(self, both: Ends, model: AK) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        numbers = sized(point[1:33]) + sized(point[33:])
        self.ak = replace(model, public=model.public[: -len(numbers)] + numbers)
        name = both.server("name_of", self.ak.public)
        self._signer = b"\0\x0b" + hashlib.sha256(bytes.fromhex("4000000b") + name).digest()

    def quote(self, nonce: bytes, selection: bytes, digest: hashes.HashAlgorithm, algorithm: bytes) -> Quote:
        """A quote of register 12.

        :param selection: TPML_PCR_SELECTION.
        """
        attest = bytes.fromhex("ff544347 8018") + sized(self._signer) + sized(nonce) + bytes(17 + 8)
        attest += selection + sized(hashlib.sha256(bytes(32)).digest())
        numbers = decode_dss_signature(self._key.sign(attest, ec.ECDSA(digest)))
        signature = b"\0\x18" + algorithm + b"".join(sized(number.to_bytes(32, "big")) for number in numbers)
        return Quote(attest, signature, {12: ZERO})


def sized(data: bytes) -> bytes:
    """TPM2B."""
    return len(data).to_bytes(2, "big") + data


SHA1, SHA256, SHA384 = b"\0\4", b"\0\x0b", b"\0\x0c"
REGISTER_12 = b"\3\0\x10\0"


@pytest.mark.parametrize(
    ("selection", "digest", "algorithm", "problem"),
    [
        (b"\0\0\0\1" + SHA256 + REGISTER_12, hashes.SHA256(), SHA256, None),
        (b"\0\0\0\1" + SHA256 + REGISTER_12, hashes.SHA384(), SHA384, "it is signed by another scheme"),
        (b"\0\0\0\1" + SHA1 + REGISTER_12, hashes.SHA256(), SHA256, "it is not about registers of the SHA-256 bank"),
        (b"\0\0\0\2" + (SHA256 + REGISTER_12) * 2, hashes.SHA256(), SHA256, "it is not about registers of the SHA"),
        (b"\0\0\0\0", hashes.SHA256(), SHA256, "it is not about registers of the SHA-256 bank alone"),
    ],
)
def test_statements_that_no_tpm_would_sign(
    both: Ends,
    honest: Identity,
    nonce: bytes,
    selection: bytes,
    digest: hashes.HashAlgorithm,
    algorithm: bytes,
    problem: str | None,
) -> None:
    forger = Forger(both, honest.ak)
    made = forger.quote(nonce, selection, digest, algorithm)
    if problem is None:
        both.server("check_quote", forger.ak.public, made, nonce, {12: ZERO})
    else:
        assert refusal(both, forger.ak, made, nonce, {12: ZERO}).startswith(problem)


def test_truncated_and_extended_structures(both: Ends, honest: Identity, quote: Quote, nonce: bytes) -> None:
    for length in range(len(quote.attest)):
        refusal(both, honest.ak, replace(quote, attest=quote.attest[:length]), nonce)
    for length in range(len(quote.signature)):
        refusal(both, honest.ak, replace(quote, signature=quote.signature[:length]), nonce)
    assert "this is no TPMS_ATTEST" in refusal(both, honest.ak, replace(quote, attest=quote.attest + b"\0"), nonce)
    longer = replace(quote, signature=quote.signature + b"\0")
    assert "this is no TPMT_SIGNATURE" in refusal(both, honest.ak, longer, nonce)
    for data in (honest.ak.public, honest.ek.public):
        for length in range(len(data)):
            for function in ("check_ak", "name_of"):
                with pytest.raises(FleetError):
                    both.server(function, data[:length])
            with pytest.raises(FleetError):
                both.check_ek(data[:length], None, [])


GARBAGE = st.binary(max_size=600)


def harmless(both: Ends, function: str, *arguments: Any) -> None:
    """The function refuses or accepts; anything else fails in the call."""
    with contextlib.suppress(FleetError):
        both.server(function, *arguments)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with some bytes replaced, left out or put in."""
    changed = bytearray(data)
    for _change in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        changed[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(changed)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_garbage_is_refused(both: Ends, honest: Identity, quote: Quote, nonce: bytes, data: st.DataObject) -> None:
    ek = data.draw(GARBAGE | damaged(honest.ek.public), "EK")
    ak = data.draw(GARBAGE | damaged(honest.ak.public), "AK")
    certificate = data.draw(GARBAGE | damaged(honest.ek.certificate or b""), "certificate")
    attest = data.draw(GARBAGE | damaged(quote.attest), "attest")
    signature = data.draw(GARBAGE | damaged(quote.signature), "signature")
    for public in (ek, ak):
        for function in ("check_ak", "name_of"):
            harmless(both, function, public)
        harmless(both, "make_challenge", public, data.draw(st.binary(max_size=40), "name"))
        harmless(both, "check_quote", public, quote, nonce, EXPECTED)
    for sent in (ek, honest.ek.public):
        for shown in (None, certificate):
            if sent != honest.ek.public or shown not in (None, honest.ek.certificate):
                with contextlib.suppress(FleetError):
                    both.check_ek(sent, shown, [])
    for part in ({"attest": attest}, {"signature": signature}, {"attest": attest, "signature": signature}):
        changed = replace(quote, **part)
        if changed != quote:
            refusal(both, honest.ak, changed, nonce)
