# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that enrol, and a verifier for TPMs that are a few lines of Python."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._site.certificate_request import Given
from vauban_enrolment.verifier import Quote

MANIFEST = "ab" * 32
INSTALLER = {"4": "11" * 32, "11": "22" * 32}
INSTALLED = {"4": "33" * 32, "11": "44" * 32}
RELEASE = {"product": "server", "version": "1.0", "manifest_sha256": MANIFEST}
RECIPIENTS = ["age1" + "q" * 58, "age1" + "p" * 58]
TOKENS = ["systemd-recovery", "systemd-tpm2"]
WIPED_DISK = {"path": "/dev/vda", "serial": "DISK1", "wwn": "", "size": 1 << 35}
IKE = "1.3.6.1.5.5.7.3.17"
PEM = {"Content-Type": "application/x-pem-file"}
BYTES = {"Content-Type": "application/octet-stream"}
CHAIN = {"Content-Type": "application/pem-certificate-chain"}


def text(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


class Client(Protocol):
    """What speaks HTTP."""

    def request(self, method: str, url: str, **keywords: Any) -> Any: ...


@dataclass(frozen=True)
class _Endorsement:
    sha256: str


@dataclass(frozen=True)
class _Challenge:
    credential: bytes
    credential_blob: bytes
    secret: bytes


class FakeVerifier:
    """Believes :class:`Tpm`, and nobody else."""

    def check_ek(
        self, public: bytes, certificate: bytes | None, authorities: Sequence[x509.Certificate]
    ) -> _Endorsement:
        if not public.startswith(b"EK:"):
            raise FleetError("it is no endorsement key", where="endorsement key")
        if certificate is not None and (not authorities or certificate != b"CERT:" + public):
            raise FleetError("no authority vouches for it", where="certificate")
        return _Endorsement(hashlib.sha256(public).hexdigest())

    def check_ak(self, public: bytes) -> None:
        if public == b"AK:crash":
            raise ZeroDivisionError
        if not public.startswith(b"AK:"):
            raise FleetError("it is not restricted", where="attestation key")

    def name_of(self, public: bytes) -> bytes:
        return hashlib.sha256(public).digest()

    def make_challenge(self, ek_public: bytes, ak_name: bytes) -> _Challenge:
        credential, salt = secrets.token_bytes(32), secrets.token_bytes(16)
        return _Challenge(credential, _crypt(credential, ek_public, ak_name, salt), salt)

    def check_quote(self, ak_public: bytes, quote: Quote, nonce: bytes, expected: Mapping[int, str]) -> None:
        if not hmac.compare_digest(_sign(ak_public, quote.attest), quote.signature):
            raise FleetError("this attestation key has not signed it", where="quote")
        said = json.loads(quote.attest)
        if said["nonce"] != nonce.hex() or said["pcrs"] != {str(key): value for key, value in quote.pcrs.items()}:
            raise FleetError("it is of another nonce or of other registers", where="quote")
        for number, value in expected.items():
            if quote.pcrs.get(number) != value:
                raise FleetError(f"register {number} has another value", where="quote")


def _crypt(data: bytes, ek: bytes, ak_name: bytes, salt: bytes) -> bytes:
    pad = hashlib.sha256(b"inside the TPM" + ek + ak_name + salt).digest()
    return bytes(a ^ b for a, b in zip(data, pad, strict=True))


def _sign(ak: bytes, data: bytes) -> bytes:
    return hmac.new(b"inside the TPM" + ak, data, hashlib.sha256).digest()


@dataclass
class Tpm:
    """A TPM, by its name."""

    name: str
    certified: bool = True
    ak: bytes = b""

    def __post_init__(self) -> None:
        self.ek = b"EK:" + self.name.encode()
        self.ak = self.ak or b"AK:" + self.name.encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.ek).hexdigest()

    def public(self) -> dict[str, str | None]:
        return {
            "ek_public": text(self.ek),
            "ek_certificate": text(b"CERT:" + self.ek) if self.certified else None,
            "ak_public": text(self.ak),
        }

    def activate(self, challenge: Mapping[str, str]) -> bytes:
        blob, secret = (base64.b64decode(challenge[name]) for name in ("credential_blob", "secret"))
        return _crypt(blob, self.ek, hashlib.sha256(self.ak).digest(), secret)

    def quote(self, nonce: str, pcrs: Mapping[str, str]) -> dict[str, Any]:
        attest = json.dumps({"nonce": base64.b64decode(nonce).hex(), "pcrs": dict(pcrs)}).encode()
        return {"quote": text(attest), "signature": text(_sign(self.ak, attest)), "pcrs": dict(pcrs)}


def age_file(plaintext: bytes = b"x" * 71, recipients: int = 2, extra: bytes = b"") -> str:
    """The shape of an age file; nobody can open it."""
    return armour(age_bytes(plaintext, recipients, extra))


def age_bytes(plaintext: bytes, recipients: int = 2, extra: bytes = b"") -> bytes:
    """The same, without armour."""
    stanzas = b"".join(b"-> X25519 " + _b64(43) + b"\n" + _b64(43) + b"\n" for __ in range(recipients))
    return b"age-encryption.org/v1\n" + stanzas + extra + b"--- " + _b64(43) + b"\n" + os.urandom(len(plaintext) + 32)


def armour(data: bytes) -> str:
    """PEM as age writes it."""
    encoded = text(data)
    lines = "\n".join(encoded[start : start + 64] for start in range(0, len(encoded), 64))
    return f"-----BEGIN AGE ENCRYPTED FILE-----\n{lines}\n-----END AGE ENCRYPTED FILE-----\n"


def _b64(length: int) -> bytes:
    return base64.b64encode(os.urandom(length))[:length].replace(b"=", b"A")


def expectation(**changes: Any) -> dict[str, Any]:
    """A host with a listed EK."""
    return {
        "product": "server",
        "version": "1.0",
        "class": "tpm",
        "admit": "listed",
        "ek_sha256": Tpm("one").sha256,
        "ek_certificate": False,
        "serial": "S1",
        "macs": ["52:54:00:00:00:01"],
        "disk": {"serial": "DISK1"},
        "sizes": {"core_size": 1 << 29},
        "recipients": RECIPIENTS,
        "configuration": {"sha256": "cd" * 32, "url": "https://boot.example/one.tar"},
        "certificates": [{"name": "hosts", "subject": "one.example", "dns": ["one.example"]}],
        "reinstall": False,
        **changes,
    }


@dataclass
class Clock:
    """Time goes on only when it is told to."""

    moment: datetime = field(default_factory=lambda: datetime(2026, 11, 22, 12, 0, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.moment

    def wait(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@dataclass
class Machine:
    """A machine that runs the installer."""

    client: Client
    tpm: Tpm | None = field(default_factory=lambda: Tpm("one"))
    serial: str = "S1"
    mac: str = "52:54:00:00:00:01"
    hardware_profile: str | None = "example_r1"
    address: str = "192.0.2.1"
    release: Mapping[str, str] = field(default_factory=lambda: dict(RELEASE))
    predicted: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: {"installer": INSTALLER, "installed": INSTALLED}
    )
    id: str = ""
    token: str = ""
    credential: bytes = b""
    key: ec.EllipticCurvePrivateKey | None = None
    certificate: str = ""  # shown from then on
    receipt: Mapping[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, **keywords: Any) -> Any:
        headers = {"X-Real-IP": self.address, **keywords.pop("headers", {})}
        if self.certificate:  # as the web server says; to a real one it is nobody's word
            headers.setdefault("X-Client-Certificate", quote(self.certificate))
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        return self.client.request(method, path, headers=headers, **keywords)

    def own(self, method: str, path: str, **keywords: Any) -> Any:
        return self.ask(method, f"/v1/enrolments/{self.id}{path}", **keywords)

    def application(self) -> dict[str, Any]:
        return {
            "release": dict(self.release),
            "hardware": {
                "dmi": {"product_serial": self.serial, "sys_vendor": "Example", "product_name": "R1"},
                "hardware_profile": self.hardware_profile,
                "disks": [{"serial": "DISK1", "size": 1 << 35}],
                "interfaces": [{"name": "eth0", "mac": self.mac}],
            },
            "tpm": self.tpm.public() if self.tpm else None,
        }

    def apply(self) -> Any:
        self.token = self.certificate = ""
        answer = self.ask("POST", "/v1/enrolments", json=self.application())
        if answer.status_code == 201:
            self.id, self.token = answer.json()["id"], answer.json()["token"]
        return answer

    def state(self) -> str:
        answer = self.own("GET", "")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["state"])

    def proof(self, challenge: Mapping[str, Any], pcrs: Mapping[str, str] | None = None) -> dict[str, Any]:
        assert self.tpm is not None
        pcrs = pcrs or self.predicted["installer"]
        assert challenge["pcrs"] == [int(number) for number in self.predicted["installer"]]
        self.credential = self.tpm.activate(challenge)
        return {"credential": text(self.credential), **self.tpm.quote(challenge["nonce"], pcrs)}

    def prove(self, pcrs: Mapping[str, str] | None = None) -> Any:
        challenge = self.own("GET", "").json()["challenge"]
        return self.own("POST", "/proof", json=self.proof(challenge, pcrs))

    def report(self, phase: str, **evidence: Any) -> Any:
        body = {"phase": phase, "percent": 50, "line": f"doing {phase}", "evidence": evidence}
        return self.own("POST", "/reports", json=body)

    def escrow_body(self, **changes: Any) -> dict[str, Any]:
        tokens = TOKENS if self.tpm else TOKENS[:1]
        slots = [str(number) for number in range(1, len(tokens) + 1)]
        return {"recovery_key": age_file(), "recipients": RECIPIENTS, "tokens": tokens, "key_slots": slots, **changes}

    def escrow(self, body: Mapping[str, Any] | None = None) -> Any:
        answer = self.own("PUT", "/escrow", json=body or self.escrow_body())
        if answer.status_code == 200:
            self.receipt = answer.json()["receipt"]
        return answer

    def request(self, **changes: Any) -> str:
        self.key = ec.generate_private_key(changes.get("curve", ec.SECP256R1()))
        name = changes.get("subject", "one.example")
        builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        for extension in Given(name, changes.get("dns", ["one.example"]), changes.get("usages", [IKE])).extensions():
            builder = builder.add_extension(extension, critical=False)
        signed = builder.sign(self.key, changes.get("digest", hashes.SHA256()))
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    def fetch(self, name: str = "hosts") -> Any:
        """Fetch a certificate, and show the first one from then on."""
        answer = self.own("GET", f"/certificates/{name}")
        if answer.status_code == 200 and not self.certificate:
            self.certificate = first(answer.text)
        return answer

    def identity(self) -> bytes:
        """Certificate and key, as a client of TLS reads them."""
        assert self.key is not None
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.certificate.encode() + self.key.private_bytes(*form)

    def written(self, **changes: Any) -> Any:
        tokens = TOKENS if self.tpm else TOKENS[:1]
        slots = [str(number) for number in range(1, len(tokens) + 1)]
        evidence = {
            "receipt": self.receipt["sha256"],
            "manifest_sha256": MANIFEST,
            "tokens": tokens,
            "key_slots": slots,
        }
        return self.report("written", **{**evidence, **changes})

    def begin_wipe(self, **changes: Any) -> Any:
        return self.report("wipe", disk={**WIPED_DISK, **changes})

    def wiped(self, **changes: Any) -> Any:
        done: dict[str, Any] = {"disk": WIPED_DISK, "volumes": ["fleet/state"], "discarded": True}
        return self.report("wiped", **{**done, "boot_entries": ["0001"], "tpm": {"cleared": True}, **changes})

    def send(self, offset: int, piece: bytes) -> Any:
        """A piece of a backup."""
        return self.ask("PUT", f"/v1/backups/{self.id}/{offset}", content=piece, headers=BYTES)

    def sent(self, content: bytes) -> Any:
        """That this was all of it."""
        body = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return self.own("PUT", "/backup", json=body)

    def attest(self, pcrs: Mapping[str, str] | None = None) -> Any:
        nonce = self.own("GET", "/nonce").json()
        quote = self.tpm.quote(nonce["nonce"], pcrs or self.predicted["installed"]) if self.tpm else {}
        return self.own("POST", "/attestation", json={"nonce": nonce["nonce"], **quote})

    def advance(self, state: str) -> Machine:
        """Go on until it is in this state."""
        steps = (
            ("challenged", self.apply, 201),
            ("proven", self.prove, 200),
            ("installing", lambda: self.report("partition"), 204),
            ("escrowed", self.escrow, 200),
            ("written", self.written, 204),
            ("installed", self.attest, 200),
        )
        names = [name for name, *__ in steps]
        for _name, step, expected in steps[: names.index(state) + 1]:
            answer = step()
            assert answer.status_code == expected, answer.text
        assert self.state() == state
        return self


def first(chain: str) -> str:
    """The first certificate of a chain (PEM)."""
    return x509.load_pem_x509_certificates(chain.encode())[0].public_bytes(serialization.Encoding.PEM).decode()


def sign(request: str, names: Sequence[str] | None = None, key: Any = None) -> str:
    """The certificate that a request asks for."""
    asked = x509.load_pem_x509_csr(request.encode())
    authority = ec.generate_private_key(ec.SECP256R1())
    moment = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(asked.subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")]))
        .public_key(key or asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment)
        .not_valid_after(moment + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names or ["one.example"]]), False)
        .add_extension(asked.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value, False)
    )
    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
