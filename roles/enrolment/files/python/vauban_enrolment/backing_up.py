# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The order to send what is on the disk of a host, and what its machine sends: encrypted there, to others than us."""

from __future__ import annotations

import hmac
import re
import threading
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.types import Scope

from vauban_enrolment import audit, escrow
from vauban_enrolment.case import Case
from vauban_enrolment.documents import BackedUpEvidence, BackupIn, BackupOut, BackupReceipt, BackupSent, Report
from vauban_enrolment.encoding import sha256
from vauban_enrolment.orders import BACKUP
from vauban_enrolment.problems import Problem
from vauban_enrolment.service import Caller, Service
from vauban_enrolment.states import Action, Event, State, WrongOrder
from vauban_enrolment.storage import Backup, Enrolment, Host
from vauban_enrolment.transfers import PIECE, Busy, Faulty, Transfers

_PATH = re.compile(r"/v1/backups/([0-9a-f]{32})/[0-9]+")
_BEARER = b"bearer "
_Result = TypeVar("_Result")
# Reading files again takes a while, and must not take all threads: those who wait ask again.
_READING = threading.Semaphore(1)


def give(service: Service, session: Session, host: Host, actor: str, asked: BackupIn) -> bool:
    """Order that the host's machine sends its data when it next starts the installer; whether that is new.

    A machine that sends already does so for the recipients that were named first, and is stopped if there are others.

    :raises Problem: 409 the host has no machine whose TPM is known, or its disk is to be erased.
    """
    kept = session.get(BACKUP.table, host.ek_sha256) if host.ek_sha256 is not None else None
    if kept is not None and kept.recipients != asked.recipients:
        BACKUP.withdraw(session, host, actor, service.clock(), "other recipients are named")
        session.flush()
    return BACKUP.give(session, host, actor, service.clock(), asked, recipients=asked.recipients)


def hand_out(service: Service, caller: Caller) -> BackupOut:
    """What is to be sent, and to whom it is encrypted before."""
    with service.acting(caller) as case:
        case.require(Action.READ_BACKUP)
        order = BACKUP.require(case)
        case.note("backup handed out")
        return BackupOut(
            host=order.host,
            disk=case.expectation.disk,
            recipients=order.recipients,
            largest=service.settings.limits.backup_bytes,
            piece=PIECE,
        )


def sends(service: Service, scope: Scope) -> bool:
    """Whether a request is of a machine that was told to send its data, and has its token. Nothing of it was read."""
    found = _PATH.fullmatch(scope["path"])
    if found is None or scope["method"] != "PUT":
        return False
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    if not given.lower().startswith(_BEARER):
        return False
    with service.storage.read() as session:
        enrolment = session.get(Enrolment, found[1])
        if enrolment is None or enrolment.state != State.BACKING_UP:
            return False
        return hmac.compare_digest(sha256(given[len(_BEARER) :].strip()), enrolment.token_sha256)


def take(service: Service, caller: Caller, offset: int, piece: bytes) -> None:
    """Keep a piece. One that does not fit ends the transfer: the machine begins anew, or somebody makes room.

    :raises Problem: 409 it does not fit.
    """
    with service.acting(caller) as case:
        case.require(Action.SEND_BACKUP)
        if case.session.get(Backup, case.enrolment.id) is not None:
            raise WrongOrder("its backup is kept")
        recipients = len(_recipients(case))
    # Not in the transaction: a slow disk would hold up everybody.
    _judged(service, caller, lambda: _add(service, caller, offset, piece, recipients))


def _add(service: Service, caller: Caller, offset: int, piece: bytes, recipients: int) -> None:
    if offset == 0 and (fault := escrow.unencrypted(piece, recipients)):
        raise Faulty(f"what it sends {fault}")
    _transfers(service).add(caller.id, offset, piece)


def keep(service: Service, caller: Caller, sent: BackupSent) -> BackupReceipt:
    """Let what came be the backup, if it is what was sent.

    :raises Problem: 409 it is something else.
    """
    with service.acting(caller) as case:
        if (kept := _kept(case, sent)) is not None:
            return _receipt(kept)
        case.require(Action.SEND_BACKUP)
        name = _name(case.enrolment)
    _judged(service, caller, lambda: _measure(service, caller, sent, name))
    with service.acting(caller) as case:
        if (kept := _kept(case, sent)) is None:
            case.require(Action.SEND_BACKUP)
            kept = Backup(
                enrolment=case.enrolment.id,
                host=str(case.enrolment.host),
                file=name,
                size=sent.size,
                sha256=sent.sha256,
                recipients=_recipients(case),
                time=case.moment.replace(microsecond=0),
            )
            case.session.add(kept)
            case.note("backup kept", file=name, size=sent.size, sha256=sent.sha256, recipients=kept.recipients)
            case.session.flush()
            try:
                _transfers(service).settle(caller.id, name)
            except Faulty as exc:
                raise Problem(503, str(exc), retry_after=10) from None
    return _receipt(kept)


def _measure(service: Service, caller: Caller, sent: BackupSent, name: str) -> None:
    if not _READING.acquire(blocking=False):
        raise Busy
    try:
        size, digest = _transfers(service).measure(caller.id, name)
    finally:
        _READING.release()
    if (size, digest) != (sent.size, sent.sha256):
        raise Faulty(f"{size} bytes came with SHA-256 {digest}, and {sent.size} were sent with {sent.sha256}")


def ended(case: Case, report: Report) -> str | None:
    """The data are here, and the order is done. Why not, if so."""
    case.require(Event.BACK_UP)
    kept, fault = case.session.get(Backup, case.enrolment.id), None
    try:
        evidence = BackedUpEvidence.model_validate(report.evidence)
    except ValueError:
        fault = "the evidence is incomplete"
    else:
        if kept is None or evidence.receipt != kept.sha256:
            fault = "the receipt is not the one that was given"
        elif evidence.manifest_sha256 != case.enrolment.manifest_sha256:
            fault = "the release is another than the installer's"
    if fault is not None:
        case.note("report refused", reason=fault, phase=report.phase)
        return fault
    BACKUP.done_with(case)
    case.go(Event.BACK_UP, report.line, evidence=report.evidence)
    return None


def tidy(service: Service) -> None:
    """Remove what came of transfers that have ended before they were whole."""
    transfers = _transfers(service)
    if not (unfinished := transfers.unfinished()):
        return
    with service.storage.read() as session:
        sending = set(session.scalars(select(Enrolment.id).where(Enrolment.state == State.BACKING_UP)))
    for name in unfinished:
        if name not in sending:
            transfers.remove(name)


def _judged(service: Service, caller: Caller, act: Callable[[], _Result]) -> _Result:
    try:
        return act()
    except Busy:
        raise Problem(503, "busy", retry_after=5) from None
    except Faulty as exc:
        with service.acting(caller) as case:
            case.go(Event.FAIL, str(exc))
        raise Problem(409, "not taken") from None


def _transfers(service: Service) -> Transfers:
    limits = service.settings.limits
    return Transfers(service.settings.backups, limits.backup_bytes, limits.backup_reserve_bytes)


def _recipients(case: Case) -> list[str]:
    """Of the order, which may have ended meanwhile: what was begun in time may end after it.

    :raises WrongOrder: it is withdrawn.
    """
    order = case.session.get(BACKUP.table, case.enrolment.ek_sha256)
    if order is None:
        raise WrongOrder("there is no order to back up any more")
    return order.recipients


def _kept(case: Case, sent: BackupSent) -> Backup | None:
    kept = case.session.get(Backup, case.enrolment.id)
    if kept is not None and (kept.size, kept.sha256) != (sent.size, sent.sha256):
        raise WrongOrder("another backup is kept")
    return kept


def _receipt(kept: Backup) -> BackupReceipt:
    return BackupReceipt(id=kept.enrolment, sha256=kept.sha256, time=audit.stamp(kept.time), size=kept.size)


def _name(enrolment: Enrolment) -> str:
    """The same whenever it is asked for: host and enrolment make it unique, the time is for people."""
    return f"{enrolment.host}_{enrolment.created:%Y%m%dT%H%M%SZ}_{enrolment.id[:8]}.tar.zst.age"
