# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the installer asks the enrolment service, in the order in which it answers (``roles/enrolment``)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.wire import JSON, Answer, Wire
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import NONCE_SIZE, qualifying_data
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.exchange import EK, Quote

PEM = "application/x-pem-file"
BYTES = "application/octet-stream"
# What a machine has shown to be: a host; one with the disk of its host; one that is a host, and is to repair its disk,
# or to send its data; one that was a host, and is to erase its disk.
PROVEN, KEEPING, REPAIRING, BACKING_UP, WIPING = "proven", "keeping", "repairing", "backing_up", "wiping"
_SHOWN = (PROVEN, KEEPING, REPAIRING, BACKING_UP, WIPING)
_POLL = 10.0  # seconds; a service that has many to serve says more


class Tpm(Protocol):
    """The machine's TPM (``_tpm/machine.py``). Whose attestation key it is, only the TPM has to know."""

    def read_ek(self) -> EK: ...

    def make_ak(self) -> Any: ...

    def activate(self, ak: Any, blob: bytes, secret: bytes) -> bytes: ...

    def quote(self, ak: Any, nonce: bytes, pcrs: Sequence[int]) -> Quote: ...


class Enrolment:
    """A machine's way from stranger to host.

    :param say: called with one line when something is waited for.
    """

    def __init__(self, wire: Wire, say: Callable[[str], None]) -> None:
        self._wire, self._say = wire, say
        self.id = self.token = ""
        self._pcrs: Sequence[int] = ()  # those that show what runs
        self._prover: Callable[[], str] = lambda: PROVEN

    def present(self, release: Mapping[str, str], hardware: Mapping[str, Any], tpm: Tpm | None) -> None:
        """Present the machine, and wait until the site knows it.

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
        self.id, self.token = accepted["id"], accepted["token"]
        status = self._admitted(accepted)
        if tpm is not None and status["state"] == "challenged":
            self._prover = lambda: self._prove(tpm, ak, status["challenge"])

    def prove(self) -> str:
        """Prove by the TPM that the machine is what it says, and runs what it says. Soon: a challenge ends.

        :returns: :data:`PROVEN`, :data:`KEEPING`, :data:`REPAIRING`, :data:`BACKING_UP` or :data:`WIPING`.
        :raises FleetError: the service refuses the machine; it does not say why.
        """
        return self._prover()

    def installation(self) -> dict[str, Any]:
        """What the host is to become."""
        return self._own("GET", "/installation")

    def keeping(self) -> dict[str, Any]:
        """What the host is to stay, of a machine that is :data:`KEEPING`."""
        return self._own("GET", "/keeping")

    def unlock(self, tpm: Tpm, recipient: str) -> tuple[bytes, str]:
        """Ask for the recovery key of the disk, and wait for it.

        :param recipient: of age, made for this.
        :returns: the secret that the TPM has released, and the recovery key, encrypted to its identity and then to the
            recipient (armoured).
        :raises FleetError: somebody has judged that it is not for this machine.
        """
        ak = tpm.make_ak()
        quote = tpm.quote(ak, qualifying_data(recipient), self._pcrs)
        self._checked("PUT", "/unlock", json.dumps({"recipient": recipient, **_shown(quote)}).encode())
        while (answer := self._checked("GET", "/unlock")).status == 202:
            self._say("waiting for the recovery key of the disk")
            self._wire.sleep(_POLL)
        given = answer.data(self._wire.url)
        blob, secret = (base64.b64decode(given[name]) for name in ("credential_blob", "secret"))
        return tpm.activate(ak, blob, secret), str(given["recovery_key"])

    def repair(self) -> dict[str, Any]:
        """Which disk is to be repaired, of a machine that has proven itself to be :data:`REPAIRING`."""
        return self._own("GET", "/repair")

    def backup(self) -> dict[str, Any]:
        """Which disk is to be backed up, of a machine that has proven itself to be :data:`BACKING_UP`."""
        return self._own("GET", "/backup")

    def send(self, offset: int, piece: bytes) -> None:
        """Send a piece of the backup.

        :raises FleetError: the service does not take it.
        """
        path = f"/v1/backups/{self.id}/{offset}"
        answer = self._wire.ask("PUT", path, piece, kind=BYTES, token=self.token)
        if answer.status in (409, 413):
            remedy = "the reason is in the service's audit log; the same command begins anew"
            raise FleetError("the server takes no more of the backup", where=self._wire.url, remedy=remedy)
        self._judge(answer, "PUT", path)

    def sent(self, size: int, sha256: str) -> dict[str, Any]:
        """Say that this was all of the backup.

        :returns: the receipt (``id``, ``sha256``, ``time``, ``size``).
        :raises FleetError: there is no receipt for exactly what was sent.
        """
        receipt = self._own("PUT", "/backup", {"size": size, "sha256": sha256}).get("receipt")
        if not isinstance(receipt, dict) or (receipt.get("size"), receipt.get("sha256")) != (size, sha256):
            raise FleetError("the receipt is not for the backup that was sent", where=self._wire.url)
        return {"size": size, **{name: str(receipt.get(name, "")) for name in ("id", "sha256", "time")}}

    def wipe(self) -> dict[str, Any]:
        """Which disk is to be erased, of a machine that has proven itself to be :data:`WIPING`."""
        return self._own("GET", "/wipe")

    def report(self, phase: str, percent: int, line: str, evidence: Mapping[str, Any]) -> None:
        """Say how far the installation is."""
        self._own("POST", "/reports", {"phase": phase, "percent": percent, "line": line, "evidence": dict(evidence)})

    def escrow(self, sealing: Mapping[str, Any], recipients: Sequence[str]) -> dict[str, str]:
        """Give the encrypted recovery key into escrow.

        :param sealing: ``recovery_key`` (age, armoured), ``shared`` if it takes several officers to open it, and
            ``tokens`` and ``key_slots`` of the LUKS2 header, as it will stay (:func:`state.enroll`).
        :returns: the receipt (``id``, ``sha256``, ``time``).
        :raises FleetError: there is no receipt for exactly what was sent.
        """
        given = {name: sealing[name] for name in ("recovery_key", "shared", "tokens", "key_slots") if name in sealing}
        body = json.dumps({**given, "recipients": list(recipients)}).encode()
        answer = self._checked("PUT", "/escrow", body)
        receipt = answer.data(self._wire.url).get("receipt")
        if not isinstance(receipt, dict) or receipt.get("sha256") != hashlib.sha256(body).hexdigest():
            raise FleetError("the receipt is not for the recovery key that was sent", where=self._wire.url)
        return {name: str(receipt.get(name, "")) for name in ("id", "sha256", "time")}

    def request(self, name: str, request: bytes) -> None:
        """Ask for a certificate.

        :param request: PKCS #10 (PEM).
        """
        self._checked("PUT", f"/requests/{name}", request, kind=PEM)

    def certificate(self, name: str) -> bytes:
        """Wait until the site has signed it.

        :returns: the certificate and those above it (PEM).
        """
        while (answer := self._checked("GET", f"/certificates/{name}")).status == 202:
            self._say(f"waiting for the site to sign certificate {name}")
            self._wire.sleep(_POLL)
        return answer.body

    def _admitted(self, status: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where the enrolment is when it is in quarantine no more."""
        if status["state"] == "quarantined":
            self._say(f"the site does not know this machine; somebody has to approve enrolment {self.id}")
        while status["state"] == "quarantined":
            self._wire.sleep(_POLL)
            status = self._own("GET", "")
        if status["state"] not in ("challenged", "proven"):
            raise _refused(self._wire.url)
        return status

    def _prove(self, tpm: Tpm, ak: Any, challenge: Mapping[str, Any]) -> str:
        blob, secret, nonce = (base64.b64decode(challenge[name]) for name in ("credential_blob", "secret", "nonce"))
        if len(nonce) != NONCE_SIZE:  # anything else could be what a recipient is certified with
            raise FleetError(f"the challenge has a nonce of {len(nonce)} bytes", where=self._wire.url)
        credential, self._pcrs = tpm.activate(ak, blob, secret), challenge["pcrs"]
        proof = _shown(tpm.quote(ak, nonce, challenge["pcrs"]))
        path = f"/v1/enrolments/{self.id}/proof"
        body = json.dumps({"credential": _text(credential), **proof}).encode()
        answer = self._wire.ask("POST", path, body, token=self.token)
        # A challenge is answered once. If the service's answer was lost, this one is out of order.
        if answer.status == 409 and (state := self._own("GET", "")["state"]) in _SHOWN:
            return str(state)
        return str(self._judge(answer, "POST", path).data(self._wire.url).get("state"))

    def _own(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self._checked(method, path, None if body is None else json.dumps(body).encode())
        return {} if answer.status == 204 else answer.data(self._wire.url)

    def _json(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._wire.ask(method, path, json.dumps(body).encode())
        return self._judge(answer, method, path).data(self._wire.url)

    def _checked(self, method: str, path: str, body: bytes | None = None, *, kind: str = JSON) -> Answer:
        whole = f"/v1/enrolments/{self.id}{path}"
        return self._judge(self._wire.ask(method, whole, body, kind=kind, token=self.token), method, whole)

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


def _shown(quote: Quote) -> dict[str, Any]:
    pcrs = {str(number): value for number, value in quote.pcrs.items()}
    return {"quote": _text(quote.attest), "signature": _text(quote.signature), "pcrs": pcrs}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
