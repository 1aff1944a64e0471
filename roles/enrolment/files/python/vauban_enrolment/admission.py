# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""From stranger to challenge: who presents itself is matched with a host, by itself or by an admin."""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vauban_enrolment import ageing, matching, states
from vauban_enrolment.case import Case
from vauban_enrolment.documents import Accepted, Application, ChallengeOut, Status
from vauban_enrolment.encoding import sha256, text
from vauban_enrolment.lookup import expectation_of, find_host, known, other_release, registers
from vauban_enrolment.orders import KINDS
from vauban_enrolment.problems import Problem, refused, wrong_order
from vauban_enrolment.proving import accept
from vauban_enrolment.service import Caller, Service, WrongCertificate, WrongToken
from vauban_enrolment.states import Event, State, WrongOrder
from vauban_enrolment.storage import Enrolment, Host

_NOTICED = timedelta(minutes=1)  # how exactly it is known when a machine was seen last


def present(service: Service, application: Application, address: str) -> Accepted:
    """A machine presents itself.

    :raises Problem: 403 it is refused; 503 too many wait already.
    """
    ageing.sweep(service)
    token = secrets.token_urlsafe(32)
    with service.storage.write() as session:
        _make_room(service, session, address)
        moment = service.clock()
        enrolment = _enrolment(application, address, token, moment)
        enrolment.ek_sha256, doubt = service.judge.examine(application.tpm)
        session.add(enrolment)
        session.flush()
        case = Case(session, enrolment, f"machine {address}", moment)
        challenge = _receive(service, case, matching.Refuse(doubt) if doubt else service.judge.match(case))
        state = case.state
    if state is State.REFUSED:
        raise refused()
    return Accepted(id=enrolment.id, token=token, state=state, challenge=challenge)


def _make_room(service: Service, session: Session, address: str) -> None:
    """Strangers may wait, but not any number of them, and none for all."""
    waiting = select(func.count()).select_from(Enrolment).where(Enrolment.state.in_(states.UNPROVEN))
    limits = service.settings.limits
    for name, number, most in (
        ("unproven_per_address", waiting.where(Enrolment.address == address), limits.unproven_per_address),
        ("unproven", waiting, limits.unproven),
    ):
        if session.scalars(number).one() >= most:
            service.turn_away(name)
            raise Problem(503, "too many wait", retry_after=60)


def _enrolment(application: Application, address: str, token: str, moment: datetime) -> Enrolment:
    tpm, hardware = application.tpm, application.hardware
    return Enrolment(
        id=secrets.token_hex(16),
        state="",
        token_sha256=sha256(token.encode()),
        address=address,
        created=moment,
        changed=moment,
        seen=moment,
        **application.release.model_dump(),
        hardware=hardware.model_dump(mode="json"),
        serial=hardware.dmi.get("product_serial", "").strip() or None,
        macs=sorted({each.mac for each in hardware.interfaces}),
        ek_public=tpm.ek_public if tpm else None,
        ek_certificate=tpm.ek_certificate if tpm else None,
        ak_public=tpm.ak_public if tpm else None,
    )


def _receive(service: Service, case: Case, verdict: matching.Verdict) -> ChallengeOut | None:
    if isinstance(verdict, matching.Quarantine):
        case.enter(State.QUARANTINED, verdict.reason, hint=verdict.hint)
        return None
    if isinstance(verdict, matching.Refuse):
        case.enter(State.REFUSED, verdict.reason, hint=verdict.host)
        return None
    if isinstance(verdict, matching.Ordered):
        KINDS[type(verdict)].admit(case, verdict.host)
    else:
        _admit(case, verdict.host)
    return _challenge(service, case) if case.state is State.CHALLENGED else None


def _admit(case: Case, host: str) -> None:
    """Take a machine for the host that it says it is; it has to prove it, and to run the host's release."""
    case.enrolment.host = host
    case.enrolment.machine_class = case.expectation.machine_class
    if reason := other_release(case.session, case.enrolment, case.host):
        case.enter(State.REFUSED, reason)
    else:
        case.enter(State.CHALLENGED, f"its EK is that of {host}, says the machine")


def reconsider(service: Service, session: Session, host: Host, actor: str) -> None:
    """Look again at those who wait in quarantine: somebody may have switched the host's machine on too early."""
    # What is not known of the host is equal to nothing (SQL).
    claims = Enrolment.ek_sha256.in_([host.listed_ek]) | Enrolment.serial.in_([host.serial])
    for enrolment in session.scalars(select(Enrolment).where(Enrolment.state == State.QUARANTINED, claims)):
        case = Case(session, enrolment, actor, service.clock())
        verdict = service.judge.match(case)
        if isinstance(verdict, matching.Admit) and verdict.host == host.name:
            _admit(case, host.name)


def _challenge(service: Service, case: Case) -> ChallengeOut | None:
    """The one that is open, or the first one. There is no second for an enrolment."""
    enrolment = case.enrolment
    if enrolment.nonce is None:
        made = service.judge.challenge(enrolment)
        enrolment.credential_sha256 = sha256(made.credential)
        enrolment.credential_blob, enrolment.secret = made.credential_blob, made.secret
        enrolment.nonce = secrets.token_bytes(32)
        enrolment.nonce_expires = case.moment + timedelta(seconds=service.settings.lifetimes.challenge)
    if enrolment.credential_blob is None or enrolment.secret is None:
        return None
    return ChallengeOut(
        credential_blob=text(enrolment.credential_blob),
        secret=text(enrolment.secret),
        nonce=text(enrolment.nonce),
        pcrs=registers(case.session, enrolment, "installer"),
    )


def status(service: Service, caller: Caller) -> Status:
    """Where it is. A machine that was approved finds its challenge here."""
    with service.storage.read() as session:
        enrolment = session.get(Enrolment, caller.id)
        resting = enrolment is not None and enrolment.state != State.CHALLENGED
        if resting and enrolment is not None and service.clock() - enrolment.seen < _NOTICED:
            with suppress(WrongToken, WrongCertificate):  # the other branch logs it
                service.authenticate(session, caller, states.LEFT_BY_INSTALLER)
                return Status(id=enrolment.id, state=enrolment.state, host=_own_host(enrolment))
    with service.acting(caller, states.LEFT_BY_INSTALLER) as case:
        challenge = _challenge(service, case) if case.state is State.CHALLENGED else None
        return Status(id=case.enrolment.id, state=case.state, host=_own_host(case.enrolment), challenge=challenge)


def _own_host(enrolment: Enrolment) -> str | None:
    """A machine that has proven nothing does not learn which host it is taken for."""
    return enrolment.host if enrolment.state in (*states.ACTING, *states.ORDERED, State.INSTALLED) else None


def approve(service: Service, case: Case, name: str) -> None:
    """Say which host a machine in quarantine is. It still has to prove that it holds its EK.

    :raises Problem: 404 there is no such host; 409 it cannot be that host.
    """
    host = find_host(case.session, name)
    if case.state is not State.QUARANTINED:
        raise wrong_order()
    if fault := _misapproved(service, case, host):
        raise Problem(409, "cannot be approved", fault)
    enrolment = case.enrolment
    enrolment.host, enrolment.approved, enrolment.seen = name, True, case.moment
    enrolment.machine_class = expectation_of(host).machine_class
    if enrolment.ek_public is None:
        accept(case, Event.APPROVE_WITHOUT_TPM, f"approved as {name}: nothing is proven")
    else:
        case.go(Event.APPROVE, f"approved as {name}")


def _misapproved(service: Service, case: Case, host: Host) -> str | None:
    """Why it cannot be that host, if so."""
    verdict = service.judge.match(case)
    if isinstance(verdict, matching.Refuse):
        return verdict.reason
    if isinstance(verdict, matching.Wipe):
        return f"it is to be wiped, as the machine of {verdict.host}"
    if isinstance(verdict, matching.Repair):
        return f"it is to repair its disk, as the machine of {verdict.host}"
    if isinstance(verdict, matching.Quarantine) and verdict.hint not in (None, host.name):
        return f"it has serial number or MAC address of {verdict.hint}"
    if isinstance(verdict, matching.Admit) and verdict.host != host.name:
        return f"it is {verdict.host}"
    if refusal := matching.admissible(service.judge.claim(case.enrolment), known(host)):
        return refusal.reason
    return other_release(case.session, case.enrolment, host)


def refuse(case: Case, reason: str) -> None:
    """End an enrolment.

    :raises Problem: 409 it has ended.
    """
    try:
        case.go(Event.REFUSE, reason)
    except WrongOrder:
        raise wrong_order() from None
