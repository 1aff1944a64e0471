# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What machines may ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Path, Request, Response, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import PlainTextResponse

from vauban_enrolment import (
    admission,
    backing_up,
    client_certificate,
    installing,
    proving,
    repairing,
    transfers,
    unlocking,
    wiping,
)
from vauban_enrolment.documents import (
    ID_PATTERN,
    NAME_PATTERN,
    Accepted,
    Application,
    Attestation,
    BackupOut,
    BackupReceiptOut,
    BackupSent,
    EscrowIn,
    Installation,
    NonceOut,
    Proof,
    ReceiptOut,
    RepairOut,
    Report,
    StateOnly,
    Status,
    UnlockIn,
    UnlockOut,
    WipeOut,
)
from vauban_enrolment.limits import address_of
from vauban_enrolment.problems import Problem, documented, unauthorised
from vauban_enrolment.service import Caller, Service
from vauban_enrolment.states import Action

PEM = "application/x-pem-file"
BYTES = "application/octet-stream"
CHAIN = "application/pem-certificate-chain"
_BEARER = HTTPBearer(auto_error=False)
_LONGEST_REQUEST = 8192
# What may become of any request of an enrolment: wrong token, wrong certificate, not there, wrong order.
_OWN = documented(401, 403, 404, 409)

router = APIRouter(prefix="/v1", responses=documented())


def service_of(request: Request) -> Service:
    """The one of this application."""
    service: Service = request.app.state.service
    return service


def caller(
    request: Request,
    id: Annotated[str, Path(pattern=ID_PATTERN)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> Caller:
    """Who asks."""
    if bearer is None:
        raise unauthorised()
    return Caller(id, bearer.credentials, address_of(request.scope), client_certificate.shown(request.scope))


async def raw_body(request: Request) -> bytes:
    """The body, byte for byte."""
    return await request.body()


Asked = Annotated[Service, Depends(service_of)]
By = Annotated[Caller, Depends(caller)]
Name = Annotated[str, Path(pattern=NAME_PATTERN)]


@router.post("/enrolments", status_code=201, responses=documented(403))
def present(service: Asked, request: Request, application: Application) -> Accepted:
    """A machine presents itself."""
    return admission.present(service, application, address_of(request.scope))


@router.get("/enrolments/{id}", responses=documented(401, 403, 404))
def read_status(service: Asked, by: By) -> Status:
    """Where the enrolment is. A machine in quarantine asks every ten seconds."""
    return admission.status(service, by)


@router.post("/enrolments/{id}/proof", responses=_OWN)
def prove(service: Asked, by: By, proof: Proof) -> StateOnly:
    """Answer the challenge. There is one answer."""
    return StateOnly(state=proving.prove(service, by, proof))


@router.get("/enrolments/{id}/installation", responses=_OWN)
def read_installation(service: Asked, by: By) -> Installation:
    """What the host is to become; for machines that have proven themselves."""
    return installing.hand_out(service, by)


@router.get("/enrolments/{id}/keeping", responses=_OWN)
def read_keeping(service: Asked, by: By) -> Installation:
    """What the host is to stay; for machines that have proven themselves, with another board or TPM than before."""
    return installing.hand_out(service, by, Action.READ_KEEPING)


@router.put("/enrolments/{id}/unlock", status_code=202, responses=_OWN)
def ask_to_unlock(service: Asked, by: By, unlock: UnlockIn) -> Response:
    """Ask for the recovery key of the disk."""
    unlocking.ask(service, by, unlock)
    return Response(status_code=202)


@router.get(
    "/enrolments/{id}/unlock",
    response_model=UnlockOut,
    responses={202: {"description": "Not yet"}, **_OWN},
)
def read_unlock(service: Asked, by: By) -> UnlockOut | Response:
    """Fetch the recovery key that was asked for."""
    return unlocking.read(service, by) or Response(status_code=202)


@router.get("/enrolments/{id}/repair", responses=_OWN)
def read_repair(service: Asked, by: By) -> RepairOut:
    """Which disk is to be repaired, and how; for machines that are a host, and have proven it."""
    return repairing.hand_out(service, by)


@router.get("/enrolments/{id}/backup", responses=_OWN)
def read_backup(service: Asked, by: By) -> BackupOut:
    """Which disk is to be backed up, and to whom; for machines that are a host, and have proven it."""
    return backing_up.hand_out(service, by)


@router.put("/backups/{id}/{offset}", status_code=204, responses=_OWN)
def send_backup(
    service: Asked,
    by: By,
    offset: Annotated[int, Path(ge=0, lt=2**62)],
    piece: Annotated[bytes, Body(media_type=BYTES, min_length=1, max_length=transfers.PIECE)],
) -> Response:
    """Send a piece of the backup, encrypted by age: the next one, or the last one again. Any other ends it."""
    backing_up.take(service, by, offset, piece)
    return Response(status_code=204)


@router.put("/enrolments/{id}/backup", responses=_OWN)
def keep_backup(service: Asked, by: By, sent: BackupSent) -> BackupReceiptOut:
    """Say that it was the last piece. It is kept if what came is what was sent; the same gets the same receipt."""
    return BackupReceiptOut(receipt=backing_up.keep(service, by, sent))


@router.get("/enrolments/{id}/wipe", responses=_OWN)
def read_wipe(service: Asked, by: By) -> WipeOut:
    """Which disk is to be erased; for machines that were a host, and have proven it."""
    return wiping.hand_out(service, by)


@router.put("/enrolments/{id}/escrow", responses=_OWN)
def keep_recovery_key(service: Asked, by: By, escrow: EscrowIn, raw: Annotated[bytes, Depends(raw_body)]) -> ReceiptOut:
    """Give the encrypted recovery key into escrow. The same bytes get the same receipt."""
    return ReceiptOut(receipt=installing.keep(service, by, raw, escrow))


@router.put("/enrolments/{id}/requests/{name}", status_code=202, responses=_OWN)
def request_certificate(
    service: Asked, by: By, name: Name, request: Annotated[bytes, Body(media_type=PEM, max_length=_LONGEST_REQUEST)]
) -> Response:
    """Ask for a certificate (PKCS #10 in PEM)."""
    try:
        text = request.decode("ascii")
    except UnicodeDecodeError:
        raise Problem(422, "not valid", "body") from None
    installing.request_certificate(service, by, name, text)
    return Response(status_code=202)


@router.get(
    "/enrolments/{id}/certificates/{name}",
    response_class=PlainTextResponse,
    responses={
        200: {"content": {CHAIN: {"schema": {"type": "string"}}}, "description": "The certificate and those above it"},
        202: {"description": "Not yet"},
        **_OWN,
    },
)
def read_certificate(service: Asked, by: By, name: Name) -> Response:
    """Fetch a certificate that was asked for."""
    chain = installing.certificate(service, by, name)
    return Response(status_code=202) if chain is None else Response(chain, media_type=CHAIN)


@router.post("/enrolments/{id}/reports", status_code=204, responses=_OWN)
def report(service: Asked, by: By, report: Report) -> Response:
    """Say how far the installation is."""
    installing.report(service, by, report)
    return Response(status_code=204)


@router.get("/enrolments/{id}/nonce", responses=_OWN)
def read_nonce(service: Asked, by: By) -> NonceOut:
    """After the first boot from the disk: what the quote has to sign. Each call makes another."""
    return proving.give_nonce(service, by)


@router.post("/enrolments/{id}/attestation", responses=_OWN)
def attest(service: Asked, by: By, attestation: Attestation) -> StateOnly:
    """Prove the first boot from the disk."""
    return StateOnly(state=proving.attest(service, by, attestation))
