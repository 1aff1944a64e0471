# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The audit log: every change of state with time, who and why. It only grows, and a line that was removed shows."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vauban_enrolment.storage import Head, Record

START = "0" * 64
_LOG = logging.getLogger("enrolment.audit")


@dataclass(frozen=True)
class Entry:
    """What is to be said."""

    actor: str
    action: str
    enrolment: str | None = None
    host: str | None = None
    detail: Mapping[str, Any] | None = None


def append(session: Session, time: datetime, entry: Entry) -> None:
    """Add a line, as part of the change it tells of. The journal gets it, too, and with it where logs are collected."""
    head = session.get(Head, 1)
    record = Record(
        sequence=head.sequence + 1 if head else 1,
        time=stamp(time),
        actor=entry.actor,
        action=entry.action,
        enrolment=entry.enrolment,
        host=entry.host,
        detail=dict(entry.detail or {}),
        previous=head.digest if head else START,
    )
    record.digest = _digest(record)
    session.add(record)
    session.flush()
    if head is None:
        session.add(Head(id=1, sequence=record.sequence, digest=record.digest))
    else:
        head.sequence, head.digest = record.sequence, record.digest
    session.flush()
    _LOG.info("%s", _canonical({**_content(record), "digest": record.digest}))


def verify(session: Session) -> str | None:
    """What is wrong with the log, if anything: a line that was changed, removed or added by others."""
    expected, previous = 1, START
    for record in session.scalars(select(Record).order_by(Record.sequence).execution_options(yield_per=500)):
        if record.sequence != expected:
            return f"line {expected} is missing"
        if record.previous != previous or record.digest != _digest(record):
            return f"line {expected} was changed, or one before it"
        expected, previous = expected + 1, record.digest
    head = session.get(Head, 1)
    if (head.sequence, head.digest) != (expected - 1, previous) if head else expected != 1:
        return "its end is missing"
    return None


def stamp(time: datetime) -> str:
    """A time as RFC 3339 writes it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _content(record: Record) -> dict[str, Any]:
    names = ("sequence", "time", "actor", "action", "enrolment", "host", "detail", "previous")
    return {name: getattr(record, name) for name in names}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _digest(record: Record) -> str:
    return hashlib.sha256(_canonical(_content(record)).encode()).hexdigest()
