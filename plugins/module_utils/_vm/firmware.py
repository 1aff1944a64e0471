# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

# In the SDK (Debian package ovmf). Only the first keeps its variables out of the guest's reach (SMM).
CODE_SECURE_BOOT = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
CODE_PLAIN = "/usr/share/OVMF/OVMF_CODE_4M.fd"
VARS_TEMPLATE = "/usr/share/OVMF/OVMF_VARS_4M.fd"
BOOT_URI_ENTRY = 0x99  # Boot0099; the firmware numbers its own entries from 0000


@dataclass(frozen=True)
class SecureBootKeys:
    """X.509 certificates (PEM or DER files) of the three levels of UEFI Secure Boot (UEFI specification, 32.3).

    :param db: whose signatures the firmware starts.
    :param owner: GUID written beside each certificate.
    """

    pk: Path
    kek: Path
    db: tuple[Path, ...]
    owner: str


def create_vars(
    sandbox: Sandbox,
    dest: Path,
    *,
    keys: SecureBootKeys | None = None,
    secure_boot: bool = True,
    boot_uri: str | None = None,
) -> None:
    """Make a variable store for OVMF without booting anything, as virt-fw-vars(1) does.

    :param keys: enrolled, no others; without keys the firmware is in setup mode.
    :param secure_boot: with keys, whether the firmware refuses what they have not signed.
    :param boot_uri: as for :func:`set_boot_uri`.
    :raises FleetError: a certificate is missing or no certificate, the GUID is none, virt-firmware is not installed.
    """
    with replacing_file(dest, mode=0o600) as temporary:
        binds = [Bind(temporary.parent, "/run/vars", writable=True)]
        sandbox.run(["cp", "--", VARS_TEMPLATE, f"/run/vars/{temporary.name}"], binds=binds)
        with _editing(temporary, dest) as variables:
            if keys is not None:
                _enroll(variables, keys, secure_boot=secure_boot)
            if boot_uri is not None:
                _add_boot_uri(variables, boot_uri)


def set_boot_uri(path: Path, uri: str) -> None:
    """Let the next boot, and only that one, fetch this http:// or https:// address (UEFI HTTP boot, BootNext).

    :raises FleetError: ``path`` is no variable store.
    """
    with replacing_file(path, mode=0o600) as temporary:
        temporary.write_bytes(path.read_bytes())
        with _editing(temporary, path) as variables:
            _add_boot_uri(variables, uri)


def _enroll(variables: Any, keys: SecureBootKeys, *, secure_boot: bool) -> None:
    for certificate in (keys.pk, keys.kek, *keys.db):
        if not certificate.is_file():
            raise FleetError("the certificate is not there", where=str(certificate))
    variables.add_cert("PK", keys.owner, str(keys.pk), True)
    variables.add_cert("KEK", keys.owner, str(keys.kek))
    for certificate in keys.db:
        variables.add_cert("db", keys.owner, str(certificate))
    variables.enable_secureboot()
    if not secure_boot:
        variables.set_bool("SecureBootEnable", False)  # left out, the firmware would turn it on


def _add_boot_uri(variables: Any, uri: str) -> None:
    from virt.firmware.efi import devpath

    variables.set_boot_entry(BOOT_URI_ENTRY, f"netboot {uri.rsplit('/', 1)[-1]}", devpath.DevicePath.uri(uri))
    variables.set_boot_next(BOOT_URI_ENTRY)


@contextmanager
def _editing(path: Path, name: Path) -> Iterator[Any]:
    """Yield the variables of a store and write them back; the library's ways to fail become one."""
    try:
        from virt.firmware.varstore.edk2 import Edk2VarStore
    except ImportError as exc:
        raise FleetError("the Python package virt-firmware is missing", remedy="run 'make venv'") from exc
    try:
        if not Edk2VarStore.probe(str(path)):
            raise FleetError("not a variable store of OVMF", where=str(name))
        store = Edk2VarStore(str(path))
        variables = store.get_varlist()
        yield variables
        store.write_varstore(str(path), variables)
    except (SystemExit, ValueError, RuntimeError) as exc:
        raise FleetError(f"the variable store cannot be written: {exc}", where=str(name)) from exc
