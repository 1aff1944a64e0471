# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The service: what its parts share, and who may act for an enrolment. All state is in the database.

What machines do stands in the order in which they do it: ``admission`` from stranger to challenge, ``proving`` what
TPMs prove, ``installing`` what the installer fetches and leaves. ``ageing`` ends what waits too long; ``admin`` has the
other side. Each of their functions is one transaction.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from sqlalchemy.orm import Session

from vauban_enrolment import audit, client_certificate
from vauban_enrolment.audit import Entry
from vauban_enrolment.case import Case
from vauban_enrolment.encoding import sha256
from vauban_enrolment.judge import Judge
from vauban_enrolment.problems import refused, unauthorised, wrong_order
from vauban_enrolment.settings import Settings
from vauban_enrolment.states import State, WrongOrder
from vauban_enrolment.storage import Enrolment, Storage
from vauban_enrolment.verifier import Verifier


def now() -> datetime:
    """The clock, unless a test has another."""
    return datetime.now(UTC)


class WrongToken(Exception):
    """Somebody knows the enrolment, and not its token."""


class WrongCertificate(Exception):
    """Somebody has the token, and not the key of a certificate that was handed out."""

    def __init__(self, host: str | None, reason: str) -> None:
        self.host = host
        super().__init__(reason)


@dataclass(frozen=True)
class Caller:
    """Who speaks for an enrolment.

    :param certificate: SHA-256 of the certificate that he has shown in TLS, and has the key of.
    """

    id: str
    token: str
    address: str
    certificate: str | None = None

    @property
    def actor(self) -> str:
        """For the audit log."""
        return f"machine {self.address}"


@dataclass
class Service:
    """What both sides work with."""

    storage: Storage
    settings: Settings
    verifier: Verifier
    authorities: Sequence[x509.Certificate] = ()
    clock: Callable[[], datetime] = now
    # Of strangers' requests that were turned away; kept until the next sweep writes them down.
    turned_away: dict[str, int] = field(default_factory=dict)

    @property
    def judge(self) -> Judge:
        """Of what TPMs say."""
        return Judge(self.verifier, self.authorities)

    @contextmanager
    def acting(self, caller: Caller, token_alone: Collection[State] = ()) -> Iterator[Case]:
        """A transaction of a machine that has shown its token, and its certificate once it has one. Wrong tokens, wrong
        certificates and wrong order are logged.

        :param token_alone: states in which the token is enough.
        """
        host = None
        try:
            with self.storage.write() as session:
                enrolment = self.authenticate(session, caller, token_alone)
                host, moment = enrolment.host, self.clock()
                enrolment.seen = moment
                yield Case(session, enrolment, caller.actor, moment)
        except WrongOrder as exc:
            self._record(Entry(caller.actor, "out of order", caller.id, host, {"reason": str(exc)}))
            raise wrong_order() from None
        except WrongToken:
            self._record(Entry(caller.actor, "wrong token", caller.id))
            raise unauthorised() from None
        except WrongCertificate as exc:
            self._record(Entry(caller.actor, "wrong certificate", caller.id, exc.host, {"reason": str(exc)}))
            raise refused() from None

    def authenticate(self, session: Session, caller: Caller, token_alone: Collection[State] = ()) -> Enrolment:
        """The enrolment that the caller speaks for.

        :param token_alone: states in which the token is enough.
        :raises Problem: 401 there is no such enrolment.
        :raises WrongToken: the token is not for this one.
        :raises WrongCertificate: a certificate was handed out, and the caller has shown another or none.
        """
        enrolment = session.get(Enrolment, caller.id)
        expected = enrolment.token_sha256 if enrolment else "0" * 64
        right = hmac.compare_digest(sha256(caller.token.encode()), expected)
        if enrolment is None:
            self.turn_away("unknown_enrolment")
            raise unauthorised()
        if not right:
            raise WrongToken
        if State(enrolment.state) not in token_alone:
            reason = client_certificate.fault(session, enrolment.id, caller.certificate)
            if reason is not None:
                raise WrongCertificate(enrolment.host, reason)
        return enrolment

    def turn_away(self, why: str) -> None:
        """Count a request that was turned away before it could change anything."""
        self.turned_away[why] = self.turned_away.get(why, 0) + 1

    def _record(self, entry: Entry) -> None:
        with self.storage.write() as session:
            audit.append(session, self.clock(), entry)
