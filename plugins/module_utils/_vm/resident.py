# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat as modes
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_directory, write_json
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._command import LAST_LINES, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.accel import Accelerator, detect, kvm, tcg
from ansible_collections.vauban.fleet.plugins.module_utils._vm.arguments import (
    QMP_SOCKET,
    SERIAL_LOG,
    SERIAL_SOCKET,
    invocation,
    remove_strings,
    write_strings,
)
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.installed import secure_boot_keys
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import (
    QEMU_LOG,
    RESTORE_TIMEOUT,
    SWTPM_LOG,
    TPM_STATE,
    connect,
    find_qemu,
    reach_qmp,
    resume,
    write_state,
)
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import (
    LOOPBACK,
    VARIABLES,
    Options,
    free_port,
)
from ansible_collections.vauban.fleet.plugins.module_utils._vm.process import Process, Stat, holders, kill, stat
from ansible_collections.vauban.fleet.plugins.module_utils._vm.qmp import Qmp
from ansible_collections.vauban.fleet.plugins.module_utils._vm.serial import DEFAULT_FAILURES, Serial
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import NAME, MachineSpec
from ansible_collections.vauban.fleet.plugins.module_utils._vm.tpm import Tpm, manufacture

# Names in a machine's directory.
RECORD = "machine.json"
LOCK = ".lock"
FAMILY = ".family"  # open in every process of the machine, and in no other
SNAPSHOTS = "snapshots"
MEMORY = "memory"
_MOUNTS = "mounts"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BANNER = b"SSH-"
_POLL_INTERVAL = 0.1
_PRESS_INTERVAL = 5.0
_PORT_TAKEN = "Could not set up host forwarding rule"
_PORT_TRIES = 3
# With several CPUs QEMU 10.0 now and then aborts while an emulated guest moves PCI regions about.
_EMULATOR_FAULT = "iotlb_to_section: Assertion"


@dataclass(frozen=True)
class Record:
    """What is remembered of a machine between two processes that look after it.

    :param pid: of QEMU; with the other two it means that process and no later one of the same number.
    :param started: in clock ticks since the host's boot.
    :param boot: of the host.
    :param wanted: what it was started with (:func:`_fingerprint`).
    :param ports: host port by guest port.
    :param serial_offset: where its console begins in the log, which earlier boots share.
    :param restored: whether it continued from a snapshot, so that its boot shows elsewhere in the log.
    """

    pid: int
    started: int
    boot: str
    wanted: Mapping[str, Any]
    ports: Mapping[str, int]
    accelerator: Mapping[str, str]
    serial_offset: int
    restored: bool


class Resident:
    """A virtual machine that outlives the process which starts it; any later process finds it by its directory.

    Its directory holds all its files; only its sockets lie elsewhere, since their paths must be short. Processes that
    a killed controller left behind are found by a file that all of them have open, so none is ever missed or mistaken.

    :param lines: how many lines of the console errors quote.
    """

    def __init__(self, directory: Path, sandbox: Sandbox | None = None, *, lines: int = LAST_LINES) -> None:
        self.directory = directory
        self._sandbox = sandbox
        self._lines = lines
        self._ancestors = _ancestors()
        name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
        # Not below TMPDIR: the path of a socket has 108 bytes at most (unix(7)).
        self.runtime = Path(f"/tmp/vauban-vm-{os.geteuid()}-{name}")

    @contextmanager
    def locked(self, *, make: bool = False) -> Iterator[None]:
        """Look after the machine alone; other processes wait.

        :param make: make the directory if it is missing; else nothing is locked then.
        """
        if make:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.directory.is_dir():
            yield
            return
        foreign = not (self.directory / FAMILY).exists() and any(self.directory.iterdir())
        if foreign and not (self.directory / LOCK).exists():
            raise FleetError(
                "the directory holds other files, and no machine",
                where=f"directory: {self.directory}",
                remedy="name a directory that is empty or missing",
            )
        with (self.directory / LOCK).open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            (self.directory / FAMILY).touch(mode=0o600)
            yield

    def record(self) -> Record | None:
        """What the process that started the machine last wrote down."""
        try:
            return Record(**json.loads((self.directory / RECORD).read_text("utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def process(self) -> Stat | None:
        """The running QEMU, or None."""
        record = self.record()
        if record is None or record.boot != _BOOT_ID.read_text().strip():
            return None
        found = stat(record.pid)
        return found if found and found.started == record.started and not found.ended else None

    def snapshots(self) -> list[str]:
        """Names of the saved states."""
        return sorted(path.name for path in (self.directory / SNAPSHOTS).glob("[!.]*"))

    def differs(self, options: Options) -> list[str]:
        """What the machine, running or not, was last started with and is no longer asked for."""
        record = self.record()
        return _changed(record.wanted if record else {}, _fingerprint(options, self._sdk()))

    def start(self, options: Options) -> None:
        """Boot the machine. It must not run; what a killed predecessor left of it is removed.

        :raises FleetError: it did not start; carries QEMU's or swtpm's own messages.
        """
        self._clean()
        self._prepare(options)
        self._launch(options, None)

    def proceed(self) -> None:
        """Let a running machine run on that a killed controller left halted."""
        with self._qmp() as qmp:
            if qmp.status() in ("paused", "postmigrate", "finish-migrate"):
                qmp.cont()

    def stop(self, timeout: float) -> bool:
        """Press the power button; pull the plug after ``timeout`` seconds.

        :returns: whether the guest switched itself off.
        """
        obeyed, deadline = False, time.monotonic() + timeout
        while self.process() is not None and not obeyed and time.monotonic() < deadline:
            with contextlib.suppress(FleetError), self._qmp() as qmp:  # it may end meanwhile
                qmp.powerdown()
            # A guest that has just come up does not listen to the button yet, and forgets that it was pressed.
            obeyed = self._wait_end(min(_PRESS_INTERVAL, deadline - time.monotonic()))
        self._clean()
        return obeyed

    def remove(self) -> None:
        """Pull the plug, and remove all the machine's files."""
        self._clean()
        shutil.rmtree(self.directory)

    def save(self, name: str) -> None:
        """Write the state of the running machine to a snapshot, and end it.

        :raises FleetError: it does not run, or QEMU failed.
        """
        record = self.record()
        if record is None or self.process() is None:
            raise FleetError(
                f"there is neither a snapshot '{name}' nor a running machine",
                where=f"snapshot: {self.directory}",
                remedy="start it first (state: started)",
            )
        dest = self._snapshot(name)
        for left in dest.parent.glob(".*") if dest.parent.exists() else ():
            shutil.rmtree(left)
        with replacing_directory(dest, mode=0o700) as temporary:  # holds the guest's memory, so its secrets
            (temporary / MEMORY).touch(mode=0o600)
            with self._qmp() as qmp:
                write_state(qmp, (temporary / MEMORY).relative_to(self.directory))
            if not self._wait_end(RESTORE_TIMEOUT):
                raise FleetError("QEMU did not end", where=str(self.directory / QEMU_LOG))
            self._clean()
            for path in self._state_files():
                _copy(path, temporary / path.name)
            kept = {"wanted": dict(record.wanted), "ports": dict(record.ports), "accelerator": dict(record.accelerator)}
            write_json(temporary / RECORD, kept)

    def restore(self, name: str, options: Options) -> None:
        """Let the machine continue from a snapshot; what it did since is lost.

        :raises FleetError: there is no such snapshot, or it was taken from a machine with other options.
        """
        source = self._snapshot(name)
        try:
            known = json.loads((source / RECORD).read_text("utf-8"))
        except FileNotFoundError:
            raise FleetError(
                f"there is no snapshot '{name}'; there are: {', '.join(self.snapshots()) or 'none'}",
                where=f"snapshot: {self.directory}",
                remedy="start the machine, then save it (state: saved)",
            ) from None
        if changed := self.stale(name, options):
            raise FleetError(
                f"the snapshot '{name}' is of a machine with other options: {', '.join(changed)}",
                where=f"snapshot: {self.directory}",
                remedy="start the machine anew and save it again",
            )
        self._clean()
        for path in self._state_files():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path in source.iterdir():
            if path.name not in (MEMORY, RECORD):
                _copy(path, self.directory / path.name)
        self._launch(options, source / MEMORY, known["ports"], known["accelerator"])

    def stale(self, name: str, options: Options) -> list[str]:
        """In what the options, or files that the machine reads, differ from those of a snapshot."""
        known = json.loads((self._snapshot(name) / RECORD).read_text("utf-8"))
        return _changed(known["wanted"], _fingerprint(options, self._sdk()))

    def emulator_failed(self) -> bool:
        """Whether QEMU ended by a known fault of its own, which has nothing to do with the guest and seldom recurs."""
        return self.process() is None and _EMULATOR_FAULT in self.emulator_log()

    def emulator_log(self) -> str:
        """The end of what QEMU printed since it was last started."""
        log = self.directory / QEMU_LOG
        text = log.read_text("utf-8", "replace") if log.exists() else ""
        *_earlier, last = text.split("\n$ mkdir")
        # First comes the command, which ends with QEMU's last argument.
        return last.partition(" -- qemu-system-x86_64 ")[2].partition("\n")[2].strip()

    def restored(self) -> bool:
        """Whether the machine continued from a snapshot."""
        record = self.record()
        return record is not None and record.restored

    def port(self, guest: int) -> int | None:
        """The loopback port that leads to a port of the guest."""
        record = self.record()
        return record.ports.get(str(guest)) if record else None

    def serial(self) -> Serial:
        """The console of the running machine, from the beginning of this boot."""
        record = self.record()
        return Serial(
            self.directory / SERIAL_LOG,
            self.runtime / SERIAL_SOCKET,
            # Who waits for nobody any more, since all that called it was killed, must let others have the machine.
            lambda: self.process() is not None and _ancestors() == self._ancestors,
            offset=record.serial_offset if record else 0,
            lines=self._lines,
        )

    def wait_for_ssh(self, guest: int, timeout: float, failures: tuple[str, ...] = DEFAULT_FAILURES) -> None:
        """Wait until an ssh server answers behind a forwarded port.

        :raises SerialError: a failure showed on the console, the machine ended or the time passed.
        """
        port = self.port(guest)
        if port is None:
            raise FleetError(
                f"no network forwards port {guest}",
                where="networks",
                remedy=f"add '{{guest: {guest}}}' to the forwards of a network of kind user, or set wait_for",
            )
        what = f"an ssh server answered on {LOOPBACK}:{port}"
        self.serial().wait_until(lambda: _answers(port), what, timeout=timeout, fail_on=failures)

    def wait_for_marker(self, marker: str, timeout: float, failures: tuple[str, ...] = DEFAULT_FAILURES) -> None:
        """Wait until the guest has printed a regular expression; errors as above."""
        self.serial().wait_for(marker, timeout=timeout, fail_on=failures)

    def _sdk(self) -> str:
        if self._sandbox is None:
            raise AssertionError("a state that needs no SDK came here")
        return str(self._sandbox.sdk.resolve())

    def _snapshot(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise FleetError(f"{name!r} is no simple name", where="snapshot")
        return self.directory / SNAPSHOTS / name

    def _state_files(self) -> list[Path]:
        """What the guest writes to, besides its memory."""
        found = [self.directory / VARIABLES, self.directory / TPM_STATE, *self.directory.glob("disk*.qcow2")]
        return [path for path in found if path.exists()]

    def _clean(self) -> None:
        """End every process of the machine, whoever started it, and remove its sockets."""
        if (self.directory / FAMILY).exists():
            kill(holders(self.directory / FAMILY))
        if self.runtime.is_dir() and not self.runtime.is_symlink():
            shutil.rmtree(self.runtime)

    def _prepare(self, options: Options) -> None:
        """Make the files that the machine writes to, unless they are there and still made from the same."""
        if self._sandbox is None:
            raise AssertionError("a state that needs no SDK came here")
        changed = set(self.differs(options))
        for number, disk in enumerate(options.values["disks"]):
            path = options.disk_path(number)
            if disk["readonly"]:
                continue
            if path.exists() and not changed & {"disks", f"content of {disk['src']}"}:
                continue
            path.unlink(missing_ok=True)
            binds = [Bind(self.directory, "/run/out", writable=True)]
            command = ["qemu-img", "create", "-q", "-f", "qcow2"]
            if disk["src"]:
                # The name is only a note: the machine is told the real place (arguments.py).
                command += ["-F", "raw", "-b", "/run/base"]
                binds += [Bind(Path(disk["src"]), "/run/base", device=Path(disk["src"]).is_block_device())]
            size = [] if disk["src"] else [str(disk["size"])]
            self._sandbox.run([*command, f"/run/out/{path.name}", *size], binds=binds)
        boot = options.values["boot"]
        if "keys" in boot and ("boot" in changed or not (self.directory / VARIABLES).exists()):
            keys = secure_boot_keys(ProductKeys(Path(boot["keys"]))) if boot["keys"] else None
            create_vars(self._sandbox, self.directory / VARIABLES, keys=keys, secure_boot=boot["secure_boot"])

    def _launch(
        self,
        options: Options,
        memory: Path | None,
        ports: Mapping[str, int] | None = None,
        accelerator: Mapping[str, str] | None = None,
    ) -> None:
        before = self.record()
        known = ports or (before.ports if before else {})
        chosen = Accelerator(**accelerator) if accelerator else self._accelerator(options)
        for last in (*range(1, _PORT_TRIES), None):
            found = _ports(options, known)
            try:
                self._try_launch(options, options.spec(found, restore=memory), found, chosen)
                return
            except FleetError as exc:
                self._clean()
                # Somebody took the port between our look and QEMU's; a wished one is not ours to change.
                if _PORT_TAKEN not in exc.message or last is None:
                    raise
                known = {}

    def _try_launch(
        self, options: Options, spec: MachineSpec, ports: Mapping[int, int], accelerator: Accelerator
    ) -> None:
        if self._sandbox is None:
            raise AssertionError("a state that needs no SDK came here")
        directory, family = self.directory, self.directory / FAMILY
        log = directory / SERIAL_LOG
        offset = log.stat().st_size if log.exists() else 0
        self._make_runtime()
        with ExitStack() as stack:
            stack.callback(self._clean)
            if spec.tpm:
                manufacture(self._sandbox, directory / TPM_STATE)
                Tpm(self._sandbox, directory / TPM_STATE, self.runtime, directory / SWTPM_LOG, detached=family).start()
            write_strings(spec, self.runtime)
            qemu = invocation(spec, accelerator, self.runtime)
            argv = self._sandbox.argv(qemu.argv, binds=qemu.binds, network=qemu.network, detached=True)
            process = Process("QEMU", argv, directory / QEMU_LOG, self.runtime, detached=family)
            found = process.wait_until(lambda: find_qemu(process))
            record = Record(
                pid=found.pid,
                started=found.started,
                boot=_BOOT_ID.read_text().strip(),
                wanted=_fingerprint(options, self._sdk()),
                ports={str(guest): host for guest, host in ports.items()},
                accelerator=asdict(accelerator),
                serial_offset=offset,
                restored=spec.restore is not None,
            )
            write_json(directory / RECORD, asdict(record))
            qmp = reach_qmp(process, self.runtime)
            stack.callback(qmp.close)
            remove_strings(self.runtime)
            if spec.restore is not None:
                resume(process, qmp)
            qmp.close()
            stack.pop_all()

    def _accelerator(self, options: Options) -> Accelerator:
        if self._sandbox is None:
            raise AssertionError("a state that needs no SDK came here")
        wished = options.values["accelerator"]
        if wished == "tcg":
            return tcg("asked for")
        found = detect(self._sandbox, smm=options.values["boot"].get("secure_boot", False))
        if wished == "kvm" and found.name != "kvm":
            raise FleetError(
                f"no hardware virtualisation: {found.reason}", where="accelerator: kvm", remedy="choose auto or tcg"
            )
        return kvm("asked for, and executed guest code") if wished == "kvm" else found

    def _make_runtime(self) -> None:
        """A private directory for the sockets: its name can be foreseen, so somebody else may have made it."""
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        status = self.runtime.lstat()
        if not modes.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise FleetError(
                "is not a private directory of this user", where=str(self.runtime), remedy="find out who made it"
            )

    @contextmanager
    def _qmp(self) -> Iterator[Qmp]:
        connection = connect(self.runtime / QMP_SOCKET)
        if connection is None:
            raise FleetError("QEMU's control socket is gone", where=str(self.runtime / QMP_SOCKET))
        qmp = Qmp(connection)
        try:
            yield qmp
        finally:
            qmp.close()

    def _wait_end(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.process() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_INTERVAL)
        return True


def _fingerprint(options: Options, sdk: str) -> dict[str, Any]:
    """Everything a machine is made of. A saved state only fits a machine where all of this is the same."""
    wanted = {**options.values, "sdk": sdk}
    for path in options.inputs:
        status = path.stat()
        wanted[f"content of {path}"] = [status.st_size, status.st_mtime_ns]
    return wanted


def _changed(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*known, *wanted} if known.get(name) != wanted.get(name))


def _ports(options: Options, known: Mapping[str, int]) -> dict[int, int]:
    """A host port for each forwarded port of the guest; that of before, if it can be had."""
    found = {}
    for guest, wished in options.forwards:
        port = free_port(wished) if wished else free_port(known.get(str(guest))) or free_port()
        if port is None:
            raise FleetError(
                f"port {wished} of {LOOPBACK} is in use", where="networks", remedy="name another, or none for any"
            )
        found[guest] = port
    return found


def _ancestors() -> tuple[int, ...]:
    """The processes that this one descends from; they change when one of them ends."""
    found, process = [], stat(os.getpid())
    while process is not None and process.parent:
        found.append(process.parent)
        process = stat(process.parent)
    return tuple(found)


def _answers(port: int) -> bool:
    """Whether an ssh server introduces itself (RFC 4253, 4.2). QEMU accepts connections long before the guest does."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2.0) as connection:
            connection.settimeout(5.0)
            return connection.recv(len(_BANNER)) == _BANNER
    except OSError:
        return False


def _copy(source: Path, dest: Path) -> None:
    run(["cp", "--archive", "--sparse=always", "--reflink=auto", "--", source, dest])
