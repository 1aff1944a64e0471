# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import datetime as dt
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_bytes, write_json, write_text
from ansible_collections.vauban.fleet.plugins.module_utils._boot import epochs, forbidden, issuing, signature_list
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import (
    generate_key,
    private_pem,
    public_der,
    public_pem,
    read_private_key,
    self_signed,
)
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import require_private
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import (
    CERTIFIED,
    ESCROW,
    FORBIDDEN_LIST,
    FORBIDDEN_UPDATE,
    ISSUED,
    LEAVE_USER_MODE,
    MARKER,
    NAMES,
    OWNER_FILE,
    ROOT,
    RSA_BITS,
    UPDATE_SIGNER,
    KeyRequest,
    ProductKeys,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._lock import locked
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox


def plan(keys: ProductKeys, request: KeyRequest) -> tuple[str, ...]:
    """The files that :func:`ensure` would write, in this order; nothing is written here.

    :raises FleetError: for a directory that must not be completed: keys of the other kind, a public half without its
        private key, halves that do not belong together, secrets that others can read.
    """
    request.check()
    forbidden.check(request.forbidden)
    if keys.directory.exists():
        require_private(keys.directory)
    _check_kind(keys, request)
    moved = (*epochs.plan(keys, request), *issuing.plan_revoked(keys, request))
    return tuple(dict.fromkeys([*moved, *_plan_missing(keys, request)]))


def _plan_missing(keys: ProductKeys, request: KeyRequest) -> tuple[str, ...]:
    pending: list[str] = []
    for name in NAMES:
        if name in ISSUED:
            pending += issuing.plan_certificate(keys, name, request, frozenset(pending))
        else:
            pending += _plan_pair(keys, name, request)
    pending += issuing.plan_list(keys, request, frozenset(pending))
    if not (keys.directory / OWNER_FILE).exists():
        pending.append(OWNER_FILE)
    for name in UPDATE_SIGNER:
        pending += _plan_variable(keys, name, request, frozenset(pending))
    pending += _plan_forbidden(keys, request, frozenset(pending))
    # Whoever has this file can switch Secure Boot off, so it may leave together with PK.key.
    if "PK" not in request.held_elsewhere and ("PK.crt" in pending or not _update_current(keys, LEAVE_USER_MODE, "PK")):
        pending.append(LEAVE_USER_MODE)
    if "pcr.crt" in pending or _content(keys.directory / "pcr.pub") != public_pem(keys.certificate("pcr")):
        pending.append("pcr.pub")
    if pending or not keys.marker.exists() or keys.read_marker() != _marker(keys, request):
        pending.append(MARKER)
    return tuple(pending)


def ensure(keys: ProductKeys, request: KeyRequest, sandbox: Sandbox, *, now: dt.datetime) -> tuple[str, ...]:
    """Make what is missing and return the names of the files written. A private key is never written over.

    :param now: aware; start of the validity of new certificates.
    :raises FleetError: as :func:`plan`, and if the escrow recipient does not belong to its identity.
    """
    request.check()
    keys.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys.directory.mkdir(mode=0o700, exist_ok=True)
    with locked(keys.directory):
        pending = plan(keys, request)
        if pending and request.root is not None:
            issuing.root_key(keys, request, sandbox)  # before anything is put aside
        epochs.move(keys, request)
        issuing.revoke(keys, request)
        for file in _plan_missing(keys, request):
            _write(file, keys, request, sandbox, now)
        if ESCROW not in request.held_elsewhere:
            _check_escrow(keys, sandbox)
    return pending


def _check_kind(keys: ProductKeys, request: KeyRequest) -> None:
    remedy = f"give the {request.kind} keys a directory of their own; one kind never becomes the other"
    if keys.marker.exists() and (kind := keys.read_marker()["kind"]) != request.kind:
        raise FleetError(f"here are {kind} keys", where=f"{keys.marker}: kind", remedy=remedy)
    for certificate in keys.certificates().values():
        if certificate.development != (request.kind == "development"):
            raise FleetError(
                f"not a {request.kind} certificate: {certificate.subject}", where=str(certificate.path), remedy=remedy
            )


def _plan_pair(keys: ProductKeys, name: str, request: KeyRequest) -> list[str]:
    private, public = keys.private(name), keys.public(name)
    keys.check_private(name, request)
    if name in request.held_elsewhere:
        if not public.exists() and name == ROOT and request.root is not None:
            return [public.name]
        if not public.exists():
            raise FleetError("the private key is held elsewhere, its public half must be here", where=str(public))
        if name == ESCROW:
            keys.recipient()
        return []
    if not private.exists():
        return [private.name, public.name]
    require_private(private)
    if not public.exists():
        return [public.name]
    if name == ESCROW:
        keys.recipient()
    elif public_der(read_private_key(private)) != keys.certificate(name).public_key:
        raise FleetError(f"{public.name} is not the certificate of this key", where=str(private))
    return []


def _plan_variable(keys: ProductKeys, name: str, request: KeyRequest, pending: frozenset[str]) -> list[str]:
    signer, files = UPDATE_SIGNER[name], []
    new = f"{name}.crt" in pending
    if new or _content(keys.directory / f"{name}.der") != keys.certificate(name).der:
        files.append(f"{name}.der")
    path = keys.directory / f"{name}.esl"
    if new or not signature_list.list_is_current(path, keys.certificate(name), _planned_owner(keys)):
        files.append(path.name)
    if path.name in files or f"{signer}.crt" in pending or not _update_current(keys, f"{name}.auth", signer, path):
        files.append(_signed(f"{name}.auth", signer, request))
    return files


def _plan_forbidden(keys: ProductKeys, request: KeyRequest, pending: frozenset[str]) -> list[str]:
    """An empty list changes nothing: what a release has forbidden stays forbidden."""
    if not request.forbidden:
        return []
    payload = signature_list.digests_list(request.forbidden, _planned_owner(keys))
    files = [] if _content(keys.directory / FORBIDDEN_LIST) == payload else [FORBIDDEN_LIST]
    new = files or f"{forbidden.SIGNER}.crt" in pending
    if new or not _update_current(keys, FORBIDDEN_UPDATE, forbidden.SIGNER, keys.directory / FORBIDDEN_LIST):
        files.append(_signed(FORBIDDEN_UPDATE, forbidden.SIGNER, request))
    return files


def _signed(file: str, signer: str, request: KeyRequest) -> str:
    if signer in request.held_elsewhere:
        raise FleetError(
            f"{file} must be signed anew and {signer}.key is held elsewhere",
            where=file,
            remedy=f"bring {signer}.key back for this run and take {signer} out of held_elsewhere",
        )
    return file


def _update_current(keys: ProductKeys, file: str, signer: str, payload: Path | None = None) -> bool:
    content = payload.read_bytes() if payload else b""
    return signature_list.update_is_current(keys.directory / file, content, keys.certificate(signer))


def _planned_owner(keys: ProductKeys) -> uuid.UUID:
    """The owner as written down or, if that file was lost, as the signature lists still say it; else a random one."""
    if (keys.directory / OWNER_FILE).exists():
        return keys.owner()
    for name in UPDATE_SIGNER:
        path = keys.directory / f"{name}.esl"
        if path.exists() and len(path.read_bytes()) > signature_list.OWNER.stop:
            return signature_list.list_owner(path)
    return uuid.uuid4()


def _write(file: str, keys: ProductKeys, request: KeyRequest, sandbox: Sandbox, now: dt.datetime) -> None:
    dest = keys.directory / file
    name = dest.stem
    if issuing.write(file, keys, request, now, sandbox):
        return
    if file == OWNER_FILE:
        write_text(dest, f"{_planned_owner(keys)}\n")
    elif file == MARKER:
        write_json(dest, _marker(keys, request))
    elif file == f"{ESCROW}.key":
        _new_identity(sandbox, dest)
    elif file == f"{ESCROW}.pub":
        write_text(dest, f"{_recipient_of(sandbox, keys)}\n")
    elif dest.suffix == ".key":
        bits = request.db_bits if name == "db" else RSA_BITS
        _create_secret(dest, private_pem(generate_key(CERTIFIED[name], bits)))
    elif dest.suffix == ".crt":
        key = read_private_key(keys.private(name))
        development = request.kind == "development"
        write_bytes(
            dest, self_signed(key, f"{request.name} {name}", development=development, days=request.days, now=now)
        )
    elif dest.suffix == ".der":
        write_bytes(dest, keys.certificate(name).der)
    elif dest.suffix == ".pub":
        write_bytes(dest, public_pem(keys.certificate(name)))
    elif file == FORBIDDEN_LIST:
        write_bytes(dest, signature_list.digests_list(request.forbidden, keys.owner()))
    elif file == FORBIDDEN_UPDATE:
        _write_addition(keys, dest, sandbox)
    elif dest.suffix == ".esl":
        signature_list.write_list(sandbox, keys.certificate(name), keys.owner(), dest)
    else:
        _write_update(keys, dest, sandbox)


def _write_update(keys: ProductKeys, dest: Path, sandbox: Sandbox) -> None:
    """The time of an update is that of the certificate inside, so equal keys give equal files; leaving comes later."""
    leaving = dest.name == LEAVE_USER_MODE
    variable = "PK" if leaving else dest.stem
    signer = UPDATE_SIGNER[variable]
    time = keys.certificate(variable).not_before
    signature_list.write_update(
        sandbox,
        variable,
        None if leaving else keys.directory / f"{variable}.esl",
        key=keys.private(signer),
        signer=keys.certificate(signer),
        time=time + dt.timedelta(seconds=1) if leaving else time,
        owner=keys.owner(),
        dest=dest,
        mode=0o600 if leaving else 0o644,
    )


def _write_addition(keys: ProductKeys, dest: Path, sandbox: Sandbox) -> None:
    """Firmware asks for no time of what is added, so equal lists give equal files."""
    signer = keys.certificate(forbidden.SIGNER)
    signature_list.write_update(
        sandbox,
        dest.stem,
        keys.directory / FORBIDDEN_LIST,
        key=keys.private(forbidden.SIGNER),
        signer=signer,
        time=signer.not_before,
        owner=keys.owner(),
        dest=dest,
        append=True,
    )


def _marker(keys: ProductKeys, request: KeyRequest) -> dict[str, Any]:
    certificates = keys.certificates()
    created = min((certificate.not_before for certificate in certificates.values()), default=None)
    return {
        "format": 1,
        "product": request.name,
        "kind": request.kind,
        "security_epoch": request.security_epoch,
        "created": created.isoformat() if created else None,
        "owner_guid": str(keys.owner()),
        "escrow_recipient": keys.recipient(),
        "revocation_list": keys.revocation_list().number if keys.revocations.exists() else None,
        "certificates": {
            name: {
                "subject": certificate.subject,
                "sha256": certificate.fingerprint,
                "not_after": certificate.not_after.isoformat(),
            }
            for name, certificate in certificates.items()
        },
    }


def _new_identity(sandbox: Sandbox, dest: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as output:
        sandbox.run(["age-keygen", "-o", "/run/out/identity"], binds=[Bind(Path(output), "/run/out", writable=True)])
        _create_secret(dest, (Path(output) / "identity").read_bytes())


def _recipient_of(sandbox: Sandbox, keys: ProductKeys) -> str:
    binds = [Bind(keys.private(ESCROW), "/run/identity")]
    return sandbox.run(["age-keygen", "-y", "/run/identity"], binds=binds).stdout.strip()


def _check_escrow(keys: ProductKeys, sandbox: Sandbox) -> None:
    if keys.recipient() != _recipient_of(sandbox, keys):
        raise FleetError(
            "the recipient does not belong to escrow.key: recovery keys encrypted to it could not be read",
            where=str(keys.public(ESCROW)),
            remedy="find out which of the two files is the right one before any machine is installed",
        )


def _create_secret(dest: Path, data: bytes) -> None:
    """Give a new file (mode 0600) its whole content at once; link(2) fails where rename(2) would replace."""
    descriptor, name = tempfile.mkstemp(prefix=f".{dest.name}.", dir=dest.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(name, dest)
    finally:
        os.unlink(name)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
