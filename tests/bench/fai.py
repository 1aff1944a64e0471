#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an installation with FAI (fai-project.org) costs one virtual machine: CPU seconds of QEMU.

usage: tests/bench/fai.py [KERNEL [DIRECTORY]]

From power-on to the default target of the first boot from the disk, in the machine of tests/bench/install.py (1 CPU,
1 GiB, TPM, the same network card on the same kind of segment; a larger disk, since Debian would not fit), by HTTP boot
of its firmware, with an install server beside it whose own work is not in the figures. The server is Debian with FAI,
and its network has no way out; its nfsroot, and an archive with exactly the packages that are needed, are made in
DIRECTORY (default build/bench/fai, 0.7 GB; remove it to make them again) from this machine's apt mirrors. Root is
needed, for the namespaces of the server.

KERNEL     package of the installed server's kernel: linux-image-amd64 (default) or linux-image-cloud-amd64

The installed server has the packages of the product gateway, GRUB in place of systemd-boot, initramfs-tools, ext4, and
a LUKS volume for state with a key on the root file system. What is simpler than with us favours FAI:

- its kernel and initrd come as one EFI binary (ukify), since firmware fetches one file: no boot loader, no TFTP, no
  second DHCP, for the kernel has a fixed address;
- nothing is signed or measured, Secure Boot is off, no recovery key is kept anywhere;
- the nfsroot is a squashfs (zstd) fetched by HTTP, of Debian's list only what this installation needs;
- the kernel of the installer is that for virtual machines (cloud), which has a small initrd;
- packages by one call of apt, without documentation, and dpkg does not wait for the disk.
"""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from build import ROOT

sys.path.insert(0, str(ROOT / "build/collections"))
sys.path.insert(0, str(ROOT / "roles/enrolment/files/python"))
sys.path.insert(0, str(ROOT / "tests/support"))

from archive import write_archive
from hosts import Host, host, wait_for
from install import DEFAULT_TARGET, follow, line
from lab import within
from relay import relay
from stock import bootstrap

from ansible_collections.vauban.fleet.plugins.module_utils._image import apt, lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox, remove_tree
from ansible_collections.vauban.fleet.plugins.module_utils._vm import accel
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import segment_address
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import (
    Disk,
    MachineSpec,
    SegmentNic,
    UefiBoot,
)

CODENAME = "trixie"
KERNEL = "linux-image-amd64"  # as the product has it
SMALL_KERNEL = "linux-image-cloud-amd64"  # for virtual machines
MAC, HOST = "52:54:00:00:02:f1", "bench"
ADDRESS, MACHINE_ADDRESS = "10.9.0.1", "10.9.0.100"
TIMEOUT = 3600  # seconds, of one phase
DISK_SIZE = 3 << 30
SERVER = ("dnsmasq-base", "fai-server", "iproute2", "squashfs-tools", "tzdata", "zstd")
# Of the product gateway, what GRUB takes the place of.
WITHOUT = ("systemd-boot", "systemd-boot-efi", "systemd-boot-tools")
BOOT = ("dosfstools", "grub-efi-amd64", "initramfs-tools")
# Of Debian's /etc/fai/NFSROOT; the rest is for other disks, cards and mirrors, and for people who look on.
NFSROOT = (
    SMALL_KERNEL, "cryptsetup", "curl", "dosfstools", "dracut", "dracut-config-generic", "dracut-network",
    "isc-dhcp-client", "psmisc", "systemd-sysv", "util-linux-extra", "uuid-runtime", "zstd",
)  # fmt: skip
# What fai-make-nfsroot installs unasked.
UNASKED = ("dracut-live", "dracut-squash", "fai-nfsroot", "nfs-common")
# As fai-cd(8) leaves out of its images.
HIDDEN = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/cache/debconf", "var/lib/apt")
URL = f"http://{ADDRESS}"
UKI = "fai.efi"
# As much as firmware asks for (dnsmasq(8); UEFI specification, 24.7, "HTTP Boot"): one address, one file.
DHCP = (
    "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--interface=lan",
    "--leasefile-ro", f"--dhcp-range={MACHINE_ADDRESS},{MACHINE_ADDRESS},255.255.255.0",
    "--dhcp-match=set:http,option:client-arch,16", "--dhcp-option-force=tag:http,60,HTTPClient",
    f"--dhcp-boot=tag:http,{URL}/{UKI}",
)  # fmt: skip
WEB = (sys.executable, "-m", "http.server", "80", f"--bind={ADDRESS}", "--protocol=HTTP/1.1")
ARGUMENTS = (
    "console=ttyS0 no_timer_check panic=-1 net.ifnames=0"
    f" ip={MACHINE_ADDRESS}::{ADDRESS}:255.255.255.0:{HOST}:eth0:none root=live:{URL}/squash.img rd.neednet=1"
    f" rd.live.overlay.overlayfs=1 FAI_CONFIG_SRC={URL}/config.tar FAI_ACTION=install FAI_FLAGS=verbose,reboot"
    " STOP_ON_ERROR=100"
)
ETC_FAI = {
    "apt/sources.list": f"deb [trusted=yes] {URL}/archive {CODENAME} main\n",
    "nfsroot.conf": f'''\
FAI_DEBOOTSTRAP="{CODENAME} {URL}/archive"
FAI_DEBOOTSTRAP_OPTS="--variant=minbase --no-check-gpg"
FAI_ROOTPW='*'
NFSROOT=/srv/fai/nfsroot
TFTPROOT=/srv/fai/tftp
FAI_CONFIGDIR=/srv/fai/config
''',
    "NFSROOT": f"PACKAGES install-norec\n{' '.join(NFSROOT)}\n",
}
# The configuration space (fai-guide, "The configuration space and its subdirectories") without its packages.
CONFIGURATION = {
    "class/10-classes": "#!/bin/sh\necho BENCH\n",
    "class/BENCH.var": "FAI_KEEP_CRYPTKEYFILE=1\nLOGUSER=\nMAXPACKAGES=9999\nUTC=yes\n",
    "debconf/BENCH": "debconf debconf/frontend select Noninteractive\n",
    "disk_config/BENCH": """\
disk_config disk1 disklabel:gpt bootable:1 fstabkey:uuid
p=efi /boot/efi 128M vfat rw
p=swap swap 64M swap sw
p=state - 64M - -
p=root / 2G- ext4 rw,noatime,errors=remount-ro

disk_config cryptsetup
luks /srv disk1.3 ext4 rw,noatime lukscreateopts="--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
""",
    "hooks/updatebase.BENCH": """\
#!/bin/sh
echo force-unsafe-io > "$target/etc/dpkg/dpkg.cfg.d/unsafe-io"
printf 'path-exclude=%s\\n' '/usr/share/doc/*' '/usr/share/locale/*' '/usr/share/man/*' \
    > "$target/etc/dpkg/dpkg.cfg.d/documentation"
""",
    "scripts/BENCH/10-all": f"""\
#!/bin/bash
exec > /dev/console 2>&1
error=0
trap error=1 ERR
set -x
echo {HOST} > "$target/etc/hostname"
rm -f "$target/etc/dpkg/dpkg.cfg.d/unsafe-io" "$target/etc/resolv.conf"
printf '[Match]\\nType=ether\\n\\n[Network]\\nAddress={MACHINE_ADDRESS}/24\\n' \
    > "$target/etc/systemd/network/10-lan.network"
$ROOTCMD systemctl enable systemd-networkd
install -m 0400 "$LOGDIR"/crypt_dev_* "$target/etc/state.key"
sed -i "s#$LOGDIR/crypt_dev_[^[:space:]]*#/etc/state.key#" "$target/etc/crypttab"
printf '%s\\n' GRUB_TIMEOUT=0 GRUB_CMDLINE_LINUX_DEFAULT= \
    'GRUB_CMDLINE_LINUX="console=ttyS0 no_timer_check systemd.default_device_timeout_sec=900"' \
    >> "$target/etc/default/grub"
$ROOTCMD grub-install --target=x86_64-efi --removable --no-nvram
$ROOTCMD update-grub
exit $error
""",
}
# Phases, and what the console says when each has ended.
PHASES = {
    "firmware: network boot": r"Linux version",
    "kernel, initrd, download of the nfsroot": "Calling task_confdir",
    "configuration space, classes": "Calling task_partition",
    "partition": "Calling task_extrbase",
    "base system": "Calling task_updatebase",
    "indexes, update of the base": "Calling task_instsoft",
    "packages": "Calling task_configure",
    "scripts: network, state, boot loader": "Calling task_finish",
    "logs, end": "Rebooting .* now",
}
FAILED = (
    r"FATAL ERROR", r"\bERROR: ", r"Exit code task_", r"FAILED with exit code", r"Press <RETURN>", r"Kernel panic",
    r"[Ee]mergency [Mm]ode", r"Out of memory",
)  # fmt: skip


def make_archive(directory: Path, packages: Sequence[str]) -> None:
    """Fetch what nfsroot and installed server need, and lay it out for apt, unless it is there."""
    if (directory / "public/archive").exists():
        return
    mirrors = apt.host_mirrors()
    resolver = apt.Resolver(directory / "apt", CODENAME, mirrors)
    resolver.update()
    needed = {
        **resolver.resolve([*packages, KERNEL]),
        **resolver.resolve(["?priority(required)", "apt", *NFSROOT, *UNASKED]),
    }
    store = Store(directory / "store")
    store.fetch(list(needed.values()), mirrors)
    total = write_archive(directory / "public/new", CODENAME, needed.values(), [store])
    (directory / "public/new").rename(directory / "public/archive")
    remove_tree(store.root)
    print(f"archive: {len(needed)} packages, {total / 1e6:.0f} MB", flush=True)


def write_configuration(path: Path, packages: Sequence[str]) -> None:
    """The configuration space, as machines fetch it."""
    with tarfile.open(path, "w") as tar:
        listed = {"package_config/BENCH": f"PACKAGES install-norec\n{' '.join(packages)}\n"}
        for name, text in {**CONFIGURATION, **listed}.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755 if text.startswith("#!") else 0o644
            tar.addfile(member, io.BytesIO(text.encode()))


def make_server(tree: Path) -> None:
    """The root tree of the install server, unless it is there."""
    if tree.exists():
        return
    fresh = tree.with_name("server.new")
    remove_tree(fresh)
    bootstrap(fresh, variant="minbase", packages=SERVER)
    (fresh / "srv/fai").mkdir()
    fresh.rename(tree)


def make_nfsroot(server: Host, directory: Path) -> None:
    """Let the server make its nfsroot, in memory; keep it as one file, with kernel and initrd."""
    for name, text in ETC_FAI.items():
        server.write(f"/etc/fai/{name}", text)
    server("mount", "-t", "tmpfs", "tmpfs", "/srv/fai")
    squash = ["mksquashfs", "/srv/fai/nfsroot", "/srv/fai/squash.img", "-quiet", "-no-progress", "-comp", "zstd"]
    squash += ["-wildcards", "-e", *(f"{path}/*" for path in HIDDEN)]
    with (directory / "nfsroot.log").open("wb") as log:
        for command in (["fai-make-nfsroot", "-v", "-z"], squash):
            done = subprocess.run(server.argv(*command), stdout=log, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                sys.exit(f"{command[0]} failed. Remedy: read {log.name}")
    made = server.root / "srv/fai"
    for name in ("vmlinuz", "initrd.img"):
        (boot,) = (made / "tftp").glob(f"{name}-*")
        shutil.copyfile(boot, directory / name)
    shutil.copyfile(made / "squash.img", directory / "public/squash.new")
    (directory / "public/squash.new").rename(directory / "public/squash.img")
    server("umount", "/srv/fai")


def make_uki(sandbox: Sandbox, directory: Path) -> None:
    """Kernel, initrd and command line as one EFI binary, which nobody signs."""
    words = ["ukify", "build", "--linux=/run/fai/vmlinuz", "--initrd=/run/fai/initrd.img", f"--cmdline={ARGUMENTS}"]
    words.append(f"--output=/run/fai/public/{UKI}")
    sandbox.run(words, binds=[Bind(directory, "/run/fai", writable=True)])


@contextmanager
def running(directory: Path, sandbox: Sandbox, work: Path, segment: tuple[str, int]) -> Iterator[Host]:
    """The server in namespaces of its own; it gives addresses, and its files by HTTP."""
    with host("fai", sandbox.sdk, [directory / "server"], work) as server, ExitStack() as stack:
        namespace = Path(f"/proc/{server.pid}/ns/net")
        stack.enter_context(relay(namespace, "lan", *segment))
        server("ip", "link", "set", "lo", "up")
        server("ip", "address", "add", f"{ADDRESS}/24", "dev", "lan")
        stack.enter_context(server.running(*DHCP, log=work / "dhcp.log"))
        log = stack.enter_context((work / "web.log").open("wb"))
        words = ["nsenter", f"--net={namespace}", *WEB, f"--directory={directory / 'public'}"]
        web = stack.enter_context(subprocess.Popen(words, stdout=log, stderr=log))
        stack.callback(web.terminate)
        wait_for(lambda: within(namespace, _answers), f"the server; see {work}")
        yield server


def _answers() -> bool:
    with suppress(OSError):
        socket.create_connection((ADDRESS, 80)).close()
        return True
    return False


def install(directory: Path, work: Path, sandbox: Sandbox, segment: tuple[str, int]) -> None:
    """Install one machine, print a line for each phase."""
    accelerator = accel.detect(sandbox, smm=True)
    print(f"accelerator: {accelerator.option}\n{'phase':<45} {'CPU s':>7} {'wall s':>7}", flush=True)
    disk, variables = work / "disk.raw", work / "variables.fd"
    with disk.open("wb") as stream:
        stream.truncate(DISK_SIZE)
    create_vars(sandbox, variables)
    spec = MachineSpec(
        "fai",
        work,
        UefiBoot(variables, pxe=False),
        disks=(Disk(disk, serial="system", bootindex=1),),
        nics=(SegmentNic(*segment, mac=MAC, bootindex=0),),
        tpm=True,
    )
    with Machine(spec, sandbox, accelerator=accelerator) as machine:
        installing = follow(machine, PHASES, FAILED, TIMEOUT)
        machine.wait_exit(TIMEOUT)
    installed = replace(spec, nics=(SegmentNic(*segment, mac=MAC),))
    start = time.monotonic()
    with Machine(installed, sandbox, accelerator=accelerator) as machine:
        machine.serial.wait_for(DEFAULT_TARGET, timeout=TIMEOUT, fail_on=FAILED)
        line("first boot from the disk", machine.cpu_seconds(), time.monotonic() - start)
    line("power-on to the default target", installing + machine.cpu_seconds(), 0)
    disk.unlink()


def main() -> None:
    """Make what is missing, measure one installation."""
    kernel = sys.argv[1] if len(sys.argv) > 1 else KERNEL
    directory = Path(sys.argv[2] if len(sys.argv) > 2 else ROOT / "build/bench/fai").resolve()
    if kernel not in (KERNEL, SMALL_KERNEL):
        sys.exit(f"{kernel}: none of the kernels in the archive. Remedy: give {KERNEL} or {SMALL_KERNEL}")
    (directory / "public").mkdir(parents=True, exist_ok=True)
    image = directory / "public/squash.img"
    chosen = [each.name for each in lock.read(ROOT / f"files/lock/{CODENAME}.lock.json").of_set("gateway")]
    packages = sorted({*chosen, *BOOT} - {*WITHOUT})
    make_archive(directory, packages)
    write_configuration(directory / "public/config.tar", [*packages, kernel])
    make_server(directory / "server")
    with tempfile.TemporaryDirectory(prefix="bench-fai-") as name:
        work = Path(name)
        (work / "mounts").mkdir()
        remove_tree(directory / "machine")
        (directory / "machine").mkdir()
        sandbox = Sandbox((ROOT / "build/sdk/current").resolve(), work / "mounts")
        segment = segment_address(name)
        with running(directory, sandbox, work / "server", segment) as server:
            if not image.exists():
                make_nfsroot(server, directory)
            make_uki(sandbox, directory)
            install(directory, directory / "machine", sandbox, segment)


if __name__ == "__main__":
    main()
