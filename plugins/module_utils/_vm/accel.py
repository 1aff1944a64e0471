# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

KVM = Path("/dev/kvm")
PROBE_TIMEOUT = 10.0
# The probe is a firmware image: a vCPU starts 16 bytes below its end (the reset vector) and needs nothing else.
PROBE_ROM_SIZE = 64 * 1024
PROBE_CODE = bytes.fromhex("b010 e6f4 f4 ebfd")  # mov al,0x10; out 0xf4,al; hlt; jmp to hlt
PROBE_STATUS = (0x10 << 1) | 1  # isa-debug-exit ends QEMU with this status


@dataclass(frozen=True)
class Accelerator:
    """How QEMU executes guest code.

    :param name: ``kvm`` or ``tcg``.
    :param option: the value of ``-accel`` (qemu(1)).
    :param cpu: the CPU model that offers the most under it.
    :param reason: why it was chosen, one line for a log.
    """

    name: str
    option: str
    cpu: str
    reason: str

    def binds(self) -> tuple[Bind, ...]:
        """What the sandbox must show for it; /dev is the sandbox's own tmpfs, so the mount point can be made."""
        return (Bind(KVM, str(KVM), device=True),) if self.name == "kvm" else ()


def kvm(reason: str) -> Accelerator:
    """Hardware virtualisation."""
    return Accelerator("kvm", "kvm", "host", reason)


def tcg(reason: str) -> Accelerator:
    """Emulation, one host thread for each vCPU.

    With the two features left out a guest clears and copies memory by words; with them by single bytes, which real
    processors make quick and emulation does not.
    """
    return Accelerator("tcg", "tcg,thread=multi", "max,-erms,-fsrm", reason)


def detect(sandbox: Sandbox, *, smm: bool = True) -> Accelerator:
    """Choose the accelerator by executing guest code with it: a usable-looking /dev/kvm may still fail.

    :param smm: the machine needs System Management Mode (Secure Boot), which some nested hypervisors lack.
    :raises FleetError: the SDK is not there.
    """
    if not KVM.exists():
        return tcg(f"there is no {KVM}")
    if not os.access(KVM, os.R_OK | os.W_OK):
        return tcg(f"{KVM} may not be opened by this user")
    candidate = kvm(f"{KVM} executed guest code")
    problem = _probe(sandbox, candidate, smm=smm)
    return candidate if problem is None else tcg(f"{KVM} is there, but: {problem}")


def _probe(sandbox: Sandbox, accelerator: Accelerator, *, smm: bool) -> str | None:
    """Start a guest of a few instructions; return what went wrong, or None."""
    with tempfile.TemporaryDirectory(prefix="vauban-probe-") as directory:
        rom = Path(directory) / "rom"
        code = PROBE_CODE.ljust(16, b"\0")
        rom.write_bytes(bytes(PROBE_ROM_SIZE - len(code)) + code)
        words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "32"]
        words += ["-machine", f"q35,smm={'on' if smm else 'off'}", "-accel", accelerator.option]
        words += ["-cpu", accelerator.cpu, "-bios", "/run/rom", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        argv = sandbox.argv(words, binds=[Bind(rom, "/run/rom"), *accelerator.binds()])
        try:
            completed = run(argv, check=False, timeout=PROBE_TIMEOUT)
        except FleetError as exc:
            return exc.message
    if completed.returncode == PROBE_STATUS:
        return None
    lines = completed.stderr.strip().splitlines()
    return lines[-1] if lines else f"QEMU ended with status {completed.returncode}"
