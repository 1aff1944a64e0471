# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Sends what is on the state volume of a host, encrypted before it leaves the machine. Nothing on the disk changes.

Who it is encrypted to comes with the recovery key, from who could read that: the server in between would have to know
the key to name others.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, pipeline, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

_RECIPIENT = re.compile(r"age1[02-9a-z]{10,500}")
# The superblock of ext4 begins here; of its features "incompat", this one says that the journal holds something.
_SUPERBLOCK, _INCOMPATIBLE, _RECOVER = 1024, 0x60, 0x4
Send = Callable[[int, bytes], None]


def release(key: bytes, recipients: Sequence[str]) -> bytes:
    """A recovery key and who the data are for, as one text: who changes either has neither."""
    return b"\n".join([key.strip(), *(each.encode() for each in recipients)])


def released(text: bytes) -> tuple[bytes, list[str]]:
    """The recovery key, and the recipients of age that came with it.

    :raises FleetError: it came for something else.
    """
    key, *rest = text.split()
    recipients = [each.decode("ascii", "replace") for each in rest]
    if not recipients or not all(_RECIPIENT.fullmatch(each) for each in recipients):
        raise FleetError(
            "nobody who can read the recovery key said whom the data are for",
            remedy="let playbook backup answer the machine, and no other",
        )
    return key, recipients


@contextmanager
def mounted(device: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The file system, mounted read-only, which plays its journal first as every start does (ext4(5)).

    Without that (``noload``) much of what was written before a power cut cannot even be read: inodes are half there.

    :returns: where, and evidence: ``journal``, whether there was something in it; ``used``, its bytes.
    """
    journal = _journal(device)
    with tempfile.TemporaryDirectory(prefix="state-") as name:
        run(["mount", "-t", "ext4", "-o", "ro,nodev,nosuid,noexec", device, name])
        try:
            system = os.statvfs(name)
            used = (system.f_blocks - system.f_bfree) * system.f_frsize
            yield Path(name), {"journal": journal, "used": used}
        finally:
            run(["umount", name])


def _journal(device: Path) -> bool:
    with device.open("rb") as stream:
        stream.seek(_SUPERBLOCK + _INCOMPATIBLE)
        return bool(int.from_bytes(stream.read(4), "little") & _RECOVER)


def send(root: Path, recipients: Sequence[str], send: Send, *, piece: int, largest: int) -> tuple[int, str]:
    """Send the files below a directory: tar, compressed by zstd, encrypted by age; piece by piece as they are read.

    :param send: called with offset and piece.
    :param piece: bytes of each but the last one.
    :param largest: bytes that may be sent in all.
    :returns: bytes that were sent, and their SHA-256.
    :raises FleetError: a file cannot be read, or there is too much.
    """
    who = [word for recipient in recipients for word in ("--recipient", recipient)]
    archive = ["tar", "--create", "--file=-", f"--directory={root}", "--format=posix", "--numeric-owner", "--sparse"]
    archive += ["--acls", "--xattrs", "--xattrs-include=*", "--one-file-system", "."]
    digest, size = hashlib.sha256(), 0
    try:
        with pipeline([archive, ["zstd", "--quiet", "--stdout"], ["age", "--encrypt", *who]]) as stream:
            while part := stream.read(piece):
                if size + len(part) > largest:
                    remedy = "let the server take more: backup_bytes of enrolment_limits"
                    raise FleetError(f"the backup has more than {largest} bytes", remedy=remedy)
                send(size, part)
                digest.update(part)
                size += len(part)
    except CommandError as exc:
        program = exc.completed.argv[0]
        if program != "tar":
            raise
        # Its messages name files, which nobody but the recipients learns.
        remedy = "have the disk repaired first, or open it with its recovery key and copy what can be read"
        raise FleetError("not every file can be read", where=f"{program}, status {exc.completed.returncode}",
                         remedy=remedy) from None  # fmt: skip
    return size, digest.hexdigest()


def summary(size: int, found: dict[str, Any]) -> str:
    """What was done, in a line."""
    line = f"{size} bytes were sent"
    return f"{line}; it had not been switched off in order, and its journal was played" if found["journal"] else line
