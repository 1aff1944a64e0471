# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import socket
import sys
import tempfile
import termios
import time
from contextlib import ExitStack
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.accel import Accelerator, detect
from ansible_collections.vauban.fleet.plugins.module_utils._vm.arguments import (
    DIRECTORY,
    QMP_SOCKET,
    SERIAL_LOG,
    SERIAL_SOCKET,
    invocation,
    remove_strings,
    write_strings,
)
from ansible_collections.vauban.fleet.plugins.module_utils._vm.process import Process, Stat, descendants, stat
from ansible_collections.vauban.fleet.plugins.module_utils._vm.qmp import Qmp
from ansible_collections.vauban.fleet.plugins.module_utils._vm.serial import Serial
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec, UefiBoot
from ansible_collections.vauban.fleet.plugins.module_utils._vm.tpm import Tpm, manufacture

QEMU_LOG = "qemu.log"
SWTPM_LOG = "swtpm.log"
TPM_STATE = "tpm"
QEMU_COMM = "qemu-system-x86"  # the kernel keeps 15 characters of a program's name (proc_pid_comm(5))
POLL_INTERVAL = 0.1
RESTORE_TIMEOUT = 120.0


class Machine:
    """A virtual machine that runs while the ``with`` block does; nothing of it outlives the block or this process.

    Everything it needs comes from the SDK. Its directory keeps ``serial.log``, ``qemu.log`` and ``swtpm.log`` (the
    commands and messages), and ``tpm`` (the TPM's state).

    :param accelerator: found out by :func:`detect` when left out.
    :raises FleetError: it did not start; carries QEMU's or swtpm's own messages.
    """

    def __init__(self, spec: MachineSpec, sandbox: Sandbox, *, accelerator: Accelerator | None = None) -> None:
        self.spec = spec
        self._sandbox = sandbox
        self._accelerator = accelerator
        self._stack = ExitStack()
        self._cpu_seconds = 0.0

    def __enter__(self) -> Machine:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def wait_exit(self, timeout: float | None = None) -> None:
        """Wait until the guest has switched itself off (or reboots: the machine does not).

        :param timeout: seconds; None waits for ever.
        :raises FleetError: the time passed, or QEMU failed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._running():
            if deadline is not None and time.monotonic() > deadline:
                raise FleetError(
                    f"the machine {self.spec.name} did not end within {timeout:g} s", remedy=f"read {self.serial.log}"
                )
            time.sleep(POLL_INTERVAL)
        if self._process.status != 0:
            raise self._process.failure(f"ended with status {self._process.status}")

    def power_off(self, timeout: float) -> None:
        """Press the power button and wait for the end; arguments and errors as for :meth:`wait_exit`."""
        self.qmp.powerdown()
        self.wait_exit(timeout)

    def kill(self) -> None:
        """Pull the plug: nothing is flushed, in the guest or by QEMU."""
        self._process.stop()

    def save(self, path: Path) -> None:
        """Write the running machine's state to a file in its directory and end it, for ``MachineSpec.restore``.

        Disks, variables and the TPM's directory belong to that state: copy them before the next boot changes them.

        :raises FleetError: the path is elsewhere, or QEMU failed.
        """
        if path.resolve().parent != self.spec.directory.resolve():
            raise FleetError(f"not in the machine's directory {self.spec.directory}", where=str(path))
        with replacing_file(path, mode=0o600) as temporary:  # holds the guest's memory, so its secrets
            write_state(self.qmp, Path(temporary.name))
            self.wait_exit(RESTORE_TIMEOUT)

    def cpu_seconds(self) -> float:
        """User and system time of QEMU so far; after its end, as last seen while something was waited for."""
        self._running()
        return self._cpu_seconds

    def _running(self) -> bool:
        running = self._process.running
        qemu = stat(self._qemu) if running else None
        if qemu is not None:
            self._cpu_seconds = max(self._cpu_seconds, qemu.cpu)
        return running

    def _start(self, stack: ExitStack) -> None:
        spec, directory = self.spec, self.spec.directory
        # Not below TMPDIR: the path of a socket has 108 bytes at most (unix(7)).
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vauban-vm-", dir="/tmp")))
        if spec.interactive and sys.stdin.isatty():
            stack.callback(termios.tcsetattr, sys.stdin, termios.TCSADRAIN, termios.tcgetattr(sys.stdin))
        if spec.tpm:
            state, version = directory / TPM_STATE, spec.tpm_version
            manufacture(self._sandbox, state, ca=spec.tpm_ca, version=version)
            stack.enter_context(Tpm(self._sandbox, state, runtime, directory / SWTPM_LOG, version=version))
        for path in spec.ports.values():
            path.touch()
        write_strings(spec, runtime)
        secure = isinstance(spec.boot, UefiBoot) and spec.boot.secure_boot
        accelerator = self._accelerator or detect(self._sandbox, smm=secure)
        qemu = invocation(spec, accelerator, runtime)
        argv = self._sandbox.argv(qemu.argv, binds=qemu.binds, network=qemu.network)
        console = None if spec.interactive else runtime / SERIAL_SOCKET
        self.serial = Serial(directory / SERIAL_LOG, console, self._running)
        self._process = Process("QEMU", argv, directory / QEMU_LOG, runtime, terminal=spec.interactive)
        stack.callback(self.kill)
        self._qemu = self._process.wait_until(lambda: find_qemu(self._process)).pid
        self.qmp = reach_qmp(self._process, runtime)
        stack.callback(self.qmp.close)
        remove_strings(runtime)  # QEMU has read them
        if spec.restore is not None:
            resume(self._process, self.qmp)


def find_qemu(process: Process) -> Stat | None:
    """QEMU's own process: above it are those of the sandbox."""
    return next((each for each in descendants(process.pid) if each.name == QEMU_COMM), None)


def reach_qmp(process: Process, runtime: Path) -> Qmp:
    """Wait until the QEMU of a process that was just started can be asked and told.

    :raises FleetError: it ended instead; carries its own messages.
    """
    connection = process.wait_until(lambda: connect(runtime / QMP_SOCKET))
    try:
        return Qmp(connection)
    except FleetError as exc:
        raise process.failure(f"was not reached: {exc.message}") from exc


def write_state(qmp: Qmp, path: Path) -> None:
    """Halt a machine, write its state, let QEMU end.

    :param path: relative to the machine's directory.
    :raises FleetError: QEMU failed; carries its reason.
    """
    qmp.stop()
    qmp.migrate(f"file:{DIRECTORY}/{path}")
    qmp.quit()


def resume(process: Process, qmp: Qmp) -> None:
    """Let a machine continue from a saved state, once QEMU has read it."""
    deadline = time.monotonic() + RESTORE_TIMEOUT
    while qmp.status() == "inmigrate":  # a "cont" sent now would be lost
        if time.monotonic() > deadline:
            raise process.failure(f"did not restore the machine within {RESTORE_TIMEOUT:g} s")
        time.sleep(POLL_INTERVAL)
    qmp.cont()


def connect(path: Path) -> socket.socket | None:
    """A connection to a socket; None while nobody listens there."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection
