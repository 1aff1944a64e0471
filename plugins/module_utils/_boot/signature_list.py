# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import datetime as dt
import tempfile
import uuid
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import Certificate
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

# EFI_SIGNATURE_LIST (28 bytes) and the owner of its only EFI_SIGNATURE_DATA; UEFI 2.10 section 32.4.1.
OWNER = slice(28, 44)


def list_is_current(path: Path, certificate: Certificate, owner: uuid.UUID) -> bool:
    """Whether a signature list holds this one certificate for this owner."""
    return path.is_file() and path.read_bytes()[OWNER.start :] == owner.bytes_le + certificate.der


def list_owner(path: Path) -> uuid.UUID:
    """The owner GUID in a signature list of one certificate."""
    return uuid.UUID(bytes_le=path.read_bytes()[OWNER])


def update_is_current(path: Path, payload: bytes, signer: Certificate) -> bool:
    """Whether an authenticated update carries this payload and names this signer."""
    if not path.is_file():
        return False
    data = path.read_bytes()
    return data.endswith(payload) and signer.der in data[: len(data) - len(payload)]


def write_list(sandbox: Sandbox, certificate: Certificate, owner: uuid.UUID, dest: Path) -> None:
    """Write the EFI signature list of one certificate (efitools ``cert-to-efi-sig-list``)."""
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as output:
        sandbox.run(
            ["cert-to-efi-sig-list", "-g", str(owner), "/run/in.crt", "/run/out/list"],
            binds=[Bind(certificate.path, "/run/in.crt"), Bind(Path(output), "/run/out", writable=True)],
        )
        with replacing_file(dest) as temporary:
            (Path(output) / "list").rename(temporary)


def write_update(
    sandbox: Sandbox,
    variable: str,
    payload: Path | None,
    *,
    key: Path,
    signer: Certificate,
    time: dt.datetime,
    owner: uuid.UUID,
    dest: Path,
    mode: int = 0o644,
) -> None:
    """Write a time-based authenticated update of a Secure Boot variable (UEFI 2.10 section 8.2.2).

    Firmware accepts an update only if its time is later than that of the variable's present content.

    :param payload: the new signature list; None empties the variable.
    :param time: aware; whole seconds count.
    """
    source = "/dev/null" if payload is None else "/run/in.esl"
    binds = [Bind(key, "/run/signer.key"), Bind(signer.path, "/run/signer.crt")]
    if payload is not None:
        binds.append(Bind(payload, source))
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as output:
        command = ["sign-efi-sig-list", "-g", str(owner), "-t", time.strftime("%Y-%m-%d %H:%M:%S")]
        command += ["-k", "/run/signer.key", "-c", "/run/signer.crt", variable, source, "/run/out/update"]
        sandbox.run(command, binds=[*binds, Bind(Path(output), "/run/out", writable=True)])
        with replacing_file(dest, mode=mode) as temporary:
            (Path(output) / "update").rename(temporary)
