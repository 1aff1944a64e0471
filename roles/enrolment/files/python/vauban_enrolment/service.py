# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the service does, without HTTP. Every method is one transaction; all state is in the database."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._site import certificate_request
from vauban_enrolment import audit, escrow, matching, states
from vauban_enrolment.audit import Entry
from vauban_enrolment.documents import (
    Accepted,
    Application,
    Attestation,
    ChallengeOut,
    EscrowIn,
    EscrowTo,
    Expectation,
    Installation,
    NonceOut,
    Proof,
    QuoteIn,
    Receipt,
    ReleaseOf,
    Report,
    Status,
    Tpm,
    WrittenEvidence,
)
from vauban_enrolment.lookup import (
    candidates,
    expectation_of,
    expected,
    find_host,
    known,
    other_release,
    registers,
)
from vauban_enrolment.problems import (
    Problem,
    missing,
    refused,
    unauthorised,
    wrong_order,
)
from vauban_enrolment.settings import Settings
from vauban_enrolment.states import Action, Event, State, WrongOrder
from vauban_enrolment.storage import (
    CertificateRequest,
    Counter,
    Enrolment,
    Escrow,
    Host,
    Storage,
)
from vauban_enrolment.verifier import Endorsement, Quote, Verifier

CURVE = "secp256r1"
_NOTICED = timedelta(minutes=1)  # how exactly it is known when a machine was seen last
_LOG = logging.getLogger("enrolment")


def now() -> datetime:
    """The clock, unless a test has another."""
    return datetime.now(UTC)


class _WrongToken(Exception):
    """Somebody knows the enrolment, and not its token."""


@dataclass(frozen=True)
class Caller:
    """Who speaks for an enrolment."""

    id: str
    token: str
    address: str

    @property
    def actor(self) -> str:
        """For the audit log."""
        return f"machine {self.address}"


@dataclass
class Service:
    """The machines' side. ``admin.py`` has the other."""

    storage: Storage
    settings: Settings
    verifier: Verifier
    authorities: Sequence[x509.Certificate] = ()
    clock: Callable[[], datetime] = now
    # Of strangers' requests that were turned away; kept until the next sweep writes them down.
    turned_away: dict[str, int] = field(default_factory=dict)

    # -- the beginning

    def apply(self, application: Application, address: str) -> Accepted:
        """A machine presents itself.

        :raises Problem: 403 it is refused; 503 too many wait already.
        """
        self.sweep()
        token = secrets.token_urlsafe(32)
        with self.storage.write() as session:
            self._make_room(session, address)
            ek_sha256, reason = self._examine(application.tpm)
            enrolment = self._enrolment(application, ek_sha256, address, token)
            session.add(enrolment)
            session.flush()
            verdict = matching.Refuse(reason) if reason else self._judge(session, enrolment)
            challenge = self._receive(session, enrolment, verdict, f"machine {address}")
            state = State(enrolment.state)
        if state is State.REFUSED:
            raise refused()
        return Accepted(id=enrolment.id, token=token, state=state, challenge=challenge)

    def _enrolment(self, application: Application, ek_sha256: str | None, address: str, token: str) -> Enrolment:
        moment, tpm, hardware = self.clock(), application.tpm, application.hardware
        return Enrolment(
            id=secrets.token_hex(16),
            state="",
            token_sha256=_sha256(token.encode()),
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
            ek_sha256=ek_sha256,
            ak_public=tpm.ak_public if tpm else None,
        )

    def _make_room(self, session: Session, address: str) -> None:
        """Strangers may wait, but not any number of them, and none for all."""
        waiting = select(func.count()).select_from(Enrolment).where(Enrolment.state.in_(states.UNPROVEN))
        limits = self.settings.limits
        if session.scalars(waiting.where(Enrolment.address == address)).one() >= limits.unproven_per_address:
            self.turn_away("unproven_per_address")
            raise Problem(503, "too many wait", retry_after=60)
        if session.scalars(waiting).one() >= limits.unproven:
            self.turn_away("unproven")
            raise Problem(503, "too many wait", retry_after=60)

    def _examine(self, tpm: Tpm | None) -> tuple[str | None, str | None]:
        """The hash of the EK, or why the keys are none that an honest machine sends."""
        if tpm is None:
            return None, None
        endorsed: list[Endorsement] = []
        reason = _ask(lambda: endorsed.append(self.verifier.check_ek(tpm.ek_public, None, ())))
        reason = reason or _ask(lambda: self.verifier.check_ak(tpm.ak_public))
        return (endorsed[0].sha256, None) if reason is None else (None, reason)

    def _receive(
        self, session: Session, enrolment: Enrolment, verdict: matching.Verdict, actor: str
    ) -> ChallengeOut | None:
        match verdict:
            case matching.Admit(host):
                enrolment.host = host
                found = find_host(session, host)
                enrolment.machine_class = expectation_of(found).machine_class
                if reason := other_release(session, enrolment, found):
                    self._set(session, enrolment, State.REFUSED, actor, reason)
                    return None
                self._set(session, enrolment, State.CHALLENGED, actor, f"its EK is that of {host}, says the machine")
                return self._challenge(session, enrolment)
            case matching.Quarantine(reason, hint):
                self._set(session, enrolment, State.QUARANTINED, actor, reason, hint=hint)
            case matching.Refuse(reason, host):
                self._set(session, enrolment, State.REFUSED, actor, reason, hint=host)
        return None

    def _judge(self, session: Session, enrolment: Enrolment) -> matching.Verdict:
        claim = self.claim(enrolment)
        return matching.judge(claim, candidates(session, claim))

    def claim(self, enrolment: Enrolment) -> matching.Claim:
        """What the machine says it is."""
        public, certificate = enrolment.ek_public, enrolment.ek_certificate
        certified = public is not None and certificate is not None and len(self.authorities) > 0
        if certified and public is not None:
            certified = _ask(lambda: self.verifier.check_ek(public, certificate, self.authorities)) is None
        return matching.Claim(enrolment.ek_sha256, certified, enrolment.serial, frozenset(enrolment.macs))

    # -- proof

    def _challenge(self, session: Session, enrolment: Enrolment) -> ChallengeOut | None:
        """The one that is open, or the first one. There is no second for an enrolment."""
        if enrolment.nonce is None:
            assert enrolment.ek_public is not None
            assert enrolment.ak_public is not None
            made = self.verifier.make_challenge(enrolment.ek_public, self.verifier.name_of(enrolment.ak_public))
            enrolment.credential_sha256 = _sha256(made.credential)
            enrolment.credential_blob, enrolment.secret = made.credential_blob, made.secret
            enrolment.nonce = secrets.token_bytes(32)
            enrolment.nonce_expires = self.clock() + timedelta(seconds=self.settings.lifetimes.challenge)
        if enrolment.credential_blob is None or enrolment.secret is None:
            return None
        return ChallengeOut(
            credential_blob=_text(enrolment.credential_blob),
            secret=_text(enrolment.secret),
            nonce=_text(enrolment.nonce),
            pcrs=registers(session, enrolment, "installer"),
        )

    def status(self, caller: Caller) -> Status:
        """Where it is. A machine that was approved finds its challenge here."""
        with self.storage.read() as session:
            enrolment = session.get(Enrolment, caller.id)
            resting = enrolment is not None and enrolment.state != State.CHALLENGED
            if resting and enrolment is not None and self.clock() - enrolment.seen < _NOTICED:
                with suppress(_WrongToken):  # the other branch logs it
                    self._authenticate(session, caller)
                    return Status(id=enrolment.id, state=enrolment.state, host=_own_host(enrolment))
        with self._acting(caller) as (session, enrolment):
            challenge = self._challenge(session, enrolment) if enrolment.state == State.CHALLENGED else None
            return Status(id=enrolment.id, state=enrolment.state, host=_own_host(enrolment), challenge=challenge)

    def prove(self, caller: Caller, proof: Proof) -> State:
        """The answer to the challenge. Right or wrong, there is only one.

        :raises Problem: 403 it is wrong.
        """
        with self._acting(caller) as (session, enrolment):
            states.after(State(enrolment.state), Event.PROVE)
            if enrolment.credential_sha256 is None:
                raise WrongOrder("no challenge was fetched")
            reason = self._disproof(session, enrolment, proof)
            # Used, and gone from here.
            enrolment.credential_sha256 = enrolment.credential_blob = enrolment.secret = None
            if reason is not None:
                self._go(session, enrolment, Event.REFUSE, caller.actor, reason)
            else:
                self.accept(session, enrolment, Event.PROVE, caller.actor, "TPM and registers are proven")
            state = State(enrolment.state)
        if state is State.REFUSED:
            raise refused()
        return state

    def _disproof(self, session: Session, enrolment: Enrolment, proof: Proof) -> str | None:
        if self._expired(enrolment):
            return "the challenge has ended"
        if not hmac.compare_digest(_sha256(proof.credential), enrolment.credential_sha256 or ""):
            return "the credential is wrong: AK and EK are not of one TPM"
        if reason := self._still(session, enrolment):
            return reason
        return self._misquoted(session, enrolment, proof, "installer")

    def _still(self, session: Session, enrolment: Enrolment) -> str | None:
        """Whether it may be the host now, too: others may have come first, and admins change their mind."""
        assert enrolment.host is not None
        verdict, host = self._judge(session, enrolment), find_host(session, enrolment.host)
        if isinstance(verdict, matching.Refuse):
            return verdict.reason
        if isinstance(verdict, matching.Admit) and verdict.host != enrolment.host:
            return f"it is {verdict.host} now"
        if enrolment.approved:
            if refusal := matching.admissible(self.claim(enrolment), known(host)):
                return refusal.reason
        elif not isinstance(verdict, matching.Admit):
            return f"nothing says any more that it is {enrolment.host}"
        if enrolment.machine_class != expectation_of(host).machine_class:
            return "the host is of another class now"
        return other_release(session, enrolment, host)

    def _misquoted(self, session: Session, enrolment: Enrolment, quoted: QuoteIn, when: str) -> str | None:
        wanted = expected(session, enrolment, when)
        public, nonce = enrolment.ak_public, enrolment.nonce
        if wanted is None or public is None or nonce is None:
            return "nothing is known that a quote could be compared with"
        quote = Quote(quoted.quote, quoted.signature, quoted.registers())
        return _ask(lambda: self.verifier.check_quote(public, quote, nonce, wanted))

    def accept(self, session: Session, enrolment: Enrolment, event: Event, actor: str, reason: str) -> None:
        """From now on it is the host: whatever was the host before is not, and its EK is remembered."""
        assert enrolment.host is not None
        others = select(Enrolment).where(Enrolment.host == enrolment.host, Enrolment.id != enrolment.id)
        for other in session.scalars(others.where(Enrolment.state.in_(states.ACTING))):
            self._go(session, other, Event.FAIL, actor, f"another try of the same host: {enrolment.id}")
        host = find_host(session, enrolment.host)
        host.ek_sha256, host.ak_public = enrolment.ek_sha256, enrolment.ak_public
        self._go(session, enrolment, event, actor, reason)

    # -- installation

    def installation(self, caller: Caller) -> Installation:
        """What the host is to become."""
        with self._acting(caller) as (session, enrolment):
            states.check(State(enrolment.state), Action.READ_INSTALLATION)
            expectation = self._expectation(session, enrolment)
            audit.append(session, self.clock(), Entry(caller.actor, "handed out", enrolment.id, enrolment.host))
            return Installation(
                host=str(enrolment.host),
                machine_class=expectation.machine_class,
                release=ReleaseOf(
                    product=enrolment.product, version=enrolment.version, manifest_sha256=enrolment.manifest_sha256
                ),
                disk=expectation.disk,
                sizes=expectation.sizes,
                escrow=EscrowTo(recipients=expectation.recipients),
                configuration=expectation.configuration,
                certificates=expectation.certificates,
            )

    def escrow(self, caller: Caller, raw: bytes, given: EscrowIn) -> Receipt:
        """Keep a recovery key, as it came.

        :raises Problem: 409 another is kept; 422 it is none.
        """
        fault = None
        with self._acting(caller) as (session, enrolment):
            kept = session.scalar(select(Escrow).where(Escrow.enrolment == enrolment.id))
            if kept is not None:
                if not hmac.compare_digest(kept.document, raw) or enrolment.state not in (
                    State.ESCROWED,
                    State.WRITTEN,
                ):
                    raise WrongOrder("another recovery key, or too late")
                return _receipt(kept)
            states.after(State(enrolment.state), Event.ESCROW)
            fault = escrow.fault(given, self._expectation(session, enrolment))
            if fault is None:
                kept = Escrow(
                    id=secrets.token_hex(16),
                    enrolment=enrolment.id,
                    host=enrolment.host,
                    document=raw,
                    sha256=_sha256(raw),
                    time=self.clock().replace(microsecond=0),
                )
                session.add(kept)
                reason = f"the recovery key is kept, with SHA-256 {kept.sha256}"
                self._go(session, enrolment, Event.ESCROW, caller.actor, reason)
            else:
                entry = Entry(caller.actor, "escrow refused", enrolment.id, enrolment.host, {"reason": fault})
                audit.append(session, self.clock(), entry)
        if kept is None:
            raise Problem(422, "refused")
        return _receipt(kept)

    def request(self, caller: Caller, name: str, pem: str) -> None:
        """Keep a certificate request that asks for exactly what the site gives.

        :raises Problem: 404 the host has no such certificate; 409 it has it already; 422 it asks for something else.
        """
        fault = ""
        with self._acting(caller) as (session, enrolment):
            states.check(State(enrolment.state), Action.REQUEST_CERTIFICATE)
            wanted = {each.name: each for each in self._expectation(session, enrolment).certificates}.get(name)
            if wanted is None:
                raise missing()
            kept = session.get(CertificateRequest, (enrolment.id, name))
            if kept is not None and kept.request == pem:
                return
            if kept is not None and kept.certificate is not None:
                raise WrongOrder(f"certificate {name} is issued")
            given = certificate_request.Given(wanted.subject, wanted.dns, wanted.usages, (CURVE,))
            if fault := certificate_request.fault(pem, given):
                detail = {"name": name, "reason": f"the request {fault}"}
                entry = Entry(caller.actor, "request refused", enrolment.id, enrolment.host, detail)
            else:
                values = {"request": pem, "time": self.clock(), "certificate": None}
                session.merge(CertificateRequest(enrolment=enrolment.id, name=name, **values))
                detail = {"name": name, "sha256": _sha256(pem.encode())}
                entry = Entry(caller.actor, "certificate requested", enrolment.id, enrolment.host, detail)
            audit.append(session, self.clock(), entry)
        if fault:
            raise Problem(422, "refused")

    def certificate(self, caller: Caller, name: str) -> str | None:
        """The chain, or nothing yet.

        :raises Problem: 404 it was not requested.
        """
        with self._acting(caller) as (session, enrolment):
            states.check(State(enrolment.state), Action.READ_CERTIFICATE)
            kept = session.get(CertificateRequest, (enrolment.id, name))
            if kept is None:
                raise missing()
            return kept.certificate

    def report(self, caller: Caller, report: Report) -> None:
        """Note how far the installation is.

        :raises Problem: 422 it says that it is done, and lacks the evidence; 429 too many.
        """
        fault = None
        with self._acting(caller) as (session, enrolment):
            states.check(State(enrolment.state), Action.REPORT)
            if enrolment.reports >= self.settings.limits.reports:
                raise Problem(429, "too many reports")
            enrolment.reports += 1
            if report.phase == "failed":
                self._go(session, enrolment, Event.FAIL, caller.actor, report.line, evidence=report.evidence)
            elif report.phase == "written":
                fault = self._written(session, enrolment, report, caller.actor)
            elif enrolment.state == State.PROVEN:
                self._go(session, enrolment, Event.BEGIN, caller.actor, report.line)
            if fault is None:
                enrolment.phase, enrolment.percent = report.phase, report.percent
                enrolment.line, enrolment.evidence = report.line, report.evidence
        if fault is not None:
            raise Problem(422, "refused")

    def _written(self, session: Session, enrolment: Enrolment, report: Report, actor: str) -> str | None:
        if enrolment.state != State.WRITTEN:
            states.after(State(enrolment.state), Event.WRITE)
        kept = session.scalars(select(Escrow).where(Escrow.enrolment == enrolment.id)).one()
        given = EscrowIn.model_validate_json(kept.document)
        try:
            evidence = WrittenEvidence.model_validate(report.evidence)
        except ValueError:
            fault: str | None = "the evidence is incomplete"
        else:
            fault = _contradiction(evidence, kept, given, enrolment)
        if fault is not None:
            detail = {"reason": fault, "phase": report.phase}
            audit.append(session, self.clock(), Entry(actor, "report refused", enrolment.id, enrolment.host, detail))
        elif enrolment.state != State.WRITTEN:
            self._go(session, enrolment, Event.WRITE, actor, report.line, evidence=report.evidence)
        return fault

    # -- the first boot from the disk

    def nonce(self, caller: Caller) -> NonceOut:
        """What the quote has to sign; a new one each time, and only the last counts."""
        with self._acting(caller) as (session, enrolment):
            states.check(State(enrolment.state), Action.READ_NONCE)
            enrolment.nonce = secrets.token_bytes(32)
            enrolment.nonce_expires = self.clock() + timedelta(seconds=self.settings.lifetimes.nonce)
            # What a machine without TPM does not quote is not asked for.
            pcrs = registers(session, enrolment, "installed") if enrolment.ek_public is not None else []
            return NonceOut(nonce=_text(enrolment.nonce), pcrs=pcrs)

    def attest(self, caller: Caller, attestation: Attestation) -> State:
        """The machine has booted what was written.

        :raises Problem: 403 it has not; 409 the nonce is another.
        """
        with self._acting(caller) as (session, enrolment):
            states.after(State(enrolment.state), Event.ATTEST)
            if (
                enrolment.nonce is None
                or self._expired(enrolment)
                or not hmac.compare_digest(enrolment.nonce, attestation.nonce)
            ):
                raise WrongOrder("the nonce is not the one that was given last, or has ended")
            reason = self._unattested(session, enrolment, attestation.given())
            enrolment.nonce = None
            if reason is not None:
                self._go(session, enrolment, Event.FAIL, caller.actor, reason)
            else:
                self._installed(session, enrolment, caller.actor)
            state = State(enrolment.state)
        if state is not State.INSTALLED:
            raise refused()
        return state

    def _unattested(self, session: Session, enrolment: Enrolment, quote: QuoteIn | None) -> str | None:
        if enrolment.ek_public is None:
            return "a quote of a machine without TPM" if quote is not None else None
        if quote is None:
            return "no quote"
        return self._misquoted(session, enrolment, quote, "installed")

    def _installed(self, session: Session, enrolment: Enrolment, actor: str) -> None:
        host = find_host(session, str(enrolment.host))
        host.installed = self.clock()
        # Once is once: the next try of this machine changes nothing unless it is said again.
        host.expectation = {**host.expectation, "reinstall": False}
        reason = (
            "no TPM: nothing is proven" if enrolment.ek_public is None else "the registers are those of its release"
        )
        self._go(session, enrolment, Event.ATTEST, actor, reason)

    # -- for all of them

    @contextmanager
    def _acting(self, caller: Caller) -> Iterator[tuple[Session, Enrolment]]:
        """A transaction of a machine that has shown its token. Wrong tokens and wrong order are logged."""
        host = None
        try:
            with self.storage.write() as session:
                enrolment = self._authenticate(session, caller)
                host = enrolment.host
                enrolment.seen = self.clock()
                yield session, enrolment
        except WrongOrder as exc:
            self._record(Entry(caller.actor, "out of order", caller.id, host, {"reason": str(exc)}))
            raise wrong_order() from None
        except _WrongToken:
            self._record(Entry(caller.actor, "wrong token", caller.id))
            raise unauthorised() from None

    def _authenticate(self, session: Session, caller: Caller) -> Enrolment:
        enrolment = session.get(Enrolment, caller.id)
        expected = enrolment.token_sha256 if enrolment else "0" * 64
        right = hmac.compare_digest(_sha256(caller.token.encode()), expected)
        if enrolment is None:
            self.turn_away("unknown_enrolment")
            raise unauthorised()
        if not right:
            raise _WrongToken
        return enrolment

    def _record(self, entry: Entry) -> None:
        with self.storage.write() as session:
            audit.append(session, self.clock(), entry)

    def _expectation(self, session: Session, enrolment: Enrolment) -> Expectation:
        return expectation_of(find_host(session, str(enrolment.host)))

    def _expired(self, enrolment: Enrolment) -> bool:
        return enrolment.nonce_expires is None or self.clock() >= enrolment.nonce_expires

    def _go(
        self,
        session: Session,
        enrolment: Enrolment,
        event: Event,
        actor: str,
        reason: str,
        **detail: Any,
    ) -> None:
        self._set(session, enrolment, states.after(State(enrolment.state), event), actor, reason, **detail)

    def _set(
        self, session: Session, enrolment: Enrolment, state: State, actor: str, reason: str, **detail: Any
    ) -> None:
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
        enrolment.state, enrolment.changed = state, self.clock()
        if state in states.ENDS and state != State.INSTALLED:
            enrolment.credential_sha256 = enrolment.credential_blob = enrolment.secret = None
        audit.append(session, self.clock(), Entry(actor, state, enrolment.id, enrolment.host, told))

    # -- by admins

    def approve(self, session: Session, enrolment: Enrolment, name: str, actor: str) -> None:
        """Say which host a machine in quarantine is. It still has to prove that it holds its EK.

        :raises Problem: 409 it cannot be that host.
        """
        host = session.get(Host, name)
        if host is None:
            raise missing()
        if enrolment.state != State.QUARANTINED:
            raise wrong_order()
        verdict = self._judge(session, enrolment)
        fault: str | None = None
        if isinstance(verdict, matching.Refuse):
            fault = verdict.reason
        elif isinstance(verdict, matching.Quarantine) and verdict.hint not in (None, name):
            fault = f"it has serial number or MAC address of {verdict.hint}"
        elif isinstance(verdict, matching.Admit) and verdict.host != name:
            fault = f"it is {verdict.host}"
        elif refusal := matching.admissible(self.claim(enrolment), known(host)):
            fault = refusal.reason
        fault = fault or other_release(session, enrolment, host)
        if fault:
            raise Problem(409, "cannot be approved", fault)
        enrolment.host, enrolment.approved = name, True
        enrolment.machine_class = expectation_of(host).machine_class
        enrolment.seen = self.clock()
        if enrolment.ek_public is None:
            self.accept(session, enrolment, Event.APPROVE_WITHOUT_TPM, actor, f"approved as {name}: nothing is proven")
        else:
            self._go(session, enrolment, Event.APPROVE, actor, f"approved as {name}")

    def refuse(self, session: Session, enrolment: Enrolment, reason: str, actor: str) -> None:
        """End an enrolment."""
        try:
            self._go(session, enrolment, Event.REFUSE, actor, reason)
        except WrongOrder:
            raise wrong_order() from None

    # -- time

    def turn_away(self, why: str) -> None:
        """Count a request that was turned away before it could change anything."""
        self.turned_away[why] = self.turned_away.get(why, 0) + 1

    def sweep(self) -> None:
        """End what has waited too long, forget what has ended long ago, and write down what was turned away."""
        moment, lives = self.clock(), self.settings.lifetimes
        counted, self.turned_away = self.turned_away, {}

        def before(seconds: int) -> datetime:
            return moment - timedelta(seconds=seconds)

        silent, old = Enrolment.seen < before(lives.quarantine_silence), Enrolment.created < before(lives.quarantine)
        installing = (State.PROVEN, State.INSTALLING, State.ESCROWED)
        ending = (
            (Event.REFUSE, "the challenge has ended", _in(State.CHALLENGED) & (Enrolment.nonce_expires <= moment)),
            (Event.REFUSE, "silence", _in(*states.UNPROVEN) & silent),
            (Event.REFUSE, "waited too long", _in(State.QUARANTINED) & old),
            (Event.FAIL, "silence", _in(*installing) & (Enrolment.seen < before(lives.installation))),
            (Event.FAIL, "no first boot", _in(State.WRITTEN) & (Enrolment.changed < before(lives.first_boot))),
        )
        forgotten = _in(State.REFUSED, State.FAILED) & (Enrolment.changed < before(lives.ended))
        with self.storage.read() as session:
            due = any(session.scalar(select(Enrolment.id).where(which).limit(1)) for *__, which in ending)
            due = due or session.scalar(select(Enrolment.id).where(forgotten).limit(1)) is not None
        if not due and not counted:
            return
        with self.storage.write() as session:
            for event, reason, which in ending:
                for enrolment in session.scalars(select(Enrolment).where(which)).all():
                    self._go(session, enrolment, event, "age", reason)
            for enrolment in session.scalars(select(Enrolment).where(forgotten)):
                session.delete(enrolment)
            for name, value in counted.items():
                counter = session.get(Counter, name) or Counter(name=name, value=0)
                counter.value += value
                session.add(counter)


def _in(*wanted: State) -> Any:
    return Enrolment.state.in_(wanted)


def _ask(question: Callable[[], object]) -> str | None:
    """Why a TPM's word is not believed, if so. Whatever goes wrong with a stranger's bytes is a no."""
    try:
        question()
    except FleetError as exc:
        return f"{exc.where}: {exc.message}" if exc.where else exc.message
    except Exception as exc:
        _LOG.error("the verifier failed: %s", type(exc).__name__)
        return f"cannot be judged: {type(exc).__name__}"
    return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(data: bytes | None) -> Any:
    return base64.b64encode(data or b"").decode("ascii")


def _own_host(enrolment: Enrolment) -> str | None:
    """A machine that has proven nothing does not learn which host it is taken for."""
    return enrolment.host if enrolment.state in (*states.ACTING, State.INSTALLED) else None


def _receipt(kept: Escrow) -> Receipt:
    return Receipt(id=kept.id, sha256=kept.sha256, time=audit.stamp(kept.time))


def _contradiction(evidence: WrittenEvidence, kept: Escrow, given: EscrowIn, enrolment: Enrolment) -> str | None:
    if evidence.receipt != kept.sha256:
        return "the receipt is not the one that was given"
    if evidence.manifest_sha256 != enrolment.manifest_sha256:
        return "the release is another than the installer's"
    if (sorted(evidence.tokens), sorted(evidence.key_slots)) != (sorted(given.tokens), sorted(given.key_slots)):
        return "tokens or key slots are others than those of the escrow"
    return None
