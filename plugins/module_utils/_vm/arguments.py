# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind
from ansible_collections.vauban.fleet.plugins.module_utils._vm.accel import Accelerator
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import CODE_PLAIN, CODE_SECURE_BOOT
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import (
    Disk,
    KernelBoot,
    MachineSpec,
    SegmentNic,
    UefiBoot,
    UserNic,
)
from ansible_collections.vauban.fleet.plugins.module_utils._vm.tpm import SOCKET as TPM_SOCKET

# Names in the machine's directory and in the runtime directory.
SERIAL_LOG = "serial.log"
SERIAL_SOCKET = "serial"
QMP_SOCKET = "qmp"
STRING_FILES = "smbios-*"
# Where QEMU finds the two; short whatever the host's paths are (unix(7) allows a socket's path 108 bytes).
DIRECTORY = "/run/vm"
RUNTIME = "/run/runtime"


@dataclass(frozen=True)
class Invocation:
    """What to hand to :meth:`Sandbox.argv`."""

    argv: list[str]
    binds: list[Bind]
    network: bool


def invocation(spec: MachineSpec, accelerator: Accelerator, runtime: Path) -> Invocation:
    """QEMU's command line for a machine (qemu(1)).

    :param runtime: directory of the sockets and of the files from :func:`write_strings`, which must be there.
    """
    secure = isinstance(spec.boot, UefiBoot) and spec.boot.secure_boot
    argv = ["qemu-system-x86_64", "-name", spec.name, "-no-user-config", "-nodefaults", "-display", "none"]
    argv += ["-machine", f"q35,smm={'on' if secure else 'off'}", "-accel", accelerator.option, "-cpu", accelerator.cpu]
    argv += ["-m", str(spec.memory), "-smp", str(spec.cpus), "-device", "virtio-rng-pci"]
    argv += [] if spec.reboots else ["-no-reboot"]
    binds = [Bind(spec.directory, DIRECTORY, writable=True), Bind(runtime, RUNTIME, writable=True)]
    binds += accelerator.binds()
    for words, shown in (
        _boot(spec),
        _console(spec),
        (["-device", "qemu-xhci"] if any(disk.usb for disk in spec.disks) else [], []),
        *(_disk(number, disk, unsafe_cache=spec.unsafe_cache) for number, disk in enumerate(spec.disks)),
        *(_nic(spec.name, number, nic) for number, nic in enumerate(spec.nics)),
        _ports(spec),
        _restore(spec),
    ):
        argv += words
        binds += shown
    if spec.clock is not None:
        argv += ["-rtc", f"base={spec.clock}"]
    if spec.tpm:
        argv += ["-chardev", f"socket,id=tpm,path={RUNTIME}/{TPM_SOCKET}"]
        interface = "tpm-crb" if spec.tpm_version == "2.0" else "tpm-tis"
        argv += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", f"{interface},tpmdev=tpm0"]
    for path in sorted(runtime.glob(STRING_FILES)):
        argv += ["-smbios", f"type=11,path={RUNTIME}/{path.name}"]
    return Invocation(argv, binds, any(_leaves(nic) for nic in spec.nics))


def write_strings(spec: MachineSpec, runtime: Path) -> None:
    """Write the SMBIOS type 11 strings for systemd (systemd.system-credentials(7)), each to a private file."""
    for number, text in enumerate(_strings(spec)):
        path = runtime / f"smbios-{number:03}"
        path.touch(mode=0o600)
        path.write_text(text, "ascii")


def remove_strings(runtime: Path) -> None:
    """Remove what :func:`write_strings` wrote: there may be secrets in it."""
    for path in runtime.glob(STRING_FILES):
        path.unlink()


def mac(name: str, number: int) -> str:
    """An address that differs between machines and stays the same between boots, from QEMU's range."""
    digest = hashlib.sha256(f"{name}:{number}".encode()).digest()
    return f"52:54:00:{digest[0]:02x}:{digest[1]:02x}:{digest[2]:02x}"


def _strings(spec: MachineSpec) -> Iterator[str]:
    for name, value in sorted(spec.credentials.items()):
        yield f"io.systemd.credential.binary:{name}={base64.b64encode(value).decode()}"
    if spec.kernel_arguments and isinstance(spec.boot, UefiBoot):
        yield f"io.systemd.stub.kernel-cmdline-extra={spec.kernel_arguments}"


def _leaves(nic: UserNic | SegmentNic) -> bool:
    """Whether what the card sends leaves the sandbox that QEMU runs in."""
    return isinstance(nic, SegmentNic) or bool(nic.forwards) or not nic.restrict


def _boot(spec: MachineSpec) -> tuple[list[str], list[Bind]]:
    if isinstance(spec.boot, KernelBoot):
        line = f"{spec.boot.command_line} {spec.kernel_arguments}".strip()
        words = ["-kernel", "/run/kernel", "-append", line]
        binds = [Bind(spec.boot.kernel, "/run/kernel")]
        if spec.boot.initrd is not None:
            words += ["-initrd", "/run/initrd"]
            binds += [Bind(spec.boot.initrd, "/run/initrd")]
        return words, binds
    code = CODE_SECURE_BOOT if spec.boot.secure_boot else CODE_PLAIN
    words = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
    words += ["-drive", "if=pflash,unit=1,format=raw,file=/run/variables"]
    if spec.boot.secure_boot:
        words += ["-global", "driver=cfi.pflash01,property=secure,value=on"]  # only code in SMM writes variables
    words += ["-global", "ICH9-LPC.disable_s3=1"]
    if not spec.boot.pxe:
        for protocol in ("IPv4", "IPv6"):
            words += ["-fw_cfg", f"name=opt/org.tianocore/{protocol}PXESupport,string=n"]
    return words, [Bind(spec.boot.variables, "/run/variables", writable=True)]


def _console(spec: MachineSpec) -> tuple[list[str], list[Bind]]:
    log = f"logfile={DIRECTORY}/{SERIAL_LOG},logappend=on"
    words = ["-chardev", f"socket,id=qmp,path={RUNTIME}/{QMP_SOCKET},server=on,wait=off"]
    words += ["-mon", "chardev=qmp,mode=control"]
    if spec.interactive:
        words += ["-chardev", f"stdio,id=serial,mux=on,signal=off,{log}", "-mon", "chardev=serial,mode=readline"]
    else:
        words += ["-chardev", f"socket,id=serial,path={RUNTIME}/{SERIAL_SOCKET},server=on,wait=off,{log}"]
    return [*words, "-serial", "chardev:serial"], []


def _disk(number: int, disk: Disk, *, unsafe_cache: bool) -> tuple[list[str], list[Bind]]:
    drive = f"if=none,id=disk{number},file=/run/disk/{number},format={disk.format},discard=unmap"
    drive += f",cache={'unsafe' if unsafe_cache else 'writeback'}" + (",readonly=on" if disk.readonly else "")
    device = f"{'usb-storage,removable=on' if disk.usb else 'virtio-blk-pci'},drive=disk{number}"
    device += f",serial={disk.serial}" if disk.serial else ""
    device += f",bootindex={disk.bootindex}" if disk.bootindex is not None else ""
    binds = [Bind(disk.path, f"/run/disk/{number}", writable=not disk.readonly, device=disk.path.is_block_device())]
    if disk.base is not None:
        drive += f",backing.driver=raw,backing.file.driver=file,backing.file.filename=/run/base/{number}"
        binds += [Bind(disk.base, f"/run/base/{number}")]
    return ["-drive", drive, "-device", device], binds


def _nic(name: str, number: int, nic: UserNic | SegmentNic) -> tuple[list[str], list[Bind]]:
    if isinstance(nic, UserNic):
        backend = f"user,id=net{number},restrict={'on' if nic.restrict else 'off'}"
        backend += "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for host, guest in sorted(nic.forwards.items()))
    else:
        backend = f"socket,id=net{number},mcast={nic.group}:{nic.port},localaddr=127.0.0.1"
    # No option ROM: OVMF brings its own driver for the card, and refuses QEMU's unsigned one under Secure Boot.
    device = f"virtio-net-pci,netdev=net{number},mac={nic.mac or mac(name, number)},romfile="
    device += f",bootindex={nic.bootindex}" if nic.bootindex is not None else ""
    return ["-netdev", backend, "-device", device], []


def _ports(spec: MachineSpec) -> tuple[list[str], list[Bind]]:
    words, binds = [], []
    for number, (name, path) in enumerate(sorted(spec.ports.items())):
        words += ["-chardev", f"file,id=port{number},path=/run/port/{number}"]
        words += ["-device", f"virtserialport,chardev=port{number},name={name}"]
        binds += [Bind(path, f"/run/port/{number}", writable=True)]
    return (["-device", "virtio-serial-pci", *words] if words else []), binds


def _restore(spec: MachineSpec) -> tuple[list[str], list[Bind]]:
    if spec.restore is None:
        return [], []
    return ["-incoming", "file:/run/restore"], [Bind(spec.restore, "/run/restore")]
