# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Recipients of age, as people name them: as they are, or in files (age(1), ``--recipients-file``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

_PREFIX = "age1"
_MOST = 16


def read(named: Sequence[str], sandbox: Sandbox) -> list[str]:
    """The recipients, each once, in the order in which they are named.

    :param named: recipients, and files of recipients.
    :param sandbox: of the SDK, whose age says whether they are any.
    :raises FleetError: names the one that is none, and the file and line where it is.
    """
    found: dict[str, str] = {}
    for where, recipient in (pair for each in named for pair in _listed(each)):
        if recipient in found:
            continue
        if not recipient.startswith(_PREFIX):
            raise FleetError(f"{recipient[:80]!r} is no recipient of age", where=where, remedy=f"name {_PREFIX}...")
        try:
            sandbox.run(["age", "--encrypt", "--recipient", recipient], stdin=b"")
        except CommandError:
            remedy = "copy it again from what age-keygen printed; plugins are on no machine"
            raise FleetError(f"age cannot encrypt to {recipient[:80]}", where=where, remedy=remedy) from None
        found[recipient] = where
    if not 0 < len(found) <= _MOST:
        remedy = "name who shall be able to open the backup, each alone"
        raise FleetError(f"{len(found)} recipients, and not 1 to {_MOST}", where="recipients", remedy=remedy)
    return list(found)


def _listed(named: str) -> Iterator[tuple[str, str]]:
    """Where each is, and what it is."""
    path = Path(named).expanduser()
    if named.startswith(_PREFIX) and not path.exists():
        yield "recipients", named
        return
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "is no text"
        raise FleetError(f"neither a recipient of age nor a file of them: {reason}", where=named) from exc
    for number, line in enumerate(text.splitlines(), 1):
        if (recipient := line.strip()) and not recipient.startswith("#"):
            if recipient.startswith("AGE-SECRET-KEY-"):
                remedy = "name the public key of it, and keep this file away from the controller"
                raise FleetError("holds an identity, which is secret", where=f"{path}:{number}", remedy=remedy)
            yield f"{path}:{number}", recipient
