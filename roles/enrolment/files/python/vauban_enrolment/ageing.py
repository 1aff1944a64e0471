# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What time does: it ends what has waited too long, and lets be forgotten what has ended long ago."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from vauban_enrolment import backing_up, states
from vauban_enrolment.case import Case
from vauban_enrolment.service import Service
from vauban_enrolment.settings import Lifetimes
from vauban_enrolment.states import Event, State
from vauban_enrolment.storage import Counter, Enrolment

_ORDERED = (State.REPAIRING, State.BACKING_UP, State.WIPING)
_INSTALLING = (State.PROVEN, State.KEEPING, State.INSTALLING, State.ESCROWED, *_ORDERED)


def sweep(service: Service) -> None:
    """End and forget what is due, and write down what was turned away. It costs a look if there is nothing."""
    backing_up.tidy(service)
    moment, lives = service.clock(), service.settings.lifetimes
    counted, service.turned_away = service.turned_away, {}
    ending, forgotten = _ending(moment, lives), _forgotten(moment, lives)
    with service.storage.read() as session:
        wanted = (*(which for *__, which in ending), forgotten)
        due = any(session.scalar(select(Enrolment.id).where(which).limit(1)) for which in wanted)
    if not due and not counted:
        return
    with service.storage.write() as session:
        for event, reason, which in ending:
            for enrolment in session.scalars(select(Enrolment).where(which)).all():
                Case(session, enrolment, "age", service.clock()).go(event, reason)
        for enrolment in session.scalars(select(Enrolment).where(forgotten)):
            session.delete(enrolment)
        _count(session, counted)


def _ending(moment: datetime, lives: Lifetimes) -> tuple[tuple[Event, str, ColumnElement[bool]], ...]:
    def before(seconds: int) -> datetime:
        return moment - timedelta(seconds=seconds)

    silent, old = Enrolment.seen < before(lives.quarantine_silence), Enrolment.created < before(lives.quarantine)
    return (
        (Event.REFUSE, "the challenge has ended", _in(State.CHALLENGED) & (Enrolment.nonce_expires <= moment)),
        (Event.REFUSE, "silence", _in(*states.UNPROVEN) & silent),
        (Event.REFUSE, "waited too long", _in(State.QUARANTINED) & old),
        (Event.FAIL, "silence", _in(*_INSTALLING) & (Enrolment.seen < before(lives.installation))),
        (Event.FAIL, "no first boot", _in(State.WRITTEN) & (Enrolment.changed < before(lives.first_boot))),
    )


def _forgotten(moment: datetime, lives: Lifetimes) -> ColumnElement[bool]:
    return _in(State.REFUSED, State.FAILED) & (Enrolment.changed < moment - timedelta(seconds=lives.ended))


def _in(*wanted: State) -> ColumnElement[bool]:
    return Enrolment.state.in_(wanted)


def _count(session: Session, counted: dict[str, int]) -> None:
    for name, value in counted.items():
        counter = session.get(Counter, name) or Counter(name=name, value=0)
        counter.value += value
        session.add(counter)
