# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the root signs of a key directory: certificates of the keys below it, and the list of those that count no more.

Directory ``revoked`` holds the certificates that were taken back, and their keys. Where the key of the root is not at
hand, a key without certificate gets a request in its place (``NAME.csr``), to be brought to the directory that has it.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_bytes
from ansible_collections.vauban.fleet.plugins.module_utils._boot import authority
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import (
    CRYPTOGRAPHY_ERROR,
    Certificate,
    public_der,
    read_certificate,
    read_private_key,
)
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import require_private
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import (
    ISSUED,
    LIST,
    ROOT,
    TRUSTED,
    KeyRequest,
    ProductKeys,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

if TYPE_CHECKING:  # without cryptography there is none
    from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import PrivateKey

if CRYPTOGRAPHY_ERROR is None:
    from ansible_collections.vauban.fleet.plugins.module_utils._boot.token_key import TokenKey

_RETURN = "bring root.key back for this run and take root out of held_elsewhere"


def plan_revoked(keys: ProductKeys, request: KeyRequest) -> tuple[str, ...]:
    """What :func:`revoke` would write.

    :raises FleetError: no certificate has such a fingerprint.
    """
    files: list[str] = []
    for name, path in _found(keys, request):
        files.append(f"revoked/{path.name}")
        if name not in request.held_elsewhere:
            files += [f"{name}.key", f"{name}.{'crt' if request.root_at_hand else 'csr'}"]
    return tuple(files)


def revoke(keys: ProductKeys, request: KeyRequest) -> None:
    """Put certificates that are to count no more aside, with their keys, so that new ones are made.

    Can be interrupted anywhere and run again: the certificate, which says that it is not done yet, goes last.
    """
    for name, dest in _found(keys, request):
        keys.revoked.mkdir(mode=0o700, exist_ok=True)
        write_bytes(dest, keys.public(name).read_bytes())
        if keys.private(name).exists():
            keys.private(name).rename(dest.with_suffix(".key"))
        _request_of(keys, name).unlink(missing_ok=True)
        keys.public(name).unlink()


def _found(keys: ProductKeys, request: KeyRequest) -> list[tuple[str, Path]]:
    present = {name: found for name, found in keys.certificates().items() if name in ISSUED}
    gone = _gone(keys)
    found = []
    for begin in request.revoke:
        if any(each.fingerprint.startswith(begin) for each in gone):
            continue
        names = [name for name, each in present.items() if each.fingerprint.startswith(begin)]
        if not names:
            known = ", ".join(f"{name} {each.fingerprint}" for name, each in present.items())
            raise FleetError(
                f"no certificate below the root has this fingerprint: {begin}",
                where=str(keys.directory),
                remedy=f"the certificates here are: {known}; bring another one as {keys.revoked}/NAME.crt",
            )
        found.append((names[0], keys.revoked / f"{names[0]}_{present[names[0]].fingerprint[:16]}.crt"))
    return found


def _gone(keys: ProductKeys) -> list[Certificate]:
    return [read_certificate(path) for path in sorted(keys.revoked.glob("*.crt"))]


def unlisted(keys: ProductKeys) -> tuple[Certificate, ...]:
    """Certificates that were put aside, and are not on the root's list yet."""
    listed = keys.revocation_list().serials if keys.revocations.exists() else {}
    return tuple(each for each in _gone(keys) if authority.serial_of(each) not in listed)


def plan_certificate(keys: ProductKeys, name: str, request: KeyRequest, pending: frozenset[str]) -> list[str]:
    """What has to be written so that a key below the root has a certificate.

    :param pending: what has to be written before.
    :raises FleetError: files that do not belong together.
    """
    private, public, asked = keys.private(name), keys.public(name), _request_of(keys, name)
    files: list[str] = []
    keys.check_private(name, request)
    if name in request.held_elsewhere:
        if not public.exists() and not asked.exists():
            if keys.revoked.exists():
                return []  # its place is kept for the next one, and what was revoked has to be said now
            raise FleetError(
                "the private key is held elsewhere, its public half must be here",
                where=str(public),
                remedy=f"bring the certificate, or {asked.name} where root.key is",
            )
    elif not private.exists():
        files.append(private.name)
    else:
        require_private(private)
        if public.exists() and public_der(read_private_key(private)) != keys.certificate(name).public_key:
            raise FleetError(f"{public.name} is not the certificate of this key", where=str(private))
    at_hand = request.root_at_hand
    if files or not _certified(keys, name, pending) or (at_hand and name in request.renew):
        if at_hand:
            return [*files, public.name]
        if name not in request.held_elsewhere and (files or not _asked(keys, name)):
            files.append(asked.name)
    return files


def _certified(keys: ProductKeys, name: str, pending: frozenset[str]) -> bool:
    if "root.crt" in pending or not keys.public(name).exists():
        return False
    certificate = keys.certificate(name)
    return certificate.public_key == _wanted(keys, name) and authority.is_issued(certificate, keys.certificate(ROOT))


def _asked(keys: ProductKeys, name: str) -> bool:
    path = _request_of(keys, name)
    return path.exists() and authority.requested(path) == _wanted(keys, name)


def _wanted(keys: ProductKeys, name: str) -> bytes:
    """The public key that the certificate is to be for."""
    if keys.private(name).exists():
        return public_der(read_private_key(keys.private(name)))
    path = _request_of(keys, name)
    return authority.requested(path) if path.exists() else keys.certificate(name).public_key


def _request_of(keys: ProductKeys, name: str) -> Path:
    return keys.directory / f"{name}.csr"


def plan_list(keys: ProductKeys, request: KeyRequest, pending: frozenset[str]) -> list[str]:
    """The list, and what machines are given: the certificate of the root with its list.

    :raises FleetError: there is no list, and the key of the root is not at hand.
    """
    files, at_hand = [], request.root_at_hand
    if "root.crt" in pending or not keys.revocations.exists():
        files.append(LIST)
    elif at_hand and not authority.is_listed_by(keys.revocations, keys.certificate(ROOT)):
        files.append(LIST)  # the root is another one since
    elif at_hand and (unlisted(keys) or _found(keys, request)):
        files.append(LIST)
    else:
        keys.revocation_list()
    if files and not at_hand:
        raise FleetError(f"{LIST} must be signed anew and root.key is held elsewhere", where=LIST, remedy=_RETURN)
    path = keys.directory / TRUSTED
    if files or "root.crt" in pending or not path.exists() or path.read_bytes() != trusted(keys):
        files.append(TRUSTED)
    return files


def trusted(keys: ProductKeys) -> bytes:
    """Certificate of the root and its list, in one text: what openssl and RAUC take as the one they believe."""
    return keys.public(ROOT).read_bytes() + keys.revocations.read_bytes()


def write(file: str, keys: ProductKeys, request: KeyRequest, now: dt.datetime, sandbox: Sandbox | None = None) -> bool:
    """Write one of the files of this module.

    :param sandbox: needed if the root is in a token.
    :returns: whether it is one.
    """
    dest = keys.directory / file
    name, development = dest.stem, request.kind == "development"
    if file == TRUSTED:
        write_bytes(dest, trusted(keys))
    elif file == LIST:
        write_bytes(dest, _list(keys, root_key(keys, request, sandbox), now))
    elif file == keys.public(ROOT).name:
        key, days = root_key(keys, request, sandbox), request.days
        write_bytes(dest, authority.root_certificate(key, request.name, development=development, days=days, now=now))
    elif dest.suffix == ".csr":
        key = read_private_key(keys.private(name))
        write_bytes(dest, authority.request(key, name, request.name, development=development))
    elif dest.suffix == ".crt" and name in ISSUED:
        root, key = keys.certificate(ROOT), root_key(keys, request, sandbox)
        issued = authority.issue(_wanted(keys, name), name, root, key, request.name, days=request.signing_days, now=now)
        write_bytes(dest, issued)
        _request_of(keys, name).unlink(missing_ok=True)
    else:
        return False
    return True


def root_key(keys: ProductKeys, request: KeyRequest, sandbox: Sandbox | None) -> PrivateKey:
    """The root's private key, or its token that signs like one.

    :raises FleetError: unusable, or another one than that of the root's certificate.
    """
    if request.root is None:
        return read_private_key(keys.private(ROOT))
    if sandbox is None:
        raise FleetError("a key in a token signs by the programs of the SDK only", where=request.root.location)
    key = TokenKey(request.root, sandbox)
    if keys.public(ROOT).exists() and public_der(key) != keys.certificate(ROOT).public_key:
        raise FleetError(f"{keys.public(ROOT)} is not the certificate of this key", where=request.root.location)
    return key


def _list(keys: ProductKeys, key: PrivateKey, now: dt.datetime) -> bytes:
    """The next one: no certificate ever comes off it, and its number goes on even if the root is another one."""
    root, before = keys.certificate(ROOT), authority.RevocationList(0, {})
    if keys.revocations.exists() and authority.is_listed_by(keys.revocations, root):
        before = keys.revocation_list()
    elif keys.revocations.exists():
        before = authority.RevocationList(authority.number_of(keys.revocations), {})
    serials = {authority.serial_of(each): now.replace(microsecond=0) for each in _gone(keys)}
    return authority.revocation_list(root, key, {**serials, **before.serials}, before.number + 1, now=now)
