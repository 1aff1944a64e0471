# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TPM manufacturers, good and bad ones, and machines with their TPMs (in the SDK, by :mod:`tpm_responder`)."""

from __future__ import annotations

import datetime
import pickle
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certificates import DAY, NOW
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

_HERE = Path(__file__).parent
_MODULE_UTILS = _HERE.parents[1] / "plugins/module_utils"
_SERVICE = _HERE.parents[1] / "roles/enrolment/files/python/vauban_enrolment"
_PACKAGE = "ansible_collections/vauban/fleet/plugins/module_utils"
EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")
PLATFORM_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.2")
MODEL = {"2.23.133.2.1": "id:54455354", "2.23.133.2.2": "T1000", "2.23.133.2.3": "id:00010002"}
_EK_USAGE = {"key_encipherment": True}
_NO_USAGE = dict.fromkeys(
    [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ],
    False,
)


@dataclass(frozen=True)
class Manufacturer:
    """An authority that vouches for TPMs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(
        cls,
        name: str,
        *,
        above: Manufacturer | None = None,
        authority: bool = True,
        ends: datetime.timedelta = 10 * DAY,
    ) -> Manufacturer:
        """A root, or an authority below another one; or somebody who only behaves like one."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer, signer = (name, key) if above is None else (above.name, above.key)
        builder = _builder(name, issuer, key.public_key(), ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        usage = x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": authority, "key_encipherment": not authority})
        return cls(builder.add_extension(usage, critical=True).sign(signer, hashes.SHA256()), key)

    @property
    def name(self) -> str:
        return str(self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def vouch(
        self,
        key: CertificatePublicKeyTypes,
        *,
        model: dict[str, str] | None = None,
        purpose: x509.ObjectIdentifier = EK_CERTIFICATE,
        usage: dict[str, bool] | None = None,
        authority: bool = False,
        ends: datetime.timedelta = 5 * DAY,
        further: Iterable[x509.ExtensionType] = (),
    ) -> bytes:
        """A certificate (DER) as manufacturers make it: the subject is empty, and the critical extension tells.

        :param further: critical extensions beside the usual ones.
        """
        builder = _builder(None, self.name, key, ends)
        attributes = [x509.NameAttribute(x509.ObjectIdentifier(oid), text) for oid, text in (model or MODEL).items()]
        names = x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(attributes))])
        builder = builder.add_extension(names, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        builder = builder.add_extension(x509.KeyUsage(**{**_NO_USAGE, **(usage or _EK_USAGE)}), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        for extension in further:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


def _builder(
    subject: str | None, issuer: str, key: CertificatePublicKeyTypes, ends: datetime.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 30 * DAY)
        .not_valid_after(NOW + ends)
    )


def _name(common_name: str | None) -> x509.Name:
    return x509.Name([] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class Ends:
    """Both ends of enrolments: machines by name, and the server."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._calls, self._answers = process.stdin, process.stdout

    def machine(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of :class:`tpm_responder.Machine` or its TPM."""
        return self._call("on_machine", name, method, *arguments)

    def server(self, function: str, *arguments: Any) -> Any:
        """Call a function of ``vauban_enrolment.verification``."""
        return self._call("at_server", function, *arguments)

    def check_ek(self, public: bytes, certificate: bytes | None, authorities: Sequence[bytes]) -> Any:
        """Call that function, with authorities in PEM."""
        return self._call("check_ek", public, certificate, authorities)

    def _call(self, name: str, *arguments: Any) -> Any:
        pickle.dump((name, arguments), self._calls)
        self._calls.flush()
        kind, value = pickle.load(self._answers)
        if kind == "refused":
            raise FleetError(**value)
        assert kind == "result", value
        return value


@contextmanager
def ends(sandbox: Sandbox, tpms: Path) -> Iterator[Ends]:
    """Start them in the SDK; all ends with the block.

    :param tpms: a directory with the state of a TPM for each machine (``_vm/tpm.py``), under the machine's name.
    """
    binds = [Bind(_MODULE_UTILS, f"/run/lib/{_PACKAGE}"), Bind(_SERVICE, f"/run/lib/{_SERVICE.name}")]
    binds += [Bind(_HERE, "/run/support"), Bind(tpms, "/run/tpms", True)]
    words = ["python3", "-B", "/run/support/tpm_responder.py"]
    argv = sandbox.argv(words, binds=binds, env={"PYTHONPATH": "/run/lib"})
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Ends(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
