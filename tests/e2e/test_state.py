# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the TPM opens the state volume, and when it keeps it shut: the boot then ends without a shell, and says why."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disks import overwrite, rename_volume, volumes
from machines import STATE_MOUNTED, Boot, NewMachine, Relink, reach, reach_failure
from shell import Shell

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec

NOT_UNSEALED = r"Failed to unseal secret using TPM2"
UNIT_FAILED = r"systemd-cryptsetup@state\.service\s+loaded failed"
LUKS_HEADERS = 32 * 1024  # both copies of the binary header and of the JSON area begin below


def _assert_locked(boot: Boot, spec: MachineSpec, evidence: str = NOT_UNSEALED) -> str:
    """Boot; return the whole console."""
    with boot(spec) as machine:
        reason = reach_failure(machine)
        assert re.search(UNIT_FAILED, reason), reason
        assert re.search(evidence, reason), reason
        assert "vauban#" not in machine.serial.text
        return machine.serial.text


def test_secure_boot_switched_off(copy: NewMachine, sandbox: Sandbox, keys: ProductKeys, boot: Boot) -> None:
    spec: MachineSpec = copy()
    secure_boot_keys = installed.secure_boot_keys(keys)
    create_vars(sandbox, spec.directory / installed.VARIABLES, keys=secure_boot_keys, secure_boot=False)
    assert "Secure boot disabled" in _assert_locked(boot, spec)


def test_foreign_key_enrolled_besides(
    copy: NewMachine, sandbox: Sandbox, keys: ProductKeys, strangers: ProductKeys, boot: Boot
) -> None:
    spec: MachineSpec = copy()
    own = installed.secure_boot_keys(keys)
    create_vars(sandbox, spec.directory / installed.VARIABLES, keys=replace(own, db=(*own.db, strangers.public("db"))))
    assert "Secure boot enabled" in _assert_locked(boot, spec)


def test_another_tpm(copy: NewMachine, boot: Boot) -> None:
    spec: MachineSpec = copy()
    shutil.rmtree(spec.directory / "tpm")
    _assert_locked(boot, spec)


def test_command_line_extended_from_outside(copy: NewMachine, boot: Boot) -> None:
    assert "systemd.show_status=true" in _assert_locked(boot, copy(kernel_arguments="systemd.show_status=true"))


def test_headers_of_the_volume_erased(copy_to_damage: NewMachine, boot: Boot) -> None:
    spec: MachineSpec = copy_to_damage()
    disk = spec.disks[0].path
    overwrite(disk, volumes(disk)["state"].offset, bytes(LUKS_HEADERS))
    _assert_locked(boot, spec, r"(?i)not a valid LUKS device|Failed to load LUKS")


@pytest.mark.extended  # a device may take its time to appear
def test_volume_missing(copy_to_damage: NewMachine, boot: Boot) -> None:
    spec: MachineSpec = copy_to_damage()
    rename_volume(spec.disks[0].path, "state", "other")
    with boot(spec) as machine:
        assert re.search(r"Timed out waiting for device .*fleet-state", reach_failure(machine))


def test_new_uki_signed_with_the_same_keys_opens_it(
    copy_to_damage: NewMachine,
    relink: Relink,
    replace_uki: Callable[[MachineSpec, Path], None],
    keys: ProductKeys,
    boot: Boot,
) -> None:
    spec: MachineSpec = copy_to_damage()
    replace_uki(spec, relink(["vauban.word=other"], keys))
    with boot(spec) as machine:
        assert "vauban.word=other" in reach(machine, STATE_MOUNTED)


def test_key_is_bound_to_the_registers_that_the_release_names(
    state_volume: Path, sandbox: Sandbox, manifest: dict[str, Any]
) -> None:
    dump = sandbox.run(
        ["cryptsetup", "luksDump", "--dump-json-metadata", "/run/volume"], binds=[Bind(state_volume, "/run/volume")]
    )
    tokens = {token["type"]: token for token in json.loads(dump.stdout)["tokens"].values()}
    assert sorted(tokens) == ["systemd-recovery", "systemd-tpm2"]
    assert tokens["systemd-tpm2"]["tpm2-pcrs"] == manifest["state"]["pcrs"]
    assert tokens["systemd-tpm2"]["tpm2_pubkey_pcrs"] == [11]


def test_escrowed_recovery_key_opens_it(state_volume: Path, recovery_key: bytes, sandbox: Sandbox) -> None:
    assert _opens(sandbox, state_volume, recovery_key)
    assert not _opens(sandbox, state_volume, recovery_key[:-1] + b"x")


def test_escrowed_recovery_key_opens_it_on_another_machine(shell: Shell, recovery_key: bytes) -> None:
    """The machine that is asked has a disk and a TPM of its own, which know nothing of that volume."""
    attach = "systemd-cryptsetup attach foreign /dev/disk/by-id/virtio-foreign"
    assert shell.ask(f"{attach} none tpm2-device=auto,headless=true,read-only").status != 0
    shell(f"umask 077; printf %s '{recovery_key.decode()}' > /run/key; mkdir -p /run/foreign")
    shell(f"{attach} /run/key read-only; rm /run/key")
    shell("mount -o ro /dev/mapper/foreign /run/foreign")
    try:
        assert {"etc", "home", "var"} <= set(shell("ls /run/foreign").split())
    finally:
        shell("umount /run/foreign; systemd-cryptsetup detach foreign")


def _opens(sandbox: Sandbox, volume: Path, key: bytes) -> bool:
    command = ["cryptsetup", "open", "--test-passphrase", "--disable-external-tokens", "--key-file", "-", "/run/volume"]
    return sandbox.run(command, binds=[Bind(volume, "/run/volume")], stdin=key, check=False).returncode == 0
