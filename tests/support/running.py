# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd of a root tree as the first process of namespaces, so that units run with all that confines them.

The machine is kept from harm: no right to set the clock, load modules, reboot or change audit, settings of the kernel
read-only, no devices but the harmless ones, and none of the units that work on the kernel.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hosts
import pytest
from hosts import Host

FORBIDDEN = ("sys_time", "sys_module", "sys_boot", "sys_rawio", "audit_control", "audit_read", "syslog", "mac_admin")
MASKED = (
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-random-seed.service",
    "systemd-networkd.service",
    "systemd-remount-fs.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "lvm2-monitor.service",
    "lvm2-lvmpolld.socket",
    "dm-event.socket",
    "nftables.service",
    "modprobe@.service",
    "tmp.mount",
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def cgroups() -> Path:
    """Where control groups (version 2) are mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, place, kind, options, *_others = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    pytest.skip("no control groups (version 2) that can be written: systemd needs them")


@contextmanager
def booted(name: str, lower: Sequence[Path], directory: Path) -> Iterator[Host]:
    """A host whose first process is systemd; it has started nothing but what each system has."""
    for part in ("upper/etc/systemd/system", "work", "root"):
        (directory / part).mkdir(parents=True)
    (directory / "upper").chmod(0o755)
    (directory / "upper/etc").chmod(0o755)
    units = directory / "upper/etc/systemd/system"
    for unit in MASKED:
        (units / unit).symlink_to("/dev/null")
    (units / "proof.target").write_text("[Unit]\nRequires=basic.target\nAfter=basic.target\n")
    (directory / "upper/etc/machine-id").write_text(f"{hosts.MACHINE_ID}\n")
    group = cgroups() / f"fleet-test-{os.getpid()}-{name}"
    group.mkdir()
    script = _script(directory, lower, group)
    words = ["unshare", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "sh", "-euc", script]
    with (directory / "console").open("wb") as console:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    try:
        hosts.wait_for(lambda: bool(hosts.descendants(process.pid)), "the namespaces")
        host = Host(name, hosts.descendants(process.pid)[0], directory / "upper")
        up = ["systemctl", "is-active", "proof.target"]
        hosts.wait_for(lambda: host.ask(*up).stdout == "active\n", f"systemd (see {directory}/console)", within=60)
        yield host
    finally:
        for pid in (*hosts.descendants(process.pid)[:1], process.pid):
            os.kill(pid, signal.SIGKILL)  # the first process takes all others with it
        process.wait(hosts.WITHIN)
        for below, _names, _files in os.walk(group, topdown=False):
            hosts.wait_for(lambda below=below: _removed(Path(below)), f"the end of {below}")  # type: ignore[misc]


def _script(directory: Path, lower: Sequence[Path], group: Path) -> str:
    root = directory / "root"
    layers = f"lowerdir={':'.join(map(str, lower))},upperdir={directory}/upper,workdir={directory}/work"
    inner = [
        f"mount -t cgroup2 none {root}/sys/fs/cgroup",
        f"mount -t tmpfs -o mode=0755 tmpfs {root}/run",
        f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
        f"mount -t tmpfs -o mode=0755 tmpfs {root}/dev",
        *(f"touch {root}/dev/{device}; mount --bind /dev/{device} {root}/dev/{device}" for device in DEVICES),
        f"mkdir {root}/dev/pts {root}/dev/shm; mount -t devpts -o newinstance,ptmxmode=0666 devpts {root}/dev/pts",
        f"ln -s pts/ptmx {root}/dev/ptmx",
        f"mount --bind {root}/proc/sys {root}/proc/sys; mount -o remount,bind,ro {root}/proc/sys",
        "ip link set lo up",
        f"exec env -i container=fleet-test PATH=/usr/sbin:/usr/bin setpriv"
        f" --bounding-set=-{',-'.join(FORBIDDEN)} --inh-caps=-all"
        f" chroot {root} /usr/lib/systemd/systemd --system --unit=proof.target --show-status=no",
    ]
    outer = [
        "mount --make-rprivate /",
        f"mount -t overlay -o {layers} overlay {root}",
        f"mount -t proc proc {root}/proc",
        f"mount -t sysfs -o ro sysfs {root}/sys",
        f"echo 0 > {group}/cgroup.procs",
        f"exec unshare --cgroup sh -euc {shlex.quote('; '.join(inner))}",
    ]
    return "; ".join(outer)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return not group.exists()
    return True
