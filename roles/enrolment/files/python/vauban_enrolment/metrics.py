# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Figures for Prometheus, read from the database when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vauban_enrolment import audit
from vauban_enrolment.states import State
from vauban_enrolment.storage import (
    Counter,
    Enrolment,
    Escrow,
    Head,
    Host,
    Storage,
)

_AUDIT_SECONDS = 600


class AuditCheck:
    """Whether the audit log is whole. Reading all of it takes time, so the answer may be some minutes old."""

    def __init__(self) -> None:
        self.intact = False
        self.checked: float | None = None

    def __call__(self, session: Session) -> bool:
        """The answer."""
        if self.checked is None or time.monotonic() - self.checked > _AUDIT_SECONDS:
            self.intact = audit.verify(session) is None
            self.checked = time.monotonic()
        return self.intact


class _Fleet(Collector):
    def __init__(self, storage: Storage, check: AuditCheck) -> None:
        self.storage, self.check = storage, check

    def collect(self) -> Iterator[Metric]:
        """All of them, of one moment."""
        with self.storage.read() as session:
            states = GaugeMetricFamily("enrolment_enrolments", "Enrolments by state", labels=["state"])
            rows = select(Enrolment.state, func.count()).group_by(Enrolment.state)
            counts = {row[0]: row[1] for row in session.execute(rows)}
            for state in State:
                states.add_metric([state], counts.get(state, 0))
            yield states
            hosts = select(func.count()).select_from(Host)
            installed = session.scalar(hosts.where(Host.installed.is_not(None)))
            yield GaugeMetricFamily("enrolment_hosts", "Hosts of the inventory", session.scalar(hosts))
            yield GaugeMetricFamily("enrolment_hosts_installed", "Hosts that were installed", installed)
            escrows = session.scalar(select(func.count()).select_from(Escrow))
            yield GaugeMetricFamily("enrolment_escrows", "Recovery keys that are kept", escrows)
            away = CounterMetricFamily("enrolment_turned_away", "Requests that were turned away", labels=["reason"])
            for counter in session.scalars(select(Counter).order_by(Counter.name)):
                away.add_metric([counter.name], counter.value)
            yield away
            head = session.get(Head, 1)
            yield CounterMetricFamily("enrolment_audit_records", "Lines of the audit log", head.sequence if head else 0)
            intact = 1 if self.check(session) else 0
            yield GaugeMetricFamily("enrolment_audit_intact", "Whether the audit log was whole when last read", intact)


def render(storage: Storage, check: AuditCheck) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(_Fleet(storage, check))
    return generate_latest(registry)
