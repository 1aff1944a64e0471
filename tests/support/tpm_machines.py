# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines with software TPMs that enrol: what they measure when they boot, and what the service expects of them."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from endorsement import Ends, ends
from enrolment import MANIFEST, text
from enrolment_apps import Server
from provisioned import SITE, Site

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import Quote
from ansible_collections.vauban.fleet.plugins.module_utils._vm import tpm
from vauban_enrolment import verifier

INSTALLER = {4: "the installer", 11: "the parts of the installer"}
INSTALLED = {4: "a boot loader", 11: "the parts of the product"}
UNTOUCHED = {"12": "00" * 32, "13": "00" * 32}


def registers(words: Mapping[int, str]) -> dict[str, str]:
    """What a TPM holds after these words were measured."""
    measured = {number: hashlib.sha256(word.encode()).digest() for number, word in words.items()}
    values = {str(number): hashlib.sha256(bytes(32) + digest).hexdigest() for number, digest in measured.items()}
    return {**values, **UNTOUCHED}


PREDICTED = {"installer": registers(INSTALLER), "installed": registers(INSTALLED)}


class Tpm:
    """The TPM of a machine, as the installer asks it."""

    def __init__(self, both: Ends, name: str) -> None:
        self.both, self.name = both, name
        self._make_keys()
        self.sha256 = both.check_ek(self.ek.public, None, []).sha256

    def boot(self, words: Mapping[int, str]) -> None:
        self.both.machine(self.name, "off")
        self.both.machine(self.name, "boot", words)
        self._make_keys()

    def _make_keys(self) -> None:
        """The same after each boot."""
        self.ek, self.ak = self.both.machine(self.name, "read_ek"), self.both.machine(self.name, "make_ak")

    def public(self) -> dict[str, str | None]:
        certificate = text(self.ek.certificate) if self.ek.certificate else None
        return {"ek_public": text(self.ek.public), "ek_certificate": certificate, "ak_public": text(self.ak.public)}

    def activate(self, challenge: Mapping[str, str]) -> bytes:
        blob, secret = (base64.b64decode(challenge[name]) for name in ("credential_blob", "secret"))
        return bytes(self.both.machine(self.name, "activate", self.ak, blob, secret))

    def quote(self, nonce: str, pcrs: Mapping[str, str]) -> dict[str, Any]:
        made = self.both.machine(self.name, "quote", self.ak, base64.b64decode(nonce), [int(each) for each in pcrs])
        assert isinstance(made, Quote)
        shown = {str(number): value for number, value in made.pcrs.items()}
        return {"quote": text(made.attest), "signature": text(made.signature), "pcrs": shown}


class ByInstaller:
    """The TPM as the installer has it: its methods, in the SDK."""

    def __init__(self, both: Ends, name: str) -> None:
        self._both, self._name = both, name

    def __getattr__(self, method: str) -> Any:
        return lambda *arguments: self._both.machine(self._name, method, *arguments)


@dataclass
class Judge:
    """The service's own verifier, in the SDK, where its libraries are."""

    both: Ends

    def check_ek(self, public: bytes, certificate: bytes | None, authorities: Sequence[x509.Certificate]) -> Any:
        return self.both.check_ek(public, certificate, [each.public_bytes(Encoding.PEM) for each in authorities])

    def check_ak(self, public: bytes) -> Any:
        return self.both.server("check_ak", public)

    def name_of(self, public: bytes) -> bytes:
        return bytes(self.both.server("name_of", public))

    def make_challenge(self, ek_public: bytes, ak_name: bytes) -> Any:
        return self.both.server("make_challenge", ek_public, ak_name)

    def check_quote(self, ak_public: bytes, quote: verifier.Quote, nonce: bytes, expected: Mapping[int, str]) -> object:
        return self.both.server("check_quote", ak_public, quote, nonce, expected)


@contextmanager
def machines(sandbox: Sandbox, directory: Path, makers: Mapping[str, str | None]) -> Iterator[Ends]:
    """Machines with new TPMs, and the service's own judgement of them.

    :param makers: by the TPM's name, the directory of a maker who certifies it, below ``directory``; or none does.
    """
    for name, maker in makers.items():
        tpm.manufacture(sandbox, directory / "tpms" / name, ca=None if maker is None else directory / maker)
    with ends(sandbox, directory / "tpms") as both:
        yield both


def authorities(maker: Path) -> list[bytes]:
    """The authorities of a maker: a root and one below it (PEM)."""
    return [(maker / name).read_bytes() for name in ("swtpm-localca-rootca-cert.pem", "issuercert.pem")]


@contextmanager
def judging_server(both: Ends, host_ek: str, maker: Path, database: Path) -> Iterator[Server]:
    """The enrolment service, which knows one host by its EK and believes the maker of its TPM.

    :param host_ek: SHA-256 of that EK.
    """
    trusted = [x509.load_pem_x509_certificate(each) for each in authorities(maker)]
    with ExitStack() as stack:
        made = Server(database, stack, trusted, Judge(both))
        made.start()
        content = {"manifest_sha256": MANIFEST, "pcrs": PREDICTED}
        assert made.admin.put("/admin/v1/releases/server/1.0", json=content).status_code == 200
        assert made.put_host(ek_sha256=host_ek, ek_certificate=True).json() == {"changed": True}
        yield made


@contextmanager
def site_of(both: Ends, directory: Path) -> Iterator[Site]:
    """A site whose service asks TPMs, and which lists that of machine ``one``."""
    with ExitStack() as stack:
        made = Site(directory, stack, Judge(both))
        changed: dict[str, Any] = copy.deepcopy(SITE)
        changed["hosts"]["one"]["machine"]["ek_sha256"] = Tpm(both, "one").sha256
        made.write(changed)
        yield made
