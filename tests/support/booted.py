# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A root tree with its own systemd running, in namespaces: units with all that confines them, without a kernel or disk.

It starts in about two seconds and lies in memory. The kernel is that of the machine that runs the test, which is kept
from harm: no right to set the clock, load modules, reboot or change audit, settings of the kernel read-only but for
those of the network, which is its own, no devices but the harmless ones, and none of the units that work on the kernel.
Whatever way the test ends, it ends too, and leaves nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import hosts
import pytest
from hosts import Host

_FORBIDDEN = ("sys_time", "sys_module", "sys_boot", "sys_rawio", "audit_control", "audit_read", "syslog", "mac_admin")
_MASKED = (
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udev-trigger.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "lvm2-monitor.service",
    "lvm2-lvmpolld.socket",
    "dm-event.socket",
    "modprobe@.service",
    "tmp.mount",
)
# Arguments: a directory, the root trees, a machine id, and then the units that are not to run.
_BOOT = f"""
mount --make-rprivate /
directory=$1 lower=$2 id=$3
shift 3
mount -t tmpfs -o mode=0755 tmpfs "$directory"
cd "$directory"
mkdir upper work root
mount -t overlay -o "lowerdir=$lower,upperdir=upper,workdir=work" overlay root
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=0755 tmpfs dev
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/hugepages dev/mqueue dev/net dev/pts dev/shm
mknod -m 0666 dev/net/tun c 10 200
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
mount --bind -o ro proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
rm -f etc/fstab
echo "$id" > etc/machine-id
mkdir -p etc/systemd/system
for unit; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
# The roles' users are there; nothing else of what a first start makes is missed.
chroot . /usr/bin/systemd-sysusers 2> /dev/null
touch etc/.updated var/.updated
ip link set lo up
pivot_root . mnt
umount --lazy mnt
# As on a machine, where systemd does it.
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin setpriv --bounding-set=-{",-".join(_FORBIDDEN)} --inh-caps=-all \
    /usr/lib/systemd/systemd --system --unit=basic.target --show-status=no
"""


class Booted(Host):
    """A host whose first process is systemd."""

    def __call__(self, *command: str, user: str | None = None, stdin: str = "") -> str:
        """The output of a command that must succeed."""
        done = self.ask(*command, user=user, stdin=stdin)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}{self.journal()}"
        return done.stdout

    def state(self, unit: str) -> str:
        """What systemd calls the state of a unit."""
        return self.ask("systemctl", "is-active", unit).stdout.strip()

    def journal(self) -> str:
        """The last messages."""
        return self.ask("journalctl", "--no-pager", "--lines=40").stdout


@contextmanager
def booted(name: str, lower: Sequence[Path], directory: Path) -> Iterator[Booted]:
    """A machine that has started nothing but what each system has. Skips where that is impossible, and says why.

    :param lower: read-only trees, the topmost first.
    :param directory: must not exist; it is empty afterwards.
    """
    hosts.require()
    group = _control_groups() / f"fleet-test-{os.getpid()}-{name}"
    directory.mkdir(parents=True)
    group.mkdir()
    join = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
    argv = ["sh", "-euc", join, "sh", str(group), "setpriv", "--pdeathsig=KILL"]
    argv += ["unshare", "--mount", "--net", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child=KILL"]
    layers = ":".join(str(tree.resolve()) for tree in lower)
    argv += ["sh", "-euc", _BOOT, "sh", str(directory), layers, hosts.MACHINE_ID, *_MASKED]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield _wait(name, process)
    finally:
        process.kill()
        process.communicate()
        for below, _names, _files in os.walk(group, topdown=False):
            hosts.wait_for(lambda below=below: _removed(Path(below)), f"the end of {below}")  # type: ignore[misc]


def _wait(name: str, process: subprocess.Popen[bytes]) -> Booted:
    hosts.wait_for(lambda: process.poll() is not None or _first(process.pid) is not None, "systemd", within=60)
    first = _first(process.pid)
    assert first is not None, process.stderr.read().decode() if process.stderr else ""
    machine = Booted(name, first)
    hosts.wait_for(lambda: machine.state("basic.target") == "active", "the system", within=60)
    return machine


def _first(pid: int) -> int | None:
    """The first process inside, once it is systemd: before, commands would run in the tree of this machine."""
    for each in hosts.descendants(pid)[:1]:
        with suppress(OSError):
            if Path(f"/proc/{each}/comm").read_text() == "systemd\n":
                return each
    return None


def _control_groups() -> Path:
    """Where control groups (version 2) are mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, place, kind, options, *_others = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    pytest.skip("systemd needs a control group (version 2) that can be written")


def _removed(group: Path) -> bool:
    """Control groups are directories that vanish in a moment after their processes."""
    try:
        group.rmdir()
    except OSError:
        return not group.exists()
    return True
