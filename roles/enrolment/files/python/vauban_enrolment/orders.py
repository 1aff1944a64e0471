# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What orders about the disk of a machine have in common: only who proves that it has the TPM obeys one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from vauban_enrolment import audit, matching
from vauban_enrolment.audit import Entry
from vauban_enrolment.case import Case
from vauban_enrolment.documents import OrderIn
from vauban_enrolment.lookup import unknown_release
from vauban_enrolment.problems import Problem
from vauban_enrolment.states import Event, State, WrongOrder
from vauban_enrolment.storage import BackupOrder, Enrolment, Host, RepairOrder, WipeOrder

Order = TypeVar("Order", RepairOrder, WipeOrder, BackupOrder)


@dataclass(frozen=True)
class Kind(Generic[Order]):
    """What is ordered.

    :param name: in the audit log.
    :param verb: what the machine does to its disk.
    :param done: the same, as a past participle.
    :param obeying: state of an enrolment that does it.
    :param proven: what leads there.
    """

    table: type[Order]
    name: str
    verb: str
    done: str
    obeying: State
    proven: Event

    def withdraw(self, session: Session, host: Host, actor: str, moment: datetime, reason: str) -> bool:
        """Take orders to this host's machines back; whether there was one."""
        given = list(session.scalars(select(self.table).where(self.table.host == host.name)))
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


Timed = TypeVar("Timed", RepairOrder, BackupOrder)


@dataclass(frozen=True)
class TimedKind(Kind[Timed]):
    """What is ordered of a machine that is a host, and stays it: for some hours, and once."""

    def give(self, session: Session, host: Host, actor: str, moment: datetime, asked: OrderIn, **what: Any) -> bool:
        """Order it for when the machine next starts the installer; whether that is new.

        An order that is there gets a new end: nobody has to wait until one has ended.

        :param what: the order's own columns.
        :raises Problem: 409 the host has no machine whose TPM is known, or its disk is to be erased.
        """
        title = f"cannot be {self.done}"
        if host.installed is None or host.ek_sha256 is None:
            raise Problem(409, title, "no machine is the host, or it has no TPM by which it could prove that")
        if session.get(WipeOrder, host.ek_sha256) is not None:
            raise Problem(409, title, "its disk is to be erased")
        expires = moment + timedelta(seconds=asked.seconds)
        kept = session.get(self.table, host.ek_sha256)
        same = kept is not None and all(getattr(kept, name) == value for name, value in what.items())
        new = kept is None or kept.expires <= moment or not same
        values = {**what, "reason": asked.reason, "given": moment, "expires": expires}
        session.merge(self.table(ek_sha256=host.ek_sha256, host=host.name, **values))
        detail = {"reason": asked.reason, "ek_sha256": host.ek_sha256, **what, "expires": audit.stamp(expires)}
        audit.append(session, moment, Entry(actor, f"{self.name} ordered", None, host.name, detail))
        return new

    def require(self, case: Case) -> Timed:
        """The order that the machine obeys.

        :raises WrongOrder: it has ended.
        """
        order = case.session.get(self.table, case.enrolment.ek_sha256)
        if order is None or order.expires <= case.moment:
            raise WrongOrder(f"the order to {self.verb} has ended")
        return order

    def done_with(self, case: Case) -> None:
        """It counts once. What was begun in time may end after it."""
        if (order := case.session.get(self.table, case.enrolment.ek_sha256)) is not None:
            case.session.delete(order)


# The machine becomes no host by it, and gets nothing of one.
WIPE = Kind(WipeOrder, "wipe", "erase", "erased", State.WIPING, Event.PROVE_TO_WIPE)
REPAIR = TimedKind(RepairOrder, "repair", "repair", "repaired", State.REPAIRING, Event.PROVE_TO_REPAIR)
BACKUP = TimedKind(BackupOrder, "backup", "back up", "backed up", State.BACKING_UP, Event.PROVE_TO_BACK_UP)
KINDS: Mapping[type[matching.Ordered], Kind[Any]] = {
    matching.Wipe: WIPE,
    matching.Repair: REPAIR,
    matching.BackUp: BACKUP,
}
