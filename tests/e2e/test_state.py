# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the TPM keeps the state volume shut. Each boot ends in the failure target, which has no shell."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from machines import BOOT_TIMEOUT, DEFAULT_TARGET, Boot, NewMachine

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec

OPENED = [r"Mounted .*/sysroot/state", DEFAULT_TARGET, r"Kernel panic"]


def _locked(machine: Machine) -> str:
    """Wait for the failure target; what it prints names the unit that failed."""
    machine.serial.wait_for(r"BOOT FAILED", timeout=BOOT_TIMEOUT, fail_on=OPENED)
    machine.serial.wait_for(r"systemd-cryptsetup@state\.service .*failed", timeout=60, fail_on=OPENED)
    return machine.serial.text


def test_secure_boot_switched_off(copy: NewMachine, sandbox: Sandbox, keys: ProductKeys, boot: Boot) -> None:
    spec: MachineSpec = copy()
    create_vars(
        sandbox, spec.directory / installed.VARIABLES, keys=installed.secure_boot_keys(keys), secure_boot=False
    )
    with boot(spec) as machine:
        assert "Secure boot enabled" not in _locked(machine)


def test_another_tpm(copy: NewMachine, boot: Boot) -> None:
    spec: MachineSpec = copy()
    shutil.rmtree(spec.directory / "tpm")
    with boot(spec) as machine:
        _locked(machine)


def test_command_line_extended_from_outside(copy: NewMachine, boot: Boot) -> None:
    with boot(copy(kernel_arguments="systemd.show_status=true")) as machine:
        assert "systemd.show_status=true" in _locked(machine)


@pytest.fixture
def state_volume(release: Path, tmp_path: Path) -> Path:
    """The bytes of the state volume, found by its LUKS2 header (LUKS2 on-disk format 1.1, section 2.1)."""
    volume = tmp_path / "state.luks"
    with (release / "machine" / installed.DISK).open("rb") as disk:
        offset = 0
        while header := disk.read(4096):
            if header.startswith(b"LUKS\xba\xbe\x00\x02") and header[24:29] == b"state":
                break
            offset += 4096
        else:
            pytest.fail("no LUKS2 header with label state on the disk")
        disk.seek(offset)
        with volume.open("wb") as copy:
            shutil.copyfileobj(_Limited(disk, 64 * 1024 * 1024), copy)
    return volume


class _Limited:
    def __init__(self, stream: object, size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(min(size, self._left))  # type: ignore[attr-defined]
        self._left -= len(data)
        return data


def _opens(sandbox: Sandbox, volume: Path, key: bytes) -> bool:
    command = ["cryptsetup", "open", "--test-passphrase", "--disable-external-tokens", "--key-file", "-", "/run/volume"]
    return sandbox.run(command, binds=[Bind(volume, "/run/volume")], stdin=key, check=False).returncode == 0


def test_escrowed_recovery_key_opens_the_state_elsewhere(
    release: Path, state_volume: Path, sandbox: Sandbox, keys: ProductKeys
) -> None:
    report = installed.read_report(release / "machine" / installed.REPORT)
    sealed = next(step["evidence"] for step in report["steps"] if step["step"] == "seal state")
    command = ["age", "--decrypt", "--identity", "/run/identity"]
    binds = [Bind(keys.private("escrow"), "/run/identity")]
    recovery = sandbox.run(command, binds=binds, stdin=sealed["recovery_key"].encode()).stdout_bytes
    assert _opens(sandbox, state_volume, recovery)
    assert not _opens(sandbox, state_volume, recovery[:-1] + b"x")
