# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import datetime as dt
import struct
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import Certificate
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

# EFI_SIGNATURE_LIST (28 bytes) and the owner of its only EFI_SIGNATURE_DATA; UEFI 2.10 section 32.4.1.
OWNER = slice(28, 44)
# EFI_CERT_SHA256_GUID: an entry is the owner and the SHA-256 that Authenticode computes of a PE binary.
_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
_HEADER = "<16sIII"


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


def digests_list(digests: Iterable[str], owner: uuid.UUID) -> bytes:
    """Signature lists that name PE binaries by the SHA-256 that Authenticode computes, one list for each.

    So what firmware adds to a variable, which takes no entry twice, is the lists that it does not have, as they are.

    :param digests: hexadecimal.
    """
    made = []
    for digest in digests:
        entry = owner.bytes_le + bytes.fromhex(digest)
        made.append(struct.pack(_HEADER, _SHA256.bytes_le, OWNER.start + len(entry), 0, len(entry)) + entry)
    return b"".join(made)


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
    append: bool = False,
) -> None:
    """Write a time-based authenticated update of a Secure Boot variable (UEFI 2.10 section 8.2.2).

    Firmware accepts an update only if its time is later than that of the variable's present content, or if it appends.

    :param payload: the new signature list; None empties the variable.
    :param time: aware; whole seconds count.
    :param append: keep what the variable holds (attribute EFI_VARIABLE_APPEND_WRITE, which is signed, too).
    """
    source = "/dev/null" if payload is None else "/run/in.esl"
    binds = [Bind(key, "/run/signer.key"), Bind(signer.path, "/run/signer.crt")]
    if payload is not None:
        binds.append(Bind(payload, source))
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as output:
        command = ["sign-efi-sig-list", "-g", str(owner), "-t", time.strftime("%Y-%m-%d %H:%M:%S")]
        command += ["-a"] if append else []
        command += ["-k", "/run/signer.key", "-c", "/run/signer.crt", variable, source, "/run/out/update"]
        sandbox.run(command, binds=[*binds, Bind(Path(output), "/run/out", writable=True)])
        with replacing_file(dest, mode=mode) as temporary:
            (Path(output) / "update").rename(temporary)
