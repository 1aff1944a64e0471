# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The disk of a host in a machine with another board or TPM: found, opened with its recovery key, never formatted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import volumes
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk
from ansible_collections.vauban.fleet.plugins.module_utils._tpm.binding import identity_of

_RECIPIENT = re.compile(r"^# public key: (age1[02-9a-z]+)$", re.MULTILINE)
Unlock = Callable[[str], tuple[bytes, str]]


def find(rule: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[Disk, Path, Path]:
    """The disk that the site's rule matches, if the release was installed on it; its core and its state.

    :raises FleetError: no disk is it, or nobody can say which, or it has another release.
    """
    remedy = "put the disk of the host in, and let the server offer the release that is on it"
    disk, core, state = volumes.of_release(rule, manifest, remedy=remedy)
    volumes.check_core(manifest, core)
    return disk, core, state


def recovery_key(unlock: Unlock, directory: Path) -> bytes:
    """Have the recovery key of the disk given to this machine, and to this run of its installer.

    It is encrypted to the identity that the TPM releases, and that once more to a recipient that was made here.

    :param unlock: asks for it (:meth:`Enrolment.unlock`).
    :param directory: on a tmpfs, for its owner only.
    :raises FleetError: what came is not for this machine.
    """
    made = run(["age-keygen"]).stdout
    recipient = _RECIPIENT.search(made)
    if recipient is None:
        raise FleetError("age-keygen gave no recipient")
    secret, sealed = unlock(recipient[1])
    path = directory / "identity"
    text = sealed.encode()
    try:
        for identity in (made, f"{identity_of(secret)}\n"):
            path.touch(mode=0o600)
            path.write_text(identity)
            text = run(["age", "--decrypt", "--identity", path], stdin=text).stdout_bytes
    except CommandError as exc:
        raise FleetError(f"the recovery key that came is not for this machine: {exc.message}") from exc
    finally:
        path.unlink(missing_ok=True)
    return text.strip()
