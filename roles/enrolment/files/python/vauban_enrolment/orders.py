# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What orders about the disk of a machine have in common: only who proves that it has the TPM obeys one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from vauban_enrolment import audit
from vauban_enrolment.audit import Entry
from vauban_enrolment.case import Case
from vauban_enrolment.lookup import unknown_release
from vauban_enrolment.states import Event, State
from vauban_enrolment.storage import Enrolment, Host, RepairOrder, WipeOrder


@dataclass(frozen=True)
class Kind:
    """What is ordered.

    :param name: in the audit log.
    :param verb: what the machine does to its disk.
    :param done: the same, as a past participle.
    :param obeying: state of an enrolment that does it.
    :param proven: what leads there.
    """

    table: type[RepairOrder | WipeOrder]
    name: str
    verb: str
    done: str
    obeying: State
    proven: Event

    def withdraw(self, session: Session, host: Host, actor: str, moment: datetime, reason: str) -> bool:
        """Take orders to this host's machines back; whether there was one."""
        given: list[RepairOrder | WipeOrder] = list(
            session.scalars(select(self.table).where(self.table.host == host.name))
        )
        for order in given:
            for enrolment in self._obeying(session, order.ek_sha256):
                why = f"the order to {self.verb} its disk is withdrawn"
                Case(session, enrolment, actor, moment).go(Event.REFUSE, why)
            detail = {"reason": reason, "ek_sha256": order.ek_sha256}
            audit.append(session, moment, Entry(actor, f"{self.name} withdrawn", None, host.name, detail))
            session.delete(order)
        return bool(given)

    def admit(self, case: Case, host: str) -> None:
        """Let a machine prove that it is the one. Any installer that is known may do it."""
        case.enrolment.host = host
        case.enrolment.machine_class = case.expectation.machine_class
        if reason := unknown_release(case.session, case.enrolment):
            case.enter(State.REFUSED, reason)
        else:
            case.enter(State.CHALLENGED, f"its EK is that of {host}, says the machine; its disk is to be {self.done}")

    def accept(self, case: Case) -> None:
        """It has the TPM that the order is for, and runs our installer."""
        for other in self._obeying(case.session, str(case.enrolment.ek_sha256)):
            case.other(other).go(Event.FAIL, f"another try of the same machine: {case.enrolment.id}")
        case.go(self.proven, f"TPM and registers are proven; its disk is to be {self.done}")

    def _obeying(self, session: Session, ek: str) -> list[Enrolment]:
        mine = select(Enrolment).where(Enrolment.ek_sha256 == ek, Enrolment.state == self.obeying)
        return list(session.scalars(mine))


# The machine becomes no host by it, and gets nothing of one.
WIPE = Kind(WipeOrder, "wipe", "erase", "erased", State.WIPING, Event.PROVE_TO_WIPE)
# It stays what it is: the host, installed.
REPAIR = Kind(RepairOrder, "repair", "repair", "repaired", State.REPAIRING, Event.PROVE_TO_REPAIR)
