# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.common.text.formatters import human_to_bytes

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import (
    MAC,
    Disk,
    KernelBoot,
    MachineSpec,
    SegmentNic,
    UefiBoot,
    UserNic,
)

MEBIBYTE = 1024 * 1024
LOOPBACK = "127.0.0.1"
VARIABLES = "variables.fd"
# Of a segment's multicast address: the administratively scoped block (RFC 2365), and ports no service has.
_SEGMENT_PORTS = range(20000, 32000)


@dataclass(frozen=True)
class Options:
    """A machine as a user asks for it, checked.

    :param values: the options that a running machine must have been started with, as plain data.
    :param inputs: files the machine only reads.
    """

    name: str
    directory: Path
    values: Mapping[str, Any]

    @classmethod
    def parse(cls, parameters: Mapping[str, Any]) -> Options:
        """Check the parameters of module ``qemu_vm``.

        :raises FleetError: names the option, and where there is one the file.
        """
        directory = Path(parameters["directory"])
        _require(directory.is_absolute(), "directory", f"{directory} is no absolute path")
        values = {name: parameters[name] for name in ("cpus", "reboots", "tpm", "accelerator")}
        values["memory"] = _bytes("memory", parameters["memory"]) // MEBIBYTE
        values["disks"] = [_disk(f"disks[{number}]", disk) for number, disk in enumerate(parameters["disks"])]
        values["networks"] = [
            _network(f"networks[{number}]", network) for number, network in enumerate(parameters["networks"])
        ]
        values["boot"] = _boot(parameters)
        options = cls(parameters["name"], directory, values)
        options._check()
        return options

    @property
    def inputs(self) -> list[Path]:
        """Files that the machine only reads, and that must not change under it."""
        boot = self.values["boot"]
        names = [boot.get("kernel"), boot.get("initrd"), *(disk["src"] for disk in self.values["disks"])]
        return [Path(name) for name in names if name]

    @property
    def forwards(self) -> list[tuple[int, int | None]]:
        """Guest port and wished host port of every forwarded port, in order."""
        pairs = [pair for network in self.values["networks"] for pair in network["forwards"]]
        return [(pair["guest"], pair["host"]) for pair in pairs]

    def disk_path(self, number: int) -> Path:
        """What the machine writes to, in its own directory."""
        return self.directory / f"disk{number}.qcow2"

    def spec(self, ports: Mapping[int, int], *, restore: Path | None = None) -> MachineSpec:
        """The machine to start; its directory and its files must be there.

        :param ports: host port by guest port.
        """
        boot = self.values["boot"]
        return MachineSpec(
            name=self.name,
            directory=self.directory,
            boot=(
                KernelBoot(Path(boot["kernel"]), Path(boot["initrd"]) if boot["initrd"] else None, boot["command_line"])
                if "kernel" in boot
                else UefiBoot(self.directory / VARIABLES, secure_boot=boot["secure_boot"])
            ),
            memory=self.values["memory"],
            cpus=self.values["cpus"],
            reboots=self.values["reboots"],
            disks=tuple(self._disk(number, disk) for number, disk in enumerate(self.values["disks"])),
            nics=tuple(_nic(network, ports) for network in self.values["networks"]),
            tpm=self.values["tpm"],
            restore=restore,
        )

    def _disk(self, number: int, disk: Mapping[str, Any]) -> Disk:
        if disk["readonly"]:
            return Disk(Path(disk["src"]), disk["format"], readonly=True, serial=disk["serial"])
        base = Path(disk["src"]) if disk["src"] else None
        return Disk(self.disk_path(number), "qcow2", serial=disk["serial"], base=base)

    def _check(self) -> None:
        """Let the specification check the rest; it wants a directory that is there."""
        ports = {guest: host or 1 for guest, host in self.forwards}
        _require(len(ports) == len(self.forwards), "networks", "a port of the guest is forwarded twice")
        wished = [host for _guest, host in self.forwards if host]
        _require(len(set(wished)) == len(wished), "networks", "two forwards have the same host port")
        probe = Options(self.name, Path("/"), self.values).spec(ports)
        if probe.name != self.name:
            raise AssertionError(probe.name)


def _boot(parameters: Mapping[str, Any]) -> dict[str, Any]:
    firmware, kernel = parameters["firmware"], parameters["kernel"]
    if kernel is None:
        _require(firmware is not None, "kernel", "neither a kernel nor a firmware to boot")
        _require(
            parameters["initrd"] is None and parameters["command_line"] is None,
            "initrd, command_line",
            "only a kernel has them, and there is none",
        )
        keys = firmware["keys"]
        _require(not firmware["secure_boot"] or keys, "firmware.secure_boot", "nothing can be enforced without keys")
        _require(not keys or (Path(keys) / "PK.crt").is_file(), "firmware.keys", f"{keys} is no directory of keys")
        return {"secure_boot": bool(firmware["secure_boot"]), "keys": keys}
    _require(firmware is None, "firmware", "a kernel that is booted directly needs none")
    for name in ("kernel", "initrd"):
        path = parameters[name]
        _require(path is None or Path(path).is_file(), name, f"{path} is not there")
    line = parameters["command_line"] if parameters["command_line"] is not None else KernelBoot.command_line
    _require("\n" not in line, "command_line", "more than one line")
    return {"kernel": kernel, "initrd": parameters["initrd"], "command_line": line}


def _disk(key: str, disk: Mapping[str, Any]) -> dict[str, Any]:
    src, size = disk["src"], disk["size"]
    _require(bool(src) != bool(size), key, "exactly one of src and size is needed")
    _require(not (size and disk["readonly"]), f"{key}.readonly", "a new disk is empty and would stay so")
    _require(not src or Path(src).exists(), f"{key}.src", f"{src} is not there")
    # What a chain of images needs is only known to who made it; raw ones are complete.
    _require(disk["format"] == "raw" or disk["readonly"], f"{key}.format", "only a raw image can be written over")
    size = _bytes(f"{key}.size", size) if size else None
    return {**{name: disk[name] for name in ("src", "format", "readonly", "serial")}, "size": size}


def _network(key: str, network: Mapping[str, Any]) -> dict[str, Any]:
    kind, mac = network["kind"], network["mac"]
    if mac is not None and not MAC.fullmatch(mac.lower()):
        remedy = "write it in quotes: YAML takes digits with colons for a number" if mac.isdecimal() else None
        raise FleetError(f"{mac!r} is no address like 52:54:00:12:34:56", where=f"{key}.mac", remedy=remedy)
    segment = network["segment"]
    _require((kind == "segment") == bool(segment), f"{key}.segment", "a segment, and nothing else, has a name")
    _require(kind == "user" or not network["forwards"], f"{key}.forwards", "only kind user forwards ports")
    _require(kind == "user" or not network["outside"], f"{key}.outside", "nothing leaves a segment")
    forwards = [{"guest": pair["guest"], "host": pair["host"]} for pair in network["forwards"]]
    for pair in forwards:
        bad = [port for port in pair.values() if port is not None and not 0 < port < 65536]
        _require(not bad, f"{key}.forwards", f"{bad} is no port")
    lowered = mac.lower() if mac else None
    return {"kind": kind, "mac": lowered, "segment": segment, "outside": network["outside"], "forwards": forwards}


def _nic(network: Mapping[str, Any], ports: Mapping[int, int]) -> UserNic | SegmentNic:
    if network["kind"] == "segment":
        group, port = segment_address(network["segment"])
        return SegmentNic(group, port, network["mac"])
    forwards = {ports[pair["guest"]]: pair["guest"] for pair in network["forwards"]}
    return UserNic(forwards, restrict=not network["outside"], mac=network["mac"])


def segment_address(name: str) -> tuple[str, int]:
    """Multicast group and port that stand for a named segment on this host."""
    digest = hashlib.sha256(name.encode()).digest()
    port = _SEGMENT_PORTS[int.from_bytes(digest[3:5], "big") % len(_SEGMENT_PORTS)]
    return f"239.{digest[0]}.{digest[1]}.{digest[2]}", port


def free_port(wished: int | None = None) -> int | None:
    """A TCP port of the loopback that nobody listens on: the wished one, or any; None if the wished one is taken."""
    with socket.socket(socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, wished or 0))
        except OSError:
            return None
        return int(listener.getsockname()[1])


def _bytes(key: str, text: str) -> int:
    try:
        size = int(human_to_bytes(text))
    except ValueError:
        raise FleetError(f"{text!r} is no size like 512M or 2G", where=key) from None
    _require(size > 0 and size % MEBIBYTE == 0, key, f"{text!r} is no whole number of MiB; sizes look like 512M or 2G")
    return size


def _require(condition: object, key: str, problem: str) -> None:
    if not condition:
        raise FleetError(problem, where=key)
