# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The order to repair the disk of a host: to the one TPM that is the host, for some hours, and once."""

from __future__ import annotations

from sqlalchemy.orm import Session

from vauban_enrolment.case import Case
from vauban_enrolment.documents import RepairedEvidence, RepairIn, RepairOut, Report
from vauban_enrolment.orders import REPAIR
from vauban_enrolment.service import Caller, Service
from vauban_enrolment.states import Action, Event
from vauban_enrolment.storage import Host


def give(service: Service, session: Session, host: Host, actor: str, asked: RepairIn) -> bool:
    """Order that the host's machine repairs its disk when it next starts the installer; whether that is new.

    :raises Problem: 409 the host has no machine whose TPM is known, or its disk is to be erased.
    """
    return REPAIR.give(session, host, actor, service.clock(), asked, thorough=asked.thorough)


def hand_out(service: Service, caller: Caller) -> RepairOut:
    """What is to be repaired."""
    with service.acting(caller) as case:
        case.require(Action.READ_REPAIR)
        order = REPAIR.require(case)
        case.note("repair handed out")
        return RepairOut(host=order.host, disk=case.expectation.disk, thorough=order.thorough)


def ended(case: Case, report: Report) -> str | None:
    """The disk is repaired, and the order done. Why not, if so."""
    case.require(Event.REPAIR)
    try:
        RepairedEvidence.model_validate(report.evidence)
    except ValueError:
        fault = "the evidence is incomplete"
        case.note("report refused", reason=fault, phase=report.phase)
        return fault
    REPAIR.done_with(case)
    case.go(Event.REPAIR, report.line, evidence=report.evidence)
    return None
