# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509
from tpm2_pytss import TPM2_ALG, TPM2_ECC, TPM2_GENERATED, TPM2_RH, TPM2_ST, TPMA_OBJECT
from tpm2_pytss.types import TPM2B_PUBLIC, TPMS_ATTEST, TPMT_SIGNATURE
from tpm2_pytss.utils import make_credential

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import Challenge, Endorsement, Quote, Quoted
from vauban_enrolment import ek_certificate
from vauban_enrolment.refusal import refusing

_EK, _AK, _QUOTE = "endorsement key", "attestation key", "quote"
_CREDENTIAL_SIZE = 32  # bytes; a TPM takes as many as the EK's name algorithm gives
_SHORTEST_NONCE = 16  # bytes
_LARGEST = 4096  # bytes; no structure that is exchanged comes near
_DIGEST = re.compile(r"[0-9a-f]{64}")
_EXPONENTS = (0, 65537)  # 0 stands for the usual one

# TPMA_OBJECT, TPM 2.0 Library part 2, section 8.3. What is in neither list is refused, whatever it may come to mean.
_FIXED = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN | TPMA_OBJECT.RESTRICTED
_INDIFFERENT = TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.ADMINWITHPOLICY | TPMA_OBJECT.NODA
_ATTRIBUTES = {
    TPMA_OBJECT.FIXEDTPM: "fixedTPM",
    TPMA_OBJECT.STCLEAR: "stClear",
    TPMA_OBJECT.FIXEDPARENT: "fixedParent",
    TPMA_OBJECT.SENSITIVEDATAORIGIN: "sensitiveDataOrigin",
    TPMA_OBJECT.ENCRYPTEDDUPLICATION: "encryptedDuplication",
    TPMA_OBJECT.RESTRICTED: "restricted",
    TPMA_OBJECT.DECRYPT: "decrypt",
    TPMA_OBJECT.SIGN_ENCRYPT: "sign",
}


def check_ek(public: bytes, certificate: bytes | None, authorities: Sequence[x509.Certificate]) -> Endorsement:
    """Check an endorsement key and its certificate.

    :param public: TPM2B_PUBLIC.
    :param certificate: X.509 (DER). Without one, only a list of keys (``sha256``) can say whether the TPM is real. A
        certificate is never ignored: a site that goes by a list alone passes none.
    :raises FleetError: says which check failed.
    """
    area = _public(public, _EK)
    _check_attributes(area, _FIXED | TPMA_OBJECT.DECRYPT, _EK)
    detail = area.parameters.asymDetail
    if detail.scheme.scheme != TPM2_ALG.NULL:
        raise FleetError("it has a scheme, so it is no storage key", where=_EK)
    symmetric = detail.symmetric
    usable = (symmetric.algorithm, symmetric.mode.sym) == (TPM2_ALG.AES, TPM2_ALG.CFB)
    if not usable or symmetric.keyBits.sym not in (128, 256):
        raise FleetError("it protects credentials by something else than AES-CFB with 128 or 256 bits", where=_EK)
    _check_strength(area, _EK)
    key = _subject_public_key(area, _EK)
    model = None if certificate is None else ek_certificate.check(certificate, key, authorities)
    return Endorsement(hashlib.sha256(key).hexdigest(), model)


def check_ak(public: bytes) -> None:
    """Check that a key can only have been made by a TPM, never leaves it, and signs nothing but its TPM's statements.

    That it is in the same TPM as an endorsement key is proven by answering a challenge.

    :param public: TPM2B_PUBLIC.
    :raises FleetError: says which check failed.
    """
    area = _public(public, _AK)
    _check_attributes(area, _FIXED | TPMA_OBJECT.SIGN_ENCRYPT, _AK)
    detail = area.parameters.asymDetail
    if detail.symmetric.algorithm != TPM2_ALG.NULL:
        raise FleetError("it has a symmetric algorithm, so it is no signing key", where=_AK)
    schemes = (TPM2_ALG.ECDSA,) if area.type == TPM2_ALG.ECC else (TPM2_ALG.RSASSA, TPM2_ALG.RSAPSS)
    if detail.scheme.scheme not in schemes or detail.scheme.details.anySig.hashAlg != TPM2_ALG.SHA256:
        raise FleetError("it signs with something else than ECDSA, RSASSA or RSAPSS and SHA-256", where=_AK)
    _check_strength(area, _AK)
    _subject_public_key(area, _AK)


def name_of(public: bytes) -> bytes:
    """The name by which TPMs know a key (TPM 2.0 Library part 1, section 16).

    :param public: TPM2B_PUBLIC.
    :raises FleetError: it is none.
    """
    return _name(_public(public, "key"))


def make_challenge(ek_public: bytes, ak_name: bytes) -> Challenge:
    """Encrypt a new random credential for the TPM with this endorsement key, if it also holds the key of this name.

    :param ek_public: TPM2B_PUBLIC, already checked by :func:`check_ek`.
    :raises FleetError: it is no such key.
    """
    area = _public(ek_public, _EK)
    credential = secrets.token_bytes(_CREDENTIAL_SIZE)
    with refusing("nothing can be encrypted for it", where=_EK):
        blob, secret = make_credential(area, credential, ak_name)
        return Challenge(credential, blob.marshal(), secret.marshal())


def check_quote(ak_public: bytes, quote: Quote, nonce: bytes, expected: Mapping[int, str | None]) -> Quoted:
    """Check a quote.

    :param ak_public: TPM2B_PUBLIC, already checked by :func:`check_ak`.
    :param nonce: what the server asked this machine to sign, this once.
    :param expected: value by register, SHA-256 bank, hexadecimal; none: it has to be quoted, whatever it is.
    :raises FleetError: says which check failed.
    """
    if len(nonce) < _SHORTEST_NONCE:
        raise FleetError(f"a nonce of {len(nonce)} bytes can be guessed or has been forgotten", where=_QUOTE)
    area = _public(ak_public, _AK)
    attest = _statement(quote.attest)
    _check_signature(area, quote)
    if not hmac.compare_digest(bytes(attest.extraData), nonce):
        raise FleetError("it answers another nonce than this one", where=_QUOTE)
    _check_signer(area, attest)
    _check_registers(attest.attested.quote, quote.pcrs, expected)
    clock = attest.clockInfo
    return Quoted(
        pcrs=dict(quote.pcrs),
        resets=int(clock.resetCount),
        restarts=int(clock.restartCount),
        clock=int(clock.clock),
        clock_safe=bool(clock.safe),
        firmware=int(attest.firmwareVersion),
    )


def _parse(kind: Any, data: bytes, where: str) -> Any:
    """Read a structure that fills the bytes and has no other spelling.

    :param kind: a type of tpm2_pytss, which has no annotations.
    """
    problem = f"this is no {kind.__name__}"
    if len(data) > _LARGEST:
        raise FleetError(f"{problem}: more than {_LARGEST} bytes", where=where)
    with refusing(problem, where=where):
        parsed, used = kind.unmarshal(data)
        whole = used == len(data) and parsed.marshal() == data
    if not whole:
        raise FleetError(problem, where=where)
    return parsed


def _public(data: bytes, where: str) -> Any:
    """The TPMT_PUBLIC of an RSA or elliptic curve key with a name by SHA-256."""
    area = _parse(TPM2B_PUBLIC, data, where).publicArea
    if area.type not in (TPM2_ALG.RSA, TPM2_ALG.ECC):
        raise FleetError("it is neither an RSA nor an elliptic curve key", where=where)
    if area.nameAlg != TPM2_ALG.SHA256:
        raise FleetError("its name is not made with SHA-256", where=where)
    return area


def _name(area: Any) -> bytes:
    with refusing("it has no name", where="key"):
        return bytes(area.get_name())


def _check_attributes(area: Any, needed: int, where: str) -> None:
    found = int(area.objectAttributes)
    for attribute, name in _ATTRIBUTES.items():
        if needed & attribute and not found & attribute:
            raise FleetError(f"it is not {name}", where=where)
        if found & attribute and not needed & attribute:
            raise FleetError(f"it must not be {name}", where=where)
    if unknown := found & ~(needed | _INDIFFERENT):
        raise FleetError(f"it has attributes of unknown meaning: {unknown:#x}", where=where)


def _check_strength(area: Any, where: str) -> None:
    if area.type == TPM2_ALG.ECC:
        detail = area.parameters.eccDetail
        if detail.curveID != TPM2_ECC.NIST_P256 or detail.kdf.scheme != TPM2_ALG.NULL:
            raise FleetError("it is on another curve than P-256, or has a key derivation of its own", where=where)
        return
    detail = area.parameters.rsaDetail
    size = int.from_bytes(bytes(area.unique.rsa), "big").bit_length()
    if detail.keyBits not in (2048, 3072, 4096) or size != detail.keyBits or detail.exponent not in _EXPONENTS:
        raise FleetError("it is no RSA key of 2048, 3072 or 4096 bits with exponent 65537", where=where)


def _subject_public_key(area: Any, where: str) -> bytes:
    with refusing("its numbers are no public key", where=where):
        return bytes(area.to_der())


def _statement(data: bytes) -> Any:
    """What a TPM states, if it is a quote: TPMS_ATTEST."""
    if data[:4] != int(TPM2_GENERATED.VALUE).to_bytes(4, "big"):
        raise FleetError("it was not made inside a TPM: it does not begin with TPM_GENERATED_VALUE", where=_QUOTE)
    attest = _parse(TPMS_ATTEST, data, _QUOTE)
    if attest.type != TPM2_ST.ATTEST_QUOTE:
        raise FleetError("it states something else than registers", where=_QUOTE)
    return attest


def _check_signature(area: Any, quote: Quote) -> None:
    signature = _parse(TPMT_SIGNATURE, quote.signature, _QUOTE)
    scheme = area.parameters.asymDetail.scheme
    if signature.sigAlg != scheme.scheme or signature.signature.any.hashAlg != scheme.details.anySig.hashAlg:
        raise FleetError("it is signed by another scheme than that of the attestation key", where=_QUOTE)
    with refusing("this attestation key has not signed it", where=_QUOTE):
        signature.verify_signature(area, quote.attest)


def _check_signer(area: Any, attest: Any) -> None:
    """The signer's qualified name says where in its TPM it hangs (TPM 2.0 Library part 1, section 16).

    A primary key of the endorsement hierarchy needs no other key's help, survives a start of the TPM, and its quotes
    show the counters as they are: under other keys the TPM disguises them.
    """
    path = int(TPM2_RH.ENDORSEMENT).to_bytes(4, "big") + _name(area)
    qualified = int(TPM2_ALG.SHA256).to_bytes(2, "big") + hashlib.sha256(path).digest()
    if bytes(attest.qualifiedSigner) != qualified:
        raise FleetError("its signer is no primary key of the endorsement hierarchy", where=_QUOTE)


def _check_registers(info: Any, claimed: Mapping[int, str], expected: Mapping[int, str | None]) -> None:
    if (selected := _selected(info.pcrSelect)) != set(expected):
        shown = f"{sorted(selected)} instead of {sorted(expected)}"
        raise FleetError(f"it is about the registers {shown}", where=_QUOTE)
    if set(claimed) != set(expected) or not all(
        isinstance(value, str) and _DIGEST.fullmatch(value) for value in claimed.values()
    ):
        raise FleetError("the values sent with it are not one SHA-256 digest for each register", where=_QUOTE)
    values = b"".join(bytes.fromhex(claimed[number]) for number in sorted(claimed))
    if not hmac.compare_digest(hashlib.sha256(values).digest(), bytes(info.pcrDigest)):
        raise FleetError("the values sent with it are not those that the TPM signed", where=_QUOTE)
    for number, value in sorted(expected.items()):
        if value is not None and claimed[number] != value:
            raise FleetError(f"PCR {number} is {claimed[number]} and not {value}", where=_QUOTE)


def _selected(selections: Any) -> set[int]:
    """Numbers of the registers, of the SHA-256 bank alone."""
    if len(selections) != 1 or selections[0].hash != TPM2_ALG.SHA256:
        raise FleetError("it is not about registers of the SHA-256 bank alone", where=_QUOTE)
    selection = selections[0]
    bits = int.from_bytes(bytes(selection.pcrSelect)[: selection.sizeofSelect], "little")
    return {number for number in range(bits.bit_length()) if bits >> number & 1}
