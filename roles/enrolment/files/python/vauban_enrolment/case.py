# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""An enrolment in a transaction: its steps from state to state, each with a line of the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from vauban_enrolment import audit, states
from vauban_enrolment.audit import Entry
from vauban_enrolment.documents import Expectation
from vauban_enrolment.lookup import expectation_of, find_host
from vauban_enrolment.states import Action, Event, State
from vauban_enrolment.storage import Enrolment, Host


@dataclass(frozen=True)
class Case:
    """An enrolment that somebody acts on.

    :param actor: who, for the audit log.
    :param moment: when; all that a transaction does has one time.
    """

    session: Session
    enrolment: Enrolment
    actor: str
    moment: datetime

    @property
    def state(self) -> State:
        """How far it is."""
        return State(self.enrolment.state)

    @property
    def host(self) -> Host:
        """The host that the machine says it is, or is."""
        return find_host(self.session, str(self.enrolment.host))

    @property
    def expectation(self) -> Expectation:
        """What the site expects of that host's machine, and gives it."""
        return expectation_of(self.host)

    @property
    def overdue(self) -> bool:
        """Whether the time for its challenge, or its nonce, is over."""
        return self.enrolment.nonce_expires is None or self.moment >= self.enrolment.nonce_expires

    def require(self, asked: Action | Event) -> None:
        """Whether that is possible now.

        :raises WrongOrder: it is not.
        """
        if isinstance(asked, Action):
            states.check(self.state, asked)
        else:
            states.after(self.state, asked)

    def go(self, event: Event, reason: str, **detail: Any) -> None:
        """Go on to the state that an event leads to.

        :raises WrongOrder: it leads nowhere from here.
        """
        self.enter(states.after(self.state, event), reason, **detail)

    def enter(self, state: State, reason: str, **detail: Any) -> None:
        """Be in a state, the first one or the next. The audit log says who it is, whence it came, and why."""
        enrolment = self.enrolment
        told = {key: value for key, value in detail.items() if value is not None}
        if not enrolment.state:
            told.update(
                serial=enrolment.serial,
                macs=enrolment.macs,
                ek_sha256=enrolment.ek_sha256,
                release=f"{enrolment.product} {enrolment.version}",
            )
        told.update(before=enrolment.state or None, reason=reason)
        if enrolment.machine_class is not None:
            told["class"] = enrolment.machine_class
        enrolment.state, enrolment.changed = state, self.moment
        if state in states.ENDS and state != State.INSTALLED:
            self.spend()
        self.note(state, **told)

    def spend(self) -> None:
        """Forget the challenge: there is one answer to it."""
        self.enrolment.credential_sha256 = self.enrolment.credential_blob = self.enrolment.secret = None

    def note(self, action: str, **detail: Any) -> None:
        """Add a line to the audit log."""
        audit.append(
            self.session, self.moment, Entry(self.actor, action, self.enrolment.id, self.enrolment.host, detail)
        )

    def other(self, enrolment: Enrolment) -> Case:
        """Another enrolment, on which the same acts at the same time."""
        return Case(self.session, enrolment, self.actor, self.moment)
