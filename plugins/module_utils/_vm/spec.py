# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
DISK_FORMATS = ("raw", "qcow2")
DISK_SERIAL = re.compile(r"[A-Za-z0-9_.-]{1,20}")  # virtio-blk hands over 20 bytes
MEMORY_LEAST = 64


@dataclass(frozen=True)
class Disk:
    """A virtio disk, or a USB stick.

    :param path: image file or block device.
    :param base: raw image that a qcow2 ``path`` only holds the differences to.
    :param serial: the guest sees /dev/disk/by-id/virtio-SERIAL.
    :param bootindex: place in the firmware's boot order, from 0.
    :param usb: whether it is a stick, which can be taken out, and has no place in the order of /dev/vda, vdb, ...
    """

    path: Path
    format: str = "raw"
    readonly: bool = False
    serial: str | None = None
    bootindex: int | None = None
    base: Path | None = None
    usb: bool = False


@dataclass(frozen=True)
class UserNic:
    """A network card behind QEMU's own address translation; the host's loopback reaches chosen guest ports.

    :param forwards: guest TCP port by host port on 127.0.0.1.
    :param restrict: the guest reaches nothing outside.
    :param bootindex: place in the firmware's boot order, from 0.
    """

    forwards: Mapping[int, int] = field(default_factory=dict)
    restrict: bool = True
    mac: str | None = None
    bootindex: int | None = None


@dataclass(frozen=True)
class SegmentNic:
    """A network card on an Ethernet segment shared by all machines that name the same group and port.

    The segment is multicast on the host's loopback: no privilege, and nothing leaves the host.

    :param bootindex: place in the firmware's boot order, from 0.
    """

    group: str
    port: int
    mac: str | None = None
    bootindex: int | None = None


@dataclass(frozen=True)
class UefiBoot:
    """Boot through OVMF.

    :param variables: the machine's variable store, written to (:func:`firmware.create_vars`).
    :param secure_boot: firmware that can enforce Secure Boot; whether it does, the variables say.
    :param pxe: whether it tries PXE. It does so before HTTP, and each try that fails takes its time.
    """

    variables: Path
    secure_boot: bool = True
    pxe: bool = True


@dataclass(frozen=True)
class KernelBoot:
    """Boot a kernel directly, without UEFI: quick, and no measure of Secure Boot."""

    kernel: Path
    initrd: Path | None = None
    command_line: str = "console=ttyS0 panic=-1"


@dataclass(frozen=True)
class MachineSpec:
    """A virtual machine; checked when made.

    :param name: also seeds the cards' addresses.
    :param directory: holds its logs and its TPM; must exist.
    :param memory: MiB.
    :param cpus: with more than one, machines emulated by QEMU 10 now and then stall: a sleeping CPU misses its timer.
    :param reboots: start again when the guest resets the machine, which ends it otherwise.
    :param disks: in the order of /dev/vda, vdb, ...
    :param tpm: whether it has a TPM, manufactured in ``directory``/tpm on the first boot.
    :param tpm_version: ``1.2`` is there to show what becomes of old machines, and has no endorsement key.
    :param tpm_ca: as ``ca`` of :func:`tpm.manufacture`.
    :param credentials: systemd credentials by name; handed over in files, so they show in no command line.
    :param kernel_arguments: added to the kernel command line; by systemd-stub(7) where there is one.
    :param ports: virtio-serial ports (/dev/virtio-ports/NAME) and the host files that what is written there goes to.
    :param unsafe_cache: do not wait for the host's disk; a crash of the host may cost the images.
    :param clock: what its hardware clock shows at power-on, as ``2026-11-23T12:00:00`` (UTC); the time unless set.
    :param interactive: give the terminal to the serial console and QEMU's monitor (Ctrl-A X ends, Ctrl-A H helps).
    :param restore: state saved by :meth:`machine.Machine.save` to continue from, instead of booting.
    :raises FleetError: a value QEMU or the guest could not use.
    """

    name: str
    directory: Path
    boot: UefiBoot | KernelBoot
    memory: int = 1024
    cpus: int = 1
    reboots: bool = False
    disks: tuple[Disk, ...] = ()
    nics: tuple[UserNic | SegmentNic, ...] = ()
    tpm: bool = False
    tpm_version: Literal["1.2", "2.0"] = "2.0"
    tpm_ca: Path | None = None
    credentials: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    kernel_arguments: str = ""
    ports: Mapping[str, Path] = field(default_factory=dict)
    unsafe_cache: bool = True
    clock: str | None = None
    interactive: bool = False
    restore: Path | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *self.credentials, *self.ports):
            self._require(NAME.fullmatch(name), "name", f"{name!r} is no simple name")
        self._require(self.directory.is_dir(), "directory", f"{self.directory} is not there")
        self._require(self.memory >= MEMORY_LEAST, "memory", f"less than {MEMORY_LEAST} MiB")
        self._require(self.cpus >= 1, "cpus", "less than one")
        self._require("\n" not in self.kernel_arguments, "kernel_arguments", "more than one line")
        for number, disk in enumerate(self.disks):
            self._check_disk(f"disks[{number}]", disk)
        for number, nic in enumerate(self.nics):
            self._check_nic(f"nics[{number}]", nic)

    def _check_disk(self, key: str, disk: Disk) -> None:
        self._require(disk.format in DISK_FORMATS, key, f"format {disk.format!r} is none of {', '.join(DISK_FORMATS)}")
        self._require(disk.serial is None or DISK_SERIAL.fullmatch(disk.serial), key, f"bad serial {disk.serial!r}")
        self._require(disk.base is None or disk.format == "qcow2", key, "only qcow2 has a base")

    def _check_nic(self, key: str, nic: UserNic | SegmentNic) -> None:
        self._require(nic.mac is None or MAC.fullmatch(nic.mac), key, f"bad address {nic.mac!r}")
        if isinstance(nic, UserNic):
            ports = [port for pair in nic.forwards.items() for port in pair]
        else:
            ports = [nic.port]
            self._require(_is_multicast(nic.group), key, f"{nic.group!r} is no IPv4 multicast address")
        for port in ports:
            self._require(0 < port < 65536, key, f"bad port {port}")

    def _require(self, condition: object, key: str, problem: str) -> None:
        if not condition:
            raise FleetError(problem, where=f"machine {self.name}: {key}")


def _is_multicast(address: str) -> bool:
    try:
        return ipaddress.IPv4Address(address).is_multicast
    except ValueError:
        return False
