# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What TPMs prove: that a machine holds its EK and runs its installer; later, that it has booted what was written."""

from __future__ import annotations

import hmac
import secrets
from datetime import timedelta

from sqlalchemy import select

from vauban_enrolment import matching, states
from vauban_enrolment.case import Case
from vauban_enrolment.documents import Attestation, NonceOut, Proof, QuoteIn
from vauban_enrolment.encoding import sha256, text
from vauban_enrolment.judge import Judge
from vauban_enrolment.lookup import known, other_release, registers, unknown_release
from vauban_enrolment.orders import KINDS
from vauban_enrolment.problems import refused
from vauban_enrolment.service import Caller, Service
from vauban_enrolment.states import Action, Event, State, WrongOrder
from vauban_enrolment.storage import Enrolment


def prove(service: Service, caller: Caller, proof: Proof) -> State:
    """The answer to the challenge. Right or wrong, there is only one.

    :raises Problem: 403 it is wrong.
    """
    with service.acting(caller) as case:
        case.require(Event.PROVE)
        if case.enrolment.credential_sha256 is None:
            raise WrongOrder("no challenge was fetched")
        reason = _disproof(service.judge, case, proof)
        case.spend()
        if reason is not None:
            case.go(Event.REFUSE, reason)
        elif isinstance(verdict := service.judge.match(case), matching.Ordered):
            KINDS[type(verdict)].accept(case)
        elif case.expectation.keep:
            accept(case, Event.PROVE_TO_KEEP, "TPM and registers are proven; its disk is kept")
        else:
            accept(case, Event.PROVE, "TPM and registers are proven")
        state = case.state
    if state is State.REFUSED:
        raise refused()
    return state


def _disproof(judge: Judge, case: Case, proof: Proof) -> str | None:
    if case.overdue:
        return "the challenge has ended"
    if not hmac.compare_digest(sha256(proof.credential), case.enrolment.credential_sha256 or ""):
        return "the credential is wrong: AK and EK are not of one TPM"
    return _no_longer(judge, case) or judge.misquoted(case, proof, "installer")


def _no_longer(judge: Judge, case: Case) -> str | None:
    """Why it may not be the host now, if so: others may have come first, and admins change their mind."""
    enrolment, host = case.enrolment, case.host
    verdict = judge.match(case)
    if isinstance(verdict, matching.Refuse):
        return verdict.reason
    if isinstance(verdict, matching.Ordered):
        return unknown_release(case.session, enrolment)
    if isinstance(verdict, matching.Admit) and verdict.host != host.name:
        return f"it is {verdict.host} now"
    if enrolment.approved:
        if refusal := matching.admissible(judge.claim(enrolment), known(host)):
            return refusal.reason
    elif not isinstance(verdict, matching.Admit):
        return f"nothing says any more that it is {host.name}"
    if enrolment.machine_class != case.expectation.machine_class:
        return "the host is of another class now"
    return other_release(case.session, enrolment, host)


def accept(case: Case, event: Event, reason: str) -> None:
    """From now on it is the host: whatever was the host before is not, and its EK is remembered."""
    enrolment, host = case.enrolment, case.host
    others = select(Enrolment).where(Enrolment.host == host.name, Enrolment.id != enrolment.id)
    for other in case.session.scalars(others.where(Enrolment.state.in_(states.ACTING))):
        case.other(other).go(Event.FAIL, f"another try of the same host: {enrolment.id}")
    host.ek_sha256, host.ak_public = enrolment.ek_sha256, enrolment.ak_public
    case.go(event, reason)


def give_nonce(service: Service, caller: Caller) -> NonceOut:
    """What the quote of the first boot has to sign; a new one each time, and only the last counts."""
    with service.acting(caller, states.LEFT_BY_INSTALLER) as case:
        case.require(Action.READ_NONCE)
        enrolment = case.enrolment
        enrolment.nonce = secrets.token_bytes(32)
        enrolment.nonce_expires = case.moment + timedelta(seconds=service.settings.lifetimes.nonce)
        # What a machine without TPM does not quote is not asked for.
        pcrs = registers(case.session, enrolment, "installed") if enrolment.ek_public is not None else []
        return NonceOut(nonce=text(enrolment.nonce), pcrs=pcrs)


def attest(service: Service, caller: Caller, attestation: Attestation) -> State:
    """The machine has booted what was written.

    :raises Problem: 403 it has not; 409 the nonce is another.
    """
    with service.acting(caller, states.LEFT_BY_INSTALLER) as case:
        case.require(Event.ATTEST)
        nonce = case.enrolment.nonce
        if nonce is None or case.overdue or not hmac.compare_digest(nonce, attestation.nonce):
            raise WrongOrder("the nonce is not the one that was given last, or has ended")
        reason = _unattested(service.judge, case, attestation.given())
        case.enrolment.nonce = None
        if reason is not None:
            case.go(Event.FAIL, reason)
        else:
            _install(case)
        state = case.state
    if state is not State.INSTALLED:
        raise refused()
    return state


def _unattested(judge: Judge, case: Case, quote: QuoteIn | None) -> str | None:
    if case.enrolment.ek_public is None:
        return "a quote of a machine without TPM" if quote is not None else None
    return "no quote" if quote is None else judge.misquoted(case, quote, "installed")


def _install(case: Case) -> None:
    host, proven = case.host, case.enrolment.ek_public is not None
    host.installed = case.moment
    # Once is once: the next try of this machine changes nothing unless it is said again.
    host.expectation = {**host.expectation, "reinstall": False, "keep": False}
    reason = "the registers are those of its release" if proven else "no TPM: nothing is proven"
    case.go(Event.ATTEST, reason)
