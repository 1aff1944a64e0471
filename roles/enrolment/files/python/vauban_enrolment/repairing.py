# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The order to repair the disk of a host: to the one TPM that is the host, for some hours, and once."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from vauban_enrolment import audit
from vauban_enrolment.audit import Entry
from vauban_enrolment.case import Case
from vauban_enrolment.documents import RepairedEvidence, RepairIn, RepairOut, Report
from vauban_enrolment.problems import Problem
from vauban_enrolment.service import Caller, Service
from vauban_enrolment.states import Action, Event, WrongOrder
from vauban_enrolment.storage import Host, RepairOrder, WipeOrder


def give(service: Service, session: Session, host: Host, actor: str, asked: RepairIn) -> bool:
    """Order that the host's machine repairs its disk when it next starts the installer; whether that is new.

    An order that is there gets a new end: nobody has to wait until one has ended.

    :raises Problem: 409 the host has no machine whose TPM is known, or its disk is to be erased.
    """
    if host.installed is None or host.ek_sha256 is None:
        raise Problem(
            409, "cannot be repaired", "no machine is the host, or it has no TPM by which it could prove that"
        )
    if session.get(WipeOrder, host.ek_sha256) is not None:
        raise Problem(409, "cannot be repaired", "its disk is to be erased")
    moment = service.clock()
    expires = moment + timedelta(seconds=asked.seconds)
    kept = session.get(RepairOrder, host.ek_sha256)
    new = kept is None or kept.expires <= moment or kept.thorough != asked.thorough
    values = {"reason": asked.reason, "thorough": asked.thorough, "given": moment, "expires": expires}
    session.merge(RepairOrder(ek_sha256=host.ek_sha256, host=host.name, **values))
    detail = {"reason": asked.reason, "ek_sha256": host.ek_sha256, "thorough": asked.thorough}
    audit.append(
        session, moment, Entry(actor, "repair ordered", None, host.name, {**detail, "expires": audit.stamp(expires)})
    )
    return new


def hand_out(service: Service, caller: Caller) -> RepairOut:
    """What is to be repaired."""
    with service.acting(caller) as case:
        case.require(Action.READ_REPAIR)
        order = require_order(case)
        case.note("repair handed out")
        return RepairOut(host=order.host, disk=case.expectation.disk, thorough=order.thorough)


def require_order(case: Case) -> RepairOrder:
    """The order that the machine obeys.

    :raises WrongOrder: it has ended.
    """
    order = case.session.get(RepairOrder, case.enrolment.ek_sha256)
    if order is None or order.expires <= case.moment:
        raise WrongOrder("the order to repair has ended")
    return order


def ended(case: Case, report: Report) -> str | None:
    """The disk is repaired, and the order done. Why not, if so."""
    case.require(Event.REPAIR)
    try:
        RepairedEvidence.model_validate(report.evidence)
    except ValueError:
        fault = "the evidence is incomplete"
        case.note("report refused", reason=fault, phase=report.phase)
        return fault
    order = case.session.get(RepairOrder, case.enrolment.ek_sha256)
    if order is not None:  # what was begun in time may end after it
        case.session.delete(order)
    case.go(Event.REPAIR, report.line, evidence=report.evidence)
    return None
