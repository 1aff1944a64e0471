# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the installer asks the enrolment service, in the order in which it answers (``roles/enrolment``)."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import EK, Quote

JSON = "application/json"
PEM = "application/x-pem-file"
_TIMEOUT = 30.0  # seconds, for one exchange
_LARGEST = 1024 * 1024  # bytes of an answer
_PAUSES = (1, 2, 5, 10, 20, 30)  # seconds between tries; the last one repeats
_POLL = 10.0  # seconds; a service that has many to serve says more
_BUSY = (429, 503)


class Tpm(Protocol):
    """The machine's TPM (``_tpm/machine.py``). Whose attestation key it is, only the TPM has to know."""

    def read_ek(self) -> EK: ...

    def make_ak(self) -> Any: ...

    def activate(self, ak: Any, blob: bytes, secret: bytes) -> bytes: ...

    def quote(self, ak: Any, nonce: bytes, pcrs: Sequence[int]) -> Quote: ...


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes

    def data(self, where: str) -> dict[str, Any]:
        """The body, which has to be a JSON object.

        :raises FleetError: it is something else.
        """
        try:
            data = json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise FleetError("the answer is not JSON", where=where) from exc
        if not isinstance(data, dict):
            raise FleetError("the answer is no JSON object", where=where)
        return data


class Wire:
    """Asks by TLS 1.3, and believes one authority only: neither DHCP nor DNS decides whom a machine talks to.

    :param url: ``https://NAME[:PORT]`` of the service.
    :param authority: certificate of that authority (PEM).
    :param patience: seconds for which a service that cannot be reached, or has no time, is asked again.
    """

    def __init__(
        self, url: str, authority: Path, *, patience: float = 600, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise FleetError("not the address of a service", where=url, remedy="https://NAME or https://NAME:PORT")
        self.url = url.rstrip("/")
        self.sleep = sleep
        self._host, self._port, self._patience = parts.hostname, parts.port or 443, patience
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            self._context.load_verify_locations(cafile=authority)
        except (OSError, ssl.SSLError) as exc:
            raise FleetError(f"no certificate of an authority: {exc}", where=str(authority)) from exc

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, kind: str = JSON, token: str | None = None
    ) -> Answer:
        """Ask until there is an answer other than that there is no time.

        :raises FleetError: there was none for as long as patience lasts, or another server answers.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Content-Type": kind} if body is not None else {}
        end, tries = time.monotonic() + self._patience, 0
        while True:
            reason, pause = "", float(_PAUSES[min(tries, len(_PAUSES) - 1)])
            try:
                answer, wait = self._exchange(method, path, body, headers)
            except ssl.SSLCertVerificationError as exc:
                raise FleetError(
                    f"this is not the server of the site: {exc.verify_message}",
                    where=self.url,
                    remedy="the certificate must be of the site's authority, and for this name",
                ) from exc
            except (OSError, http.client.HTTPException) as exc:
                reason = str(exc) or type(exc).__name__
            else:
                if answer.status not in _BUSY:
                    return answer
                reason, pause = f"it has no time ({answer.status})", max(pause, wait)
            if time.monotonic() + pause > end:
                raise FleetError(f"no answer in {self._patience:.0f} seconds: {reason}", where=self.url)
            self.sleep(pause)
            tries += 1

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[Answer, float]:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT, context=self._context)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            content = response.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise FleetError(f"the answer has more than {_LARGEST} bytes", where=f"{self.url}{path}")
            wait = response.headers.get("Retry-After", "")
            return Answer(response.status, content), min(float(wait), 300.0) if wait.isdigit() else 0.0
        finally:
            connection.close()


class Enrolment:
    """A machine's way from stranger to host.

    :param say: called with one line when something is waited for.
    """

    def __init__(self, wire: Wire, say: Callable[[str], None]) -> None:
        self._wire, self._say = wire, say
        self._id = self._token = ""

    def apply(self, release: Mapping[str, str], hardware: Mapping[str, Any], tpm: Tpm | None) -> None:
        """Present the machine, wait until the site knows it, and prove by its TPM that it is what it says.

        :param release: ``product``, ``version`` and ``manifest_sha256`` of the installer's release.
        :param hardware: as :func:`hardware.describe` gives it.
        :param tpm: none only for a host that the site declares to have none.
        :raises FleetError: the service refuses the machine; it does not say why.
        """
        keys, ak = None, None
        if tpm is not None:
            ek, ak = tpm.read_ek(), tpm.make_ak()
            certificate = _text(ek.certificate) if ek.certificate else None
            keys = {"ek_public": _text(ek.public), "ek_certificate": certificate, "ak_public": _text(ak.public)}
        application = {"release": dict(release), "hardware": dict(hardware), "tpm": keys}
        accepted = self._json("POST", "/v1/enrolments", application)
        self._id, self._token = accepted["id"], accepted["token"]
        status = self._admitted(accepted)
        if tpm is not None and status["state"] == "challenged":
            self._prove(tpm, ak, status["challenge"])

    def installation(self) -> dict[str, Any]:
        """What the host is to become."""
        return self._own("GET", "/installation")

    def report(self, phase: str, percent: int, line: str, evidence: Mapping[str, Any]) -> None:
        """Say how far the installation is."""
        self._own("POST", "/reports", {"phase": phase, "percent": percent, "line": line, "evidence": dict(evidence)})

    def escrow(self, recovery_key: str, recipients: Sequence[str], header: Mapping[str, Any]) -> dict[str, str]:
        """Give the encrypted recovery key into escrow.

        :param recovery_key: age, armoured.
        :param header: ``tokens`` and ``key_slots`` of the LUKS2 header, as it will stay.
        :returns: the receipt (``id``, ``sha256``, ``time``).
        :raises FleetError: there is no receipt for exactly what was sent.
        """
        slots = {name: list(header[name]) for name in ("tokens", "key_slots")}
        body = json.dumps({"recovery_key": recovery_key, "recipients": list(recipients), **slots}).encode()
        answer = self._checked("PUT", "/escrow", body)
        receipt = answer.data(self._wire.url).get("receipt")
        if not isinstance(receipt, dict) or receipt.get("sha256") != hashlib.sha256(body).hexdigest():
            raise FleetError("the receipt is not for the recovery key that was sent", where=self._wire.url)
        return {name: str(receipt.get(name, "")) for name in ("id", "sha256", "time")}

    def certificate(self, name: str, request: bytes) -> bytes:
        """Ask for a certificate, and wait until the site has signed it.

        :param request: PKCS #10 (PEM).
        :returns: the certificate and those above it (PEM).
        """
        self._checked("PUT", f"/requests/{name}", request, kind=PEM)
        self._say(f"waiting for the certificate {name}")
        while (answer := self._checked("GET", f"/certificates/{name}")).status == 202:
            self._wire.sleep(_POLL)
        return answer.body

    def _admitted(self, status: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where the enrolment is when it is in quarantine no more."""
        if status["state"] == "quarantined":
            self._say(f"the site does not know this machine; somebody has to approve enrolment {self._id}")
        while status["state"] == "quarantined":
            self._wire.sleep(_POLL)
            status = self._own("GET", "")
        if status["state"] not in ("challenged", "proven"):
            raise _refused(self._wire.url)
        return status

    def _prove(self, tpm: Tpm, ak: Any, challenge: Mapping[str, Any]) -> None:
        blob, secret, nonce = (base64.b64decode(challenge[name]) for name in ("credential_blob", "secret", "nonce"))
        credential = tpm.activate(ak, blob, secret)
        quote = tpm.quote(ak, nonce, challenge["pcrs"])
        shown = {str(number): value for number, value in quote.pcrs.items()}
        proof = {"quote": _text(quote.attest), "signature": _text(quote.signature), "pcrs": shown}
        path = f"/v1/enrolments/{self._id}/proof"
        body = json.dumps({"credential": _text(credential), **proof}).encode()
        answer = self._wire.ask("POST", path, body, token=self._token)
        # A challenge is answered once. If the service's answer was lost, this one is out of order.
        if answer.status == 409 and self._own("GET", "")["state"] == "proven":
            return
        self._judge(answer, "POST", path)

    def _own(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self._checked(method, path, None if body is None else json.dumps(body).encode())
        return {} if answer.status == 204 else answer.data(self._wire.url)

    def _json(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._wire.ask(method, path, json.dumps(body).encode())
        return self._judge(answer, method, path).data(self._wire.url)

    def _checked(self, method: str, path: str, body: bytes | None = None, *, kind: str = JSON) -> Answer:
        whole = f"/v1/enrolments/{self._id}{path}"
        return self._judge(self._wire.ask(method, whole, body, kind=kind, token=self._token), method, whole)

    def _judge(self, answer: Answer, method: str, path: str) -> Answer:
        if answer.status == 403:
            raise _refused(self._wire.url)
        if answer.status >= 300:
            raise FleetError(f"{method} {path} was answered with {answer.status}", where=self._wire.url)
        return answer


def _refused(url: str) -> FleetError:
    return FleetError(
        "the enrolment service refuses this machine", where=url, remedy="the reason is in the service's audit log"
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
