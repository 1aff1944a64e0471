# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A product's root tree with its systemd running, in namespaces instead of a machine: units, without a kernel or disk.

It starts in about two seconds, and the kernel is that of the machine that runs the test. Whatever way the test ends, it
ends too, and leaves nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "cat"}
# Arguments: scratch directory, root tree, files to lay over it.
_BOOT = """
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cp -r --no-preserve=ownership "$3/." "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs run
mount -t tmpfs tmpfs tmp
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
rm -f etc/fstab
: > etc/machine-id
touch etc/.updated var/.updated
chroot . /usr/bin/systemd-sysusers 2>/dev/null
pivot_root . mnt
umount --lazy mnt
# As on a machine, where systemd does it.
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --unit=basic.target
"""


class Booted:
    """A running systemd and what it runs."""

    def __init__(self, process: int) -> None:
        namespaces = ("--mount", "--net", "--pid", "--cgroup", "--uts", "--ipc")
        self._enter = ["nsenter", f"--target={process}", *namespaces, "--"]
        # Where its files are seen from here.
        self.root = Path(f"/proc/{process}/root")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of its programs."""
        done = subprocess.run(
            [*self._enter, *command], env=_ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}{self.journal()}"
        return done

    def __call__(self, *command: str) -> str:
        """The output of a command that must succeed."""
        return self.run(*command).stdout

    def state(self, unit: str) -> str:
        """What systemd calls the state of a unit."""
        return self.run("systemctl", "is-active", unit, check=False).stdout.strip()

    def journal(self) -> str:
        """The last messages."""
        done = subprocess.run(
            [*self._enter, "journalctl", "--no-pager", "--lines=40"], env=_ENVIRONMENT, capture_output=True, check=False
        )
        return done.stdout.decode("utf-8", "replace")


@contextmanager
def booted(base: Path, files: Path, scratch: Path) -> Iterator[Booted]:
    """Boot a root tree with these files laid over it. Skips where that is impossible, and says why."""
    if os.geteuid() != 0:
        pytest.skip("makes namespaces with a systemd in them: run as root")
    mounted = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    places = [Path(fields[1]) for fields in mounted if fields[2] == "cgroup2" and "rw" in fields[3].split(",")]
    if not places:
        pytest.skip("systemd needs a control group (version 2) that can be written")
    scratch.mkdir()
    group = places[0] / f"fleet-test-{os.getpid()}"
    group.mkdir()
    join = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
    argv = ["sh", "-euc", join, "sh", str(group), "setpriv", "--pdeathsig=KILL"]
    argv += ["unshare", "--mount", "--net", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child=KILL"]
    argv += ["sh", "-euc", _BOOT, "sh", str(scratch), str(base.resolve()), str(files)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield _wait(process)
    finally:
        process.kill()
        process.wait()
        _remove(group)
        shutil.rmtree(scratch, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes]) -> Booted:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        found = children.read_text().split()
        if found and (Path(f"/proc/{found[0]}/root/run/systemd/private")).exists():
            machine = Booted(int(found[0]))
            if machine.state("basic.target") == "active":
                return machine
        time.sleep(0.1)
    process.kill()
    message = process.stderr.read().decode() if process.stderr else ""
    raise AssertionError(f"systemd did not start\n{message}")


def _remove(group: Path) -> None:
    """Control groups are directories that vanish in a moment after their processes."""
    for _attempt in range(50):
        try:
            for directory in sorted(group.rglob("*/"), reverse=True):
                directory.rmdir()
            group.rmdir()
            return
        except OSError:
            time.sleep(0.1)
