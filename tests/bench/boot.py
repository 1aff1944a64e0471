#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What power-on to default target costs beside a stock Debian cloud image: CPU seconds of QEMU under emulation.

usage: tests/bench/boot.py [DIRECTORY]

Both sides run in the same machine (2 CPUs, 1 GiB, one network card, TPM, the same OVMF) one after the other, each
started twice and switched off by the power button; the clock stops at the line "Reached target multi-user.target" on
the serial console.

ours   the built product gateway: Secure Boot on, state volume unsealed by the TPM.
stock  Debian trixie as its "genericcloud" image is made: packages of priority important and the list below, the cloud
       kernel, initramfs-tools, GRUB and shim, ext4, systemd-networkd by netplan. Built in DIRECTORY (default
       build/bench) from this machine's apt mirrors, since the published image lies elsewhere. Secure Boot is off, and
       GRUB's menu waits for nobody. No data source is offered, so that cloud-init disables itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from build import ROOT

sys.path.insert(0, str(ROOT / "build/collections"))
sys.path.insert(0, str(ROOT / "tests/support"))

from stock import bootstrap, lay_down

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox, remove_tree
from ansible_collections.vauban.fleet.plugins.module_utils._vm import accel, installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, UefiBoot, UserNic

RELEASE = ROOT / "build/gateway/current"
DEFAULT_TARGET = r"Reached target .*multi-user\.target"
BOOTS = 2
TIMEOUT = 900  # seconds
SETTLE = 30
PACKAGES = (
    "apparmor", "apt-listchanges", "bash-completion", "bind9-host", "ca-certificates", "cloud-guest-utils",
    "cloud-init", "curl", "dbus", "dosfstools", "ethtool", "gdisk", "grub-efi-amd64-signed", "iputils-ping", "less",
    "libpam-systemd", "linux-image-cloud-amd64", "locales-all", "lsb-release", "man-db", "netplan.io",
    "openssh-client", "openssh-server", "pciutils", "polkitd", "python3", "qemu-guest-agent", "rsyslog", "screen",
    "shim-signed", "socat", "sudo", "systemd-resolved", "systemd-timesyncd", "unattended-upgrades", "uuid-runtime",
    "vim", "wget",
)  # fmt: skip
FILES = {
    "etc/fstab": "LABEL=stock / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n",
    "etc/hostname": "stock\n",
    "etc/netplan/90-default.yaml": (
        "network: {version: 2, ethernets: {all-en: {match: {name: en*}, dhcp4: true, dhcp6: true}}}\n"
    ),
    "grub.cfg": (
        "search --no-floppy --label --set=root stock\n"
        "linux /vmlinuz root=LABEL=stock ro console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0\n"
        "initrd /initrd.img\nboot\n"
    ),
}
PARTITIONS = {
    "10-esp.conf": """\
[Partition]
Type=esp
Format=vfat
SizeMinBytes=64M
CopyFiles=/usr/lib/shim/shimx64.efi.signed:/EFI/BOOT/BOOTX64.EFI
CopyFiles=/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed:/EFI/BOOT/grubx64.efi
CopyFiles=/grub.cfg:/EFI/debian/grub.cfg
""",
    "20-root.conf": """\
[Partition]
Type=root
Label=stock
Format=ext4
SizeMinBytes=3G
CopyFiles=/
""",
}


def make_stock(directory: Path, sandbox: Sandbox) -> Path:
    """Build the stock image, unless it is there."""
    image = directory / "stock.raw"
    if image.exists():
        return image
    tree, definitions = directory / "stock-tree", directory / "stock-partitions"
    remove_tree(tree)
    bootstrap(tree, variant="important", packages=PACKAGES)
    lay_down(tree, FILES)
    for name in ("vmlinuz", "initrd.img"):  # links into /boot, which systemd-repart(8) leaves to the ESP
        real = tree / os.readlink(tree / name)
        (tree / name).unlink()
        shutil.copyfile(real, tree / name)
    definitions.mkdir(exist_ok=True)
    for name, text in PARTITIONS.items():
        (definitions / name).write_text(text)
    command = ["systemd-repart", "--offline=yes", "--empty=create", "--size=auto", "--definitions=/run/definitions"]
    binds = [Bind(definitions, "/run/definitions"), Bind(tree, "/run/tree"), Bind(directory, "/run/out", writable=True)]
    command += ["--sector-size=512", "--copy-source=/run/tree", "/run/out/stock.new"]
    sandbox.run(command, binds=binds, privileged=True, env={"SYSTEMD_REPART_MKFS_OPTIONS_EXT4": "-L stock"})
    (directory / "stock.new").rename(image)
    remove_tree(tree)
    return image


def stock_machine(directory: Path, image: Path, sandbox: Sandbox) -> MachineSpec:
    """A machine that starts a copy of the stock image."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    disk, variables = directory / installed.DISK, directory / installed.VARIABLES
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, disk], check=True)
    create_vars(sandbox, variables)
    return MachineSpec("stock", directory, UefiBoot(variables), disks=(Disk(disk, serial="system"),), tpm=True)


def our_machine(directory: Path, sandbox: Sandbox) -> MachineSpec:
    """A copy of the machine that the build installed."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return installed.copy_of(sandbox, RELEASE.resolve() / "machine", directory)


def measure(name: str, spec: MachineSpec, sandbox: Sandbox, accelerator: accel.Accelerator) -> None:
    """Start the machine BOOTS times, print a line each."""
    for number in range(BOOTS):
        start = time.monotonic()
        with Machine(replace(spec, nics=(UserNic(),)), sandbox, accelerator=accelerator) as machine:
            machine.serial.wait_for(DEFAULT_TARGET, timeout=TIMEOUT)
            cpu, wall = machine.cpu_seconds(), time.monotonic() - start
            time.sleep(SETTLE)  # whoever listens to the power button may not have started yet
            machine.power_off(TIMEOUT)
        print(f"{name:<8} {number + 1:>5} {cpu:>8.1f} {wall:>8.1f}", flush=True)


def main() -> None:
    """Build what is missing, measure both, print a table."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/bench").resolve()
    mounts = directory / "mounts"
    mounts.mkdir(parents=True, exist_ok=True)
    sandbox = Sandbox((ROOT / "build/sdk/current").resolve(), mounts)
    image = make_stock(directory, sandbox)
    accelerator = accel.tcg("asked for")
    print(f"{'image':<8} {'boot':>5} {'CPU s':>8} {'wall s':>8}")
    measure("stock", stock_machine(directory / "stock", image, sandbox), sandbox, accelerator)
    measure("ours", our_machine(directory / "ours-boot", sandbox), sandbox, accelerator)


if __name__ == "__main__":
    main()
