# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The order to erase a machine's disk: to one TPM, obeyed by who proves that it has it, and gone when that is done."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from vauban_enrolment import audit, states
from vauban_enrolment.audit import Entry
from vauban_enrolment.case import Case
from vauban_enrolment.documents import DiskOf, Report, WipeBegun, WipedEvidence, WipeOut
from vauban_enrolment.lookup import expectation_of
from vauban_enrolment.orders import WIPE
from vauban_enrolment.problems import Problem
from vauban_enrolment.service import Caller, Service
from vauban_enrolment.states import Action, Event, State
from vauban_enrolment.storage import Enrolment, Host, WipeOrder

_Evidence = TypeVar("_Evidence", bound=BaseModel)


def give(service: Service, session: Session, host: Host, actor: str, reason: str) -> bool:
    """Order that the host's machine erases its disk when it next starts the installer; whether that is new.

    :raises Problem: 409 it has no TPM that is known, so nothing could prove that a machine is this one.
    """
    last = _last(session, host)
    if host.ek_sha256 is None and host.listed_ek is None and last is not None and last.state == State.WIPED:
        return False
    ek = host.ek_sha256 or host.listed_ek or (last.ek_sha256 if last is not None else None)
    if ek is None:
        raise Problem(409, "cannot be wiped", "no TPM is known by which its machine could prove that it is this one")
    if session.get(WipeOrder, ek) is not None:
        return False
    moment = service.clock()
    disk = expectation_of(host).disk
    session.add(WipeOrder(ek_sha256=ek, host=host.name, disk=disk, reason=reason, given=moment, begun=None))
    session.flush()
    detail = {"reason": reason, "ek_sha256": ek, "disk": disk}
    audit.append(session, moment, Entry(actor, "wipe ordered", None, host.name, detail))
    for enrolment in _enrolments(session, ek):
        case = Case(session, enrolment, actor, moment)
        if case.state in states.ACTING:
            case.go(Event.REFUSE, "its disk is to be erased")
        elif case.state is State.QUARANTINED:
            WIPE.admit(case, host.name)
    return True


def hand_out(service: Service, caller: Caller) -> WipeOut:
    """Which disk."""
    with service.acting(caller) as case:
        case.require(Action.READ_WIPE)
        order = _order(case)
        case.note("wipe handed out")
        return WipeOut(
            host=order.host, disk=order.disk, begun=DiskOf.model_validate(order.begun) if order.begun else None
        )


def began(case: Case, report: Report) -> str | None:
    """Remember which disk it is, since nothing on it will say so later. Why not, if so."""
    begun = _read(WipeBegun, report)
    if begun is None:
        return "the evidence does not say which disk"
    disk, order = begun.disk.model_dump(), _order(case)
    if order.begun not in (None, disk):
        return "another disk was begun with"
    if order.begun is None:
        order.begun = disk
        case.note("wipe begun", disk=disk)
    return None


def ended(case: Case, report: Report) -> str | None:
    """The disk is erased: the order is done, and the machine is nobody's. Why not, if so."""
    case.require(Event.WIPE)
    order, done = _order(case), _read(WipedEvidence, report)
    if done is None or done.disk.model_dump() != order.begun:
        fault = "the evidence is incomplete, or is about another disk than was begun with"
        case.note("report refused", reason=fault, phase=report.phase)
        return fault
    host = case.host
    if host.ek_sha256 == order.ek_sha256:
        host.ek_sha256 = host.ak_public = host.installed = None
    case.session.delete(order)
    case.go(Event.WIPE, report.line, evidence=report.evidence)
    return None


def _read(kind: type[_Evidence], report: Report) -> _Evidence | None:
    try:
        return kind.model_validate(report.evidence)
    except ValueError:
        return None


def _order(case: Case) -> WipeOrder:
    return case.session.scalars(select(WipeOrder).where(WipeOrder.ek_sha256 == case.enrolment.ek_sha256)).one()


def _enrolments(session: Session, ek: str) -> list[Enrolment]:
    return list(session.scalars(select(Enrolment).where(Enrolment.ek_sha256 == ek)))


def _last(session: Session, host: Host) -> Enrolment | None:
    """The last of the host's enrolments that went to an end."""
    whole = Enrolment.state.in_((State.INSTALLED, State.WIPED))
    mine = select(Enrolment).where(Enrolment.host == host.name, whole)
    return session.scalar(mine.order_by(Enrolment.created.desc()).limit(1))
