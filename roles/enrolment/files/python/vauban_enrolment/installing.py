# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the installer of a proven machine fetches, and what it leaves: recovery key, certificate requests, reports."""

from __future__ import annotations

import hmac
import secrets

from sqlalchemy import select

from ansible_collections.vauban.fleet.plugins.module_utils._site import certificate_request
from vauban_enrolment import audit, backing_up, client_certificate, escrow, repairing, states, wiping
from vauban_enrolment.case import Case
from vauban_enrolment.documents import (
    EscrowIn,
    EscrowTo,
    Installation,
    Receipt,
    ReleaseOf,
    Report,
    WrittenEvidence,
)
from vauban_enrolment.encoding import sha256
from vauban_enrolment.problems import Problem, missing
from vauban_enrolment.service import Caller, Service
from vauban_enrolment.states import Action, Event, State, WrongOrder
from vauban_enrolment.storage import CertificateRequest, Enrolment, Escrow

CURVE = "secp256r1"
_SAID_LAST = (State.WIPED, State.REPAIRED, State.BACKED_UP)  # by reports of that phase


def hand_out(service: Service, caller: Caller, action: Action = Action.READ_INSTALLATION) -> Installation:
    """What the host is to become, or to stay (``READ_KEEPING``)."""
    with service.acting(caller) as case:
        case.require(action)
        enrolment, expectation = case.enrolment, case.expectation
        case.note("handed out", keep=expectation.keep)
        return Installation(
            host=str(enrolment.host),
            machine_class=expectation.machine_class,
            release=ReleaseOf(
                product=enrolment.product, version=enrolment.version, manifest_sha256=enrolment.manifest_sha256
            ),
            disk=expectation.disk,
            sizes=expectation.sizes,
            hardware_profile=expectation.hardware_profile,
            escrow=EscrowTo(recipients=expectation.recipients, threshold=expectation.threshold),
            configuration=expectation.configuration,
            certificates=expectation.certificates,
        )


def keep(service: Service, caller: Caller, raw: bytes, given: EscrowIn) -> Receipt:
    """Keep a recovery key, as it came.

    :raises Problem: 409 another is kept; 422 it is none.
    """
    with service.acting(caller) as case:
        kept = case.session.scalar(select(Escrow).where(Escrow.enrolment == case.enrolment.id))
        if kept is not None:
            if not hmac.compare_digest(kept.document, raw) or case.state not in (State.ESCROWED, State.WRITTEN):
                raise WrongOrder("another recovery key, or too late")
            return _receipt(kept)
        case.require(Event.ESCROW)
        if fault := escrow.fault(given, case.expectation):
            case.note("escrow refused", reason=fault)
        else:
            kept = _escrow(case, raw)
            case.session.add(kept)
            case.go(Event.ESCROW, f"the recovery key is kept, with SHA-256 {kept.sha256}")
    if kept is None:
        raise Problem(422, "refused")
    return _receipt(kept)


def _escrow(case: Case, raw: bytes) -> Escrow:
    return Escrow(
        id=secrets.token_hex(16),
        enrolment=case.enrolment.id,
        host=case.enrolment.host,
        document=raw,
        sha256=sha256(raw),
        time=case.moment.replace(microsecond=0),
    )


def _receipt(kept: Escrow) -> Receipt:
    return Receipt(id=kept.id, sha256=kept.sha256, time=audit.stamp(kept.time))


def request_certificate(service: Service, caller: Caller, name: str, pem: str) -> None:
    """Keep a certificate request that asks for exactly what the site gives.

    :raises Problem: 404 the host has no such certificate; 409 it has it already; 422 it asks for something else.
    """
    with service.acting(caller) as case:
        case.require(Action.REQUEST_CERTIFICATE)
        wanted = {each.name: each for each in case.expectation.certificates}.get(name)
        if wanted is None:
            raise missing()
        kept = case.session.get(CertificateRequest, (case.enrolment.id, name))
        if kept is not None and kept.request == pem:
            return
        if kept is not None and kept.certificate is not None:
            raise WrongOrder(f"certificate {name} is issued")
        given = certificate_request.Given(wanted.subject, wanted.dns, wanted.usages, (CURVE,))
        if fault := certificate_request.fault(pem, given):
            case.note("request refused", name=name, reason=f"the request {fault}")
        else:
            values = {"request": pem, "time": case.moment, "certificate": None}
            case.session.merge(CertificateRequest(enrolment=case.enrolment.id, name=name, **values))
            case.note("certificate requested", name=name, sha256=sha256(pem.encode()))
    if fault:
        raise Problem(422, "refused")


def certificate(service: Service, caller: Caller, name: str) -> str | None:
    """The chain, or nothing yet. From then on the machine has to show what it was given; not here, since the answer may
    be lost, and is public.

    :raises Problem: 404 it was not requested.
    """
    with service.acting(caller, states.ACTING) as case:
        case.require(Action.READ_CERTIFICATE)
        kept = case.session.get(CertificateRequest, (case.enrolment.id, name))
        if kept is None:
            raise missing()
        if kept.certificate is not None:
            client_certificate.give(case, name, kept.certificate)
        return kept.certificate


def report(service: Service, caller: Caller, report: Report) -> None:
    """Note how far the installation is.

    :raises Problem: 422 it says that it is done, and lacks the evidence; 429 too many.
    """
    fault = None
    with service.acting(caller) as case:
        if case.state in _SAID_LAST and case.state == report.phase:
            return  # who has said it may say it again: the answer to the first time can be lost
        # Also who has proven nothing yet may say that it cannot go on.
        case.require(Event.FAIL if report.phase == "failed" else Action.REPORT)
        enrolment = case.enrolment
        if enrolment.reports >= service.settings.limits.reports:
            raise Problem(429, "too many reports")
        enrolment.reports += 1
        if report.phase == "failed":
            case.go(Event.FAIL, report.line, evidence=report.evidence)
        elif report.phase == "written":
            fault = _written(case, report)
        elif report.phase == "repaired":
            fault = repairing.ended(case, report)
        elif report.phase == "backed_up":
            fault = backing_up.ended(case, report)
        elif report.phase == "wiped":
            fault = wiping.ended(case, report)
        elif report.phase == "wipe":
            case.require(Event.WIPE)
            fault = wiping.began(case, report)
        elif case.state is State.PROVEN:
            case.go(Event.BEGIN, report.line)
        if fault is None:
            enrolment.phase, enrolment.percent = report.phase, report.percent
            enrolment.line, enrolment.evidence = report.line, report.evidence
    if fault is not None:
        raise Problem(422, "refused")


def _written(case: Case, report: Report) -> str | None:
    """Why it cannot be done yet, if so. Who has said it may say it again."""
    again = case.state is State.WRITTEN
    if not again:
        case.require(Event.WRITE)
    if fault := _unproven(case, report):
        case.note("report refused", reason=fault, phase=report.phase)
    elif not again:
        case.go(Event.WRITE, report.line, evidence=report.evidence)
    return fault


def _unproven(case: Case, report: Report) -> str | None:
    kept = case.session.scalars(select(Escrow).where(Escrow.enrolment == case.enrolment.id)).one()
    given = EscrowIn.model_validate_json(kept.document)
    try:
        evidence = WrittenEvidence.model_validate(report.evidence)
    except ValueError:
        return "the evidence is incomplete"
    return _contradiction(evidence, kept, given, case.enrolment)


def _contradiction(evidence: WrittenEvidence, kept: Escrow, given: EscrowIn, enrolment: Enrolment) -> str | None:
    if evidence.receipt != kept.sha256:
        return "the receipt is not the one that was given"
    if evidence.manifest_sha256 != enrolment.manifest_sha256:
        return "the release is another than the installer's"
    if (sorted(evidence.tokens), sorted(evidence.key_slots)) != (sorted(given.tokens), sorted(given.key_slots)):
        return "tokens or key slots are others than those of the escrow"
    return None
