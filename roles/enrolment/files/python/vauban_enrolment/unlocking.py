# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Carries a recovery key from who can read it to the machine that asks. The service can read neither side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vauban_enrolment import audit
from vauban_enrolment.audit import Entry
from vauban_enrolment.case import Case
from vauban_enrolment.documents import UnlockIn, UnlockOut
from vauban_enrolment.encoding import sha256, text
from vauban_enrolment.orders import BACKUP, REPAIR, TimedKind
from vauban_enrolment.problems import missing
from vauban_enrolment.service import Caller, Service
from vauban_enrolment.states import ALLOWED, Action, State
from vauban_enrolment.storage import Enrolment, Unlock

_ORDERS: Mapping[State, TimedKind[Any]] = {State.REPAIRING: REPAIR, State.BACKING_UP: BACKUP}


def ask(service: Service, caller: Caller, given: UnlockIn) -> None:
    """Keep the question. Another one takes its place: the machine has forgotten what it made the first with."""
    with service.acting(caller) as case:
        _require(case)
        content = given.model_dump(mode="json")
        kept = case.session.get(Unlock, case.enrolment.id)
        if kept is not None and kept.request == content:
            return
        case.session.merge(Unlock(enrolment=case.enrolment.id, request=content, answer=None, time=case.moment))
        case.note("unlock asked for", recipient=given.recipient)


def read(service: Service, caller: Caller) -> UnlockOut | None:
    """The answer, or nothing yet.

    :raises Problem: 404 it was not asked for.
    """
    with service.acting(caller) as case:
        _require(case)
        kept = case.session.get(Unlock, case.enrolment.id)
        if kept is None:
            raise missing()
        return None if kept.answer is None else UnlockOut.model_validate(kept.answer)


def _require(case: Case) -> None:
    """A machine that is a host, and was told to do something, has its time for that."""
    case.require(Action.UNLOCK)
    if order := _ORDERS.get(case.state):
        order.require(case)


def waiting(session: Session) -> list[dict[str, Any]]:
    """The questions that nobody has answered, with all that it takes to judge who asks."""
    rows = session.execute(
        select(Unlock, Enrolment)
        .join(Enrolment, Enrolment.id == Unlock.enrolment)
        .where(Unlock.answer.is_(None), Enrolment.state.in_(ALLOWED[Action.UNLOCK]))
        .order_by(Unlock.time)
    )
    return [
        {
            "host": enrolment.host,
            "enrolment": enrolment.id,
            "ek_public": text(enrolment.ek_public or b""),
            "ak_public": text(enrolment.ak_public or b""),
            **unlock.request,
        }
        for unlock, enrolment in rows
    ]


def answer(service: Service, session: Session, id: str, given: UnlockOut, actor: str) -> None:
    """Keep the answer.

    :raises Problem: 404 nobody asks.
    """
    enrolment, kept = session.get(Enrolment, id), session.get(Unlock, id)
    if enrolment is None or kept is None or enrolment.state not in ALLOWED[Action.UNLOCK]:
        raise missing()
    kept.answer = given.model_dump(mode="json")
    detail = {"recipient": kept.request["recipient"], "sha256": sha256(given.recovery_key.encode())}
    audit.append(session, service.clock(), Entry(actor, "unlock answered", id, enrolment.host, detail))
