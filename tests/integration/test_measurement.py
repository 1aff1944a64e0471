# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Expected PCR values against those of a TPM: real firmware, Secure Boot, systemd-boot and a UKI of the SDK.

The kernel in the UKI is a program of a few instructions, so nothing has to be built and each boot takes seconds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._boot import measurement, signing, uki
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._boot.uki import UkiRequest
from ansible_collections.vauban.fleet.plugins.module_utils._image import installation_medium
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import firmware
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import free_port
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, UefiBoot, UserNic

OWNER = "5f9c1a3e-7d0b-4d54-9d0e-2b8f5f0c6a11"
BOOT_LOADER = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
MARKER = "kernel was started"
BOOT_TIMEOUT = 120.0  # seconds; an idle host needs 8

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")


@dataclass(frozen=True)
class Boot:
    """Signed binaries, and what the machines that start them need."""

    loader: Path
    uki: Path
    pcr11: str
    keys: firmware.SecureBootKeys


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(SDK, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def boot(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Boot:
    directory = tmp_path_factory.mktemp("boot")
    here = [Bind(directory, "/run/keys", writable=True)]
    for name in ("PK", "db", "pcr"):
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        sandbox.run([*words, "-keyout", f"/run/keys/{name}.key", "-out", f"/run/keys/{name}.crt"], binds=here)
    words = ["openssl", "x509", "-in", "/run/keys/pcr.crt", "-pubkey", "-noout", "-out", "/run/keys/pcr.pub"]
    sandbox.run(words, binds=here)
    sandbox.run(["cp", BOOT_LOADER, "/run/keys/systemd-boot"], binds=here)
    (directory / "linux").write_bytes(kernel())
    (directory / "initrd").write_bytes(b"initrd")
    request = UkiRequest(
        linux=directory / "linux",
        initrd=directory / "initrd",
        command_line=["quiet"],
        os_release="ID=test\n",
        uname="6.12.0",
        pcr_keys=[(KeyReference(str(directory / "pcr.key")), directory / "pcr.pub")],
        pcr_public=directory / "pcr.pub",
    )
    phases = uki.build(sandbox, request, directory / "unsigned.efi", epoch=0, log=directory / "log")
    key, certificate = KeyReference(str(directory / "db.key")), directory / "db.crt"
    signing.sign_pe(sandbox, directory / "unsigned.efi", directory / "uki.efi", key, certificate)
    signing.sign_pe(sandbox, directory / "systemd-boot", directory / "loader.efi", key, certificate)
    keys = firmware.SecureBootKeys(directory / "PK.crt", directory / "PK.crt", (certificate,), OWNER)
    return Boot(directory / "loader.efi", directory / "uki.efi", phases[uki.UNSEALING_PHASE], keys)


def kernel() -> bytes:
    """An EFI application that prints :data:`MARKER` on the first serial port and stays (PE format)."""
    code = bytes.fromhex(
        "66baf803"  # mov dx, 0x3f8
        "488d350a000000"  # lea rsi, [rip + 10]: what follows the code
        "ac"  # next: lodsb
        "84c0"  # test al, al
        "7403"  # jz stay
        "ee"  # out dx, al
        "ebf8"  # jmp next
        "ebfe"  # stay: jmp stay
    )
    section = (code + f"{MARKER}\n\0".encode()).ljust(0x200, b"\0")
    headers = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    headers += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, 1, 0, 0, 0, 240, 0x22)
    headers += struct.pack("<HBBIIIII", 0x20B, 0, 0, len(section), 0, 0, 0x1000, 0x1000)
    # Image version 1: it takes its initrd by the protocol of Linux 5.8, so the stub calls its entry point.
    headers += struct.pack("<QIIHHHHHHIIIIHH", 0, 0x1000, 0x200, 0, 0, 1, 0, 0, 0, 0, 0x2000, 0x200, 0, 10, 0x100)
    headers += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    headers += struct.pack("<8sIIIIIIHHI", b".text", 0x200, 0x1000, 0x200, 0x200, 0, 0, 0, 0, 0x60000020)
    return headers.ljust(0x200, b"\0") + section


def write_disk(sandbox: Sandbox, disk: Path, files: Mapping[str, Path]) -> None:
    """An EFI system partition with these files, without a partition table."""
    with disk.open("wb") as stream:
        stream.truncate(16 << 20)
    binds = [Bind(disk, "/run/disk", writable=True)]
    script = ["mkfs.vfat /run/disk", "mmd -i /run/disk ::EFI ::EFI/BOOT ::EFI/Linux"]
    for number, (name, source) in enumerate(files.items()):
        binds.append(Bind(source, f"/run/file{number}"))
        script.append(f"mcopy -i /run/disk /run/file{number} ::{name}")
    sandbox.run(["sh", "-euc", "\n".join(script)], binds=binds)


@contextmanager
def web_server(directory: Path) -> Iterator[str]:
    """Serve a directory to virtual machines; yields the address that they reach it at (QEMU, "Network emulation")."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://10.0.2.2:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def registers_after_boot(
    sandbox: Sandbox, boot: Boot, directory: Path, *, disk: Path | None = None, uri: str | None = None
) -> set[str]:
    """Start a machine from a disk or from the network; return values of its TPM's SHA-256 registers.

    They come from the machine's saved state, where libtpms puts algorithm (TPM_ALG_SHA256) and size before each value:
    nothing else can reach a TPM that a guest uses. Memory that looks the same may add values that are none.
    """
    firmware.create_vars(sandbox, directory / "vars.fd", keys=boot.keys, boot_uri=uri)
    spec = MachineSpec("measured", directory, UefiBoot(directory / "vars.fd"), memory=256, tpm=True)
    if disk is not None:
        spec = replace(spec, disks=(Disk(disk),))
    if uri is not None:
        port = free_port()
        assert port is not None
        spec = replace(spec, nics=(UserNic({port: 9}, restrict=False),))
    with Machine(spec, sandbox) as machine:
        machine.serial.wait_for(MARKER, timeout=BOOT_TIMEOUT)
        machine.save(directory / "state")
    found = re.findall(rb"(?=\x00\x0b\x00\x20(.{32}))", (directory / "state").read_bytes(), re.DOTALL)
    return {value.hex() for value in found}


def test_boot_loader_starts_uki(sandbox: Sandbox, boot: Boot, tmp_path: Path) -> None:
    files = {"EFI/BOOT/BOOTX64.EFI": boot.loader, "EFI/Linux/uki.efi": boot.uki}
    write_disk(sandbox, tmp_path / "disk.img", files)
    registers = registers_after_boot(sandbox, boot, tmp_path, disk=tmp_path / "disk.img")

    assert measurement.boot_pcr([boot.loader, boot.uki]) in registers
    assert measurement.boot_pcr([boot.uki]) not in registers
    assert boot.pcr11 in {uki.extend(value, uki.UNSEALING_PHASE) for value in registers}


def test_firmware_starts_uki(sandbox: Sandbox, boot: Boot, tmp_path: Path) -> None:
    write_disk(sandbox, tmp_path / "disk.img", {"EFI/BOOT/BOOTX64.EFI": boot.uki})
    registers = registers_after_boot(sandbox, boot, tmp_path, disk=tmp_path / "disk.img")

    assert measurement.boot_pcr([boot.uki]) in registers
    assert boot.pcr11 in {uki.extend(value, uki.UNSEALING_PHASE) for value in registers}


def test_firmware_starts_uki_from_an_installation_medium(sandbox: Sandbox, boot: Boot, tmp_path: Path) -> None:
    """Whose partition table and whose other file are measured in no register that a server demands."""
    image = tmp_path / "medium.img"
    installation_medium.write(sandbox, boot.uki, "# nobody has an address\n", image)
    registers = registers_after_boot(sandbox, boot, tmp_path, disk=image)

    assert measurement.boot_pcr([boot.uki]) in registers
    assert boot.pcr11 in {uki.extend(value, uki.UNSEALING_PHASE) for value in registers}
    binds = [Bind(image, "/run/image"), Bind(tmp_path, "/run/out", writable=True)]
    sandbox.run(["mcopy", "-i", "/run/image@@1M", f"::{installation_medium.LOADER}", "/run/out/read.efi"], binds=binds)
    binds.append(Bind(boot.keys.db[0], "/run/db"))
    sandbox.run(["sbverify", "--cert", "/run/db", "/run/out/read.efi"], binds=binds)


def test_firmware_starts_uki_from_the_network(sandbox: Sandbox, boot: Boot, tmp_path: Path) -> None:
    """UEFI HTTP boot, as an installer starts. An empty disk is there and must not be tried before."""
    write_disk(sandbox, tmp_path / "disk.img", {})
    with web_server(boot.uki.parent) as address:
        uri = f"{address}/{boot.uki.name}"
        registers = registers_after_boot(sandbox, boot, tmp_path, disk=tmp_path / "disk.img", uri=uri)

    assert measurement.boot_pcr([boot.uki]) in registers
    assert boot.pcr11 in {uki.extend(value, uki.UNSEALING_PHASE) for value in registers}
