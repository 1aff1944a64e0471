# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What admins may ask for, on a socket of its own that no machine can reach."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Annotated, Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from vauban_enrolment import admission, audit, backing_up, repairing, unlocking, wiping
from vauban_enrolment.audit import Entry
from vauban_enrolment.case import Case
from vauban_enrolment.documents import (
    HOST_PATTERN,
    ID_PATTERN,
    NAME_PATTERN,
    RELEASE_PATTERN,
    Approval,
    BackupIn,
    Expectation,
    Refusal,
    ReleaseContent,
    RepairIn,
    StateOnly,
    UnlockOut,
)
from vauban_enrolment.lookup import expectation_of, find_host
from vauban_enrolment.machines import CHAIN, Asked
from vauban_enrolment.orders import BACKUP, REPAIR, WIPE, Timed
from vauban_enrolment.problems import Problem, documented, missing
from vauban_enrolment.states import ACTING
from vauban_enrolment.storage import (
    Backup,
    BackupOrder,
    CertificateRequest,
    Enrolment,
    Escrow,
    Host,
    HostMac,
    Record,
    Release,
    RepairOrder,
    WipeOrder,
)

_LONGEST_CHAIN = 65_536

router = APIRouter(prefix="/admin/v1", responses=documented())

Id = Annotated[str, Path(pattern=ID_PATTERN)]
HostPath = Annotated[str, Path(pattern=HOST_PATTERN)]
NamePath = Annotated[str, Path(pattern=NAME_PATTERN)]
ReleasePath = Annotated[str, Path(pattern=RELEASE_PATTERN)]


def actor(request: Request) -> str:
    """Who asks, as the web server in front says after it has checked a client certificate."""
    name = request.headers.get("x-client-name", "")
    clean = "".join(character for character in name if character.isascii() and character.isprintable())[:128]
    return f"admin {clean or 'local'}"


By = Annotated[str, Depends(actor)]


@router.get("/machines")
def list_machines(
    service: Asked, *, limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000, after: str = ""
) -> dict[str, Any]:
    """Every host with its last enrolment, in order of names, and what waits in quarantine or was refused."""
    with service.storage.read() as session:
        return fleet(session, service.clock(), limit, after)


def fleet(session: Session, moment: datetime, limit: int, after: str = "") -> dict[str, Any]:
    """The fleet as it is."""
    hosts = list(session.scalars(select(Host).where(Host.name > after).order_by(Host.name).limit(limit)))
    named = select(Enrolment).where(Enrolment.host.in_([host.name for host in hosts])).order_by(Enrolment.created)
    last = {enrolment.host: enrolment for enrolment in session.scalars(named)}
    unnamed = select(Enrolment).where(Enrolment.host.is_(None)).order_by(Enrolment.created.desc()).limit(limit)
    wipes = {order.host: order for order in session.scalars(select(WipeOrder).order_by(WipeOrder.given))}
    repairs = {order.host: order for order in session.scalars(_now(RepairOrder, moment))}
    backups = {order.host: order for order in session.scalars(_now(BackupOrder, moment))}

    def line(host: Host) -> dict[str, Any]:
        name = host.name
        return _host_line(host, last.get(name), wipes.get(name), repairs.get(name), backups.get(name))

    return {
        "hosts": [line(host) for host in hosts],
        "others": [_enrolment_line(enrolment) for enrolment in session.scalars(unnamed)],
    }


@router.get("/machines/{host}", responses=documented(404))
def read_machine(service: Asked, host: HostPath) -> dict[str, Any]:
    """All that is known of a host."""
    with service.storage.read() as session:
        found = find_host(session, host)
        tries = list(session.scalars(select(Enrolment).where(Enrolment.host == host).order_by(Enrolment.created)))
        escrows = session.scalars(select(Escrow).where(Escrow.host == host).order_by(Escrow.time))
        wipes = session.scalars(select(WipeOrder).where(WipeOrder.host == host).order_by(WipeOrder.given.desc()))
        repairs = session.scalars(_now(RepairOrder, service.clock()).where(RepairOrder.host == host))
        backups = session.scalars(_now(BackupOrder, service.clock()).where(BackupOrder.host == host))
        last = tries[-1] if tries else None
        return {
            **_host_line(found, last, wipes.first(), repairs.first(), backups.first()),
            "expectation": found.expectation,
            "enrolments": [
                {**_enrolment_line(each), "hardware": each.hardware, "evidence": each.evidence} for each in tries
            ],
            "escrows": [_escrow_line(each) for each in escrows],
        }


@router.put("/hosts/{host}", responses=documented(409))
def put_host(service: Asked, by: By, host: HostPath, expectation: Expectation) -> dict[str, Any]:
    """Say what is expected of a host's machine, and what it gets."""
    content = expectation.model_dump(mode="json", by_alias=True)
    with service.storage.write() as session:
        _check_unique(session, host, expectation)
        found = session.get(Host, host)
        if found is not None and found.expectation == content:
            return {"changed": False}
        if found is None:
            found = Host(name=host)
            session.add(found)
        found.expectation, found.changed = content, service.clock()
        found.listed_ek, found.serial = expectation.ek_sha256, expectation.serial
        if expectation.ek_sha256 is not None and found.ek_sha256 not in (None, expectation.ek_sha256):
            # Another board: the one before is nobody from now on.
            found.ek_sha256 = found.ak_public = None
        session.flush()
        session.execute(delete(HostMac).where(HostMac.host == host))
        session.add_all(HostMac(mac=mac, host=host) for mac in expectation.macs)
        session.flush()
        audit.append(session, service.clock(), Entry(by, "expectation put", None, host, {"expectation": content}))
        admission.reconsider(service, session, found, by)
    return {"changed": True}


def _check_unique(session: Session, host: str, expectation: Expectation) -> None:
    clashes = select(Host.name).where(Host.name != host)
    found = None
    if expectation.serial is not None:
        found = session.scalar(clashes.where(Host.serial == expectation.serial))
    if found is None and (ek := expectation.ek_sha256) is not None:
        found = session.scalar(clashes.where((Host.listed_ek == ek) | (Host.ek_sha256 == ek)))
    if found is None and expectation.macs:
        macs = select(HostMac.host).where(HostMac.host != host, HostMac.mac.in_(expectation.macs))
        found = session.scalar(macs)
    if found is not None:
        raise Problem(409, "not unique", f"{found} has the same EK, serial number or MAC address")


@router.post("/hosts/{host}/forget", responses=documented(404))
def forget_machine(service: Asked, by: By, host: HostPath, refusal: Refusal) -> dict[str, Any]:
    """The machine that was the host is gone: another may become it. Escrowed keys are kept."""
    with service.storage.write() as session:
        found = find_host(session, host)
        if (found.ek_sha256, found.installed) == (None, None):
            return {"changed": False}
        detail = {"reason": refusal.reason, "ek_sha256": found.ek_sha256}
        found.ek_sha256 = found.ak_public = found.installed = None
        for kind in (REPAIR, BACKUP):
            kind.withdraw(session, found, by, service.clock(), refusal.reason)
        audit.append(session, service.clock(), Entry(by, "machine forgotten", None, host, detail))
    return {"changed": True}


@router.put("/hosts/{host}/wipe", responses=documented(404, 409))
def order_wipe(service: Asked, by: By, host: HostPath, order: Refusal) -> dict[str, Any]:
    """The machine that is the host, or was it last, is to erase its disk when it next starts the installer."""
    with service.storage.write() as session:
        return {"changed": wiping.give(service, session, find_host(session, host), by, order.reason)}


@router.post("/hosts/{host}/wipe/withdraw", responses=documented(404))
def withdraw_wipe(service: Asked, by: By, host: HostPath, refusal: Refusal) -> dict[str, Any]:
    """The machine keeps its disk after all. One that has begun is stopped, and has lost its keys."""
    with service.storage.write() as session:
        return {"changed": WIPE.withdraw(session, find_host(session, host), by, service.clock(), refusal.reason)}


@router.put("/hosts/{host}/repair", responses=documented(404, 409))
def order_repair(service: Asked, by: By, host: HostPath, order: RepairIn) -> dict[str, Any]:
    """The machine that is the host is to repair its disk when it next starts the installer, if that is soon."""
    with service.storage.write() as session:
        return {"changed": repairing.give(service, session, find_host(session, host), by, order)}


@router.post("/hosts/{host}/repair/withdraw", responses=documented(404))
def withdraw_repair(service: Asked, by: By, host: HostPath, refusal: Refusal) -> dict[str, Any]:
    """The machine leaves its disk as it is. One that has begun is told no more."""
    with service.storage.write() as session:
        found = find_host(session, host)
        return {"changed": REPAIR.withdraw(session, found, by, service.clock(), refusal.reason)}


@router.put("/hosts/{host}/backup", responses=documented(404, 409))
def order_backup(service: Asked, by: By, host: HostPath, order: BackupIn) -> dict[str, Any]:
    """The machine that is the host is to send its data when it next starts the installer, if that is soon."""
    with service.storage.write() as session:
        return {"changed": backing_up.give(service, session, find_host(session, host), by, order)}


@router.post("/hosts/{host}/backup/withdraw", responses=documented(404))
def withdraw_backup(service: Asked, by: By, host: HostPath, refusal: Refusal) -> dict[str, Any]:
    """The machine keeps its data. Of one that has begun nothing more is taken, and what came is removed."""
    with service.storage.write() as session:
        found = find_host(session, host)
        return {"changed": BACKUP.withdraw(session, found, by, service.clock(), refusal.reason)}


@router.get("/backups/{host}", responses=documented(404))
def list_backups(service: Asked, host: HostPath) -> list[dict[str, Any]]:
    """The backups of a host that came whole, oldest first, and the file of each on this server."""
    with service.storage.read() as session:
        find_host(session, host)
        kept = session.scalars(select(Backup).where(Backup.host == host).order_by(Backup.time, Backup.enrolment))
        return [
            {
                "enrolment": each.enrolment,
                "path": str(service.settings.backups / each.file),
                "size": each.size,
                "sha256": each.sha256,
                "recipients": each.recipients,
                "time": audit.stamp(each.time),
            }
            for each in kept
        ]


@router.post("/enrolments/{id}/approve", responses=documented(404, 409))
def approve(service: Asked, by: By, id: Id, approval: Approval) -> StateOnly:
    """Say which host a machine in quarantine is."""
    with service.storage.write() as session:
        case = Case(session, _find_enrolment(session, id), by, service.clock())
        admission.approve(service, case, approval.host)
        return StateOnly(state=case.state)


@router.post("/enrolments/{id}/refuse", responses=documented(404, 409))
def refuse(service: Asked, by: By, id: Id, refusal: Refusal) -> StateOnly:
    """End an enrolment, whatever it has come to."""
    with service.storage.write() as session:
        case = Case(session, _find_enrolment(session, id), by, service.clock())
        admission.refuse(case, refusal.reason)
        return StateOnly(state=case.state)


@router.get("/unlocks")
def list_unlocks(service: Asked) -> list[dict[str, Any]]:
    """Machines that wait for the recovery key of their disk, and what they prove with that it is for them."""
    with service.storage.read() as session:
        return unlocking.waiting(session)


@router.put("/unlocks/{id}", status_code=204, responses=documented(404))
def put_unlock(service: Asked, by: By, id: Id, answer: UnlockOut) -> Response:
    """Answer a machine with the recovery key of its disk, which only it can read."""
    with service.storage.write() as session:
        unlocking.answer(service, session, id, answer, by)
    return Response(status_code=204)


@router.get("/requests")
def list_requests(service: Asked) -> list[dict[str, Any]]:
    """The certificate requests of proven machines that wait for a signature. Each was judged."""
    with service.storage.read() as session:
        rows = session.execute(
            select(CertificateRequest, Enrolment.host)
            .join(Enrolment, Enrolment.id == CertificateRequest.enrolment)
            .where(CertificateRequest.certificate.is_(None), Enrolment.state.in_(ACTING))
            .order_by(CertificateRequest.time)
        )
        return [
            {
                "host": host,
                "name": each.name,
                "enrolment": each.enrolment,
                "request": each.request,
                "time": audit.stamp(each.time),
            }
            for each, host in rows
        ]


@router.put("/certificates/{host}/{name}", status_code=204, responses=documented(404, 409))
def put_certificate(
    service: Asked,
    by: By,
    host: HostPath,
    name: NamePath,
    chain: Annotated[bytes, Body(media_type=CHAIN, max_length=_LONGEST_CHAIN)],
) -> Response:
    """Answer a request with the signed certificate and those above it."""
    with service.storage.write() as session:
        kept = session.scalar(
            select(CertificateRequest)
            .join(Enrolment, Enrolment.id == CertificateRequest.enrolment)
            .where(Enrolment.host == host, Enrolment.state.in_(ACTING), CertificateRequest.name == name)
        )
        if kept is None:
            raise missing()
        wanted = next(each for each in expectation_of(find_host(session, host)).certificates if each.name == name)
        leaf = _answering(chain, kept.request, wanted.dns)
        text = chain.decode("ascii")
        if kept.certificate != text:
            kept.certificate = text
            detail = {"name": name, "serial": f"{leaf.serial_number:x}"}
            audit.append(session, service.clock(), Entry(by, "certificate put", kept.enrolment, host, detail))
    return Response(status_code=204)


def _answering(chain: bytes, request: str, names: list[str]) -> x509.Certificate:
    """The first certificate, if it is of the key and the names of the request."""
    try:
        chain.decode("ascii")
        leaf = x509.load_pem_x509_certificates(chain)[0]
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        told = list(found.get_values_for_type(x509.DNSName))
        keys = [each.public_key() for each in (leaf, x509.load_pem_x509_csr(request.encode()))]
    except (ValueError, x509.ExtensionNotFound):
        raise Problem(422, "not valid", "no chain of certificates in PEM that names hosts") from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if keys[0].public_bytes(*form) != keys[1].public_bytes(*form):
        raise Problem(409, "not this request's", "the first certificate is of another key")
    if told != names:
        raise Problem(409, "not this request's", "the first certificate names others")
    return leaf


@router.put("/releases/{product}/{version}")
def put_release(
    service: Asked, by: By, product: ReleasePath, version: ReleasePath, content: ReleaseContent
) -> dict[str, Any]:
    """Say what a release measures."""
    new = content.model_dump(mode="json")
    with service.storage.write() as session:
        kept = session.get(Release, (product, version))
        if kept is not None and kept.content == new:
            return {"changed": False}
        session.merge(Release(product=product, version=version, content=new))
        detail = {"product": product, "version": version, **new}
        audit.append(session, service.clock(), Entry(by, "release put", None, None, detail))
    return {"changed": True}


@router.get("/escrows/{host}", responses=documented(404))
def read_escrows(service: Asked, by: By, host: HostPath) -> list[dict[str, Any]]:
    """The recovery keys of a host as they came, oldest first. Only officers can open them; reading is logged."""
    with service.storage.write() as session:
        find_host(session, host)
        kept = list(session.scalars(select(Escrow).where(Escrow.host == host).order_by(Escrow.time)))
        detail = {"escrows": [each.id for each in kept]}
        audit.append(session, service.clock(), Entry(by, "escrow read", None, host, detail))
        return [{**_escrow_line(each), "document": base64.b64encode(each.document).decode("ascii")} for each in kept]


@router.get("/audit")
def read_audit(
    service: Asked,
    *,
    after: Annotated[int, Query(ge=0, lt=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    host: Annotated[str | None, Query(pattern=HOST_PATTERN)] = None,
) -> dict[str, Any]:
    """The audit log, and whether it is whole."""
    with service.storage.read() as session:
        lines = select(Record).where(Record.sequence > after).order_by(Record.sequence).limit(limit)
        if host is not None:
            lines = lines.where(Record.host == host)
        fault = audit.verify(session)
        records = [
            {column.name: getattr(record, column.name) for column in Record.__table__.columns}
            for record in session.scalars(lines)
        ]
    return {"intact": fault is None, "fault": fault, "records": records}


def _find_enrolment(session: Session, id: str) -> Enrolment:
    found = session.get(Enrolment, id)
    if found is None:
        raise missing()
    return found


def _now(table: type[Timed], moment: datetime) -> Select[tuple[Timed]]:
    """Orders that count now."""
    return select(table).where(table.expires > moment).order_by(table.given)


def _host_line(
    host: Host,
    last: Enrolment | None,
    wipe: WipeOrder | None,
    repair: RepairOrder | None,
    backup: BackupOrder | None,
) -> dict[str, Any]:
    expectation = host.expectation
    return {
        "host": host.name,
        "class": expectation["class"],
        "product": expectation["product"],
        "version": expectation["version"],
        "reinstall": expectation["reinstall"],
        "keep": bool(expectation.get("keep")),
        "enrolled": host.ek_sha256 is not None or host.installed is not None,
        "installed": audit.stamp(host.installed) if host.installed else None,
        "wipe": _wipe_line(wipe) if wipe else None,
        "repair": _order_line(repair) if repair else None,
        "backup": _order_line(backup) if backup else None,
        "enrolment": _enrolment_line(last) if last else None,
    }


def _wipe_line(order: WipeOrder) -> dict[str, Any]:
    """An order that is not done yet."""
    return {"ek_sha256": order.ek_sha256, "given": audit.stamp(order.given), "begun": order.begun is not None}


def _order_line(order: RepairOrder | BackupOrder) -> dict[str, Any]:
    return {"ek_sha256": order.ek_sha256, "expires": audit.stamp(order.expires)}


def _enrolment_line(enrolment: Enrolment) -> dict[str, Any]:
    dmi = enrolment.hardware.get("dmi", {})
    return {
        "id": enrolment.id,
        "state": enrolment.state,
        "address": enrolment.address,
        "created": audit.stamp(enrolment.created),
        "changed": audit.stamp(enrolment.changed),
        "seen": audit.stamp(enrolment.seen),
        "release": f"{enrolment.product} {enrolment.version}",
        "vendor": dmi.get("sys_vendor"),
        "model": dmi.get("product_name"),
        "hardware_profile": enrolment.hardware.get("hardware_profile"),
        "serial": enrolment.serial,
        "macs": enrolment.macs,
        "ek_sha256": enrolment.ek_sha256,
        "ek_certificate": enrolment.ek_certificate is not None,
        "approved": enrolment.approved,
        "phase": enrolment.phase,
        "percent": enrolment.percent,
        "line": enrolment.line,
    }


def _escrow_line(escrow: Escrow) -> dict[str, Any]:
    return {
        "id": escrow.id,
        "enrolment": escrow.enrolment,
        "sha256": escrow.sha256,
        "time": audit.stamp(escrow.time),
    }
