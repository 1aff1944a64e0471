# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services run under systemd with all that confines them: they do their work, and what is forbidden ends them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import pytest
from booted import booted
from hosts import Host
from rendering import render

from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement

BITS = {"CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_BIND_SERVICE": 10, "CAP_SYS_CHROOT": 18}
LIBRARIES = [f"/usr/lib/x86_64-linux-gnu/{name}" for name in ("libgcrypt.so.20", "libgpg-error.so.0")]
CALLS = {
    "mount": ["mount", "-t", "tmpfs", "none", "/tmp"],
    "chroot": ["chroot", "/"],
    "swapon": ["swapoff", "/dev/zero"],
}


@pytest.fixture(scope="module")
def machine(image: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with booted("machine", image, tmp_path_factory.mktemp("booted") / "machine") as started:
        yield started


def configure(machine: Host, role: str, **variables: Any) -> None:
    for path, content in render(role, **variables).items():
        machine.write(f"/{path}", content)
    machine("systemctl", "daemon-reload")


def start(machine: Host, unit: str) -> dict[str, str]:
    """Start a unit; what the kernel says of its main process."""
    done = machine.ask("systemctl", "start", unit)
    assert done.returncode == 0, done.stderr + machine("journalctl", "--no-pager", "--lines=30", f"--unit={unit}")
    pid = machine("systemctl", "show", "--property=MainPID", "--value", unit).strip()
    status = machine("cat", f"/proc/{pid}/status")
    return {name: value.strip() for name, _colon, value in (line.partition(":") for line in status.splitlines())}


def assert_confined(status: dict[str, str], user: int, *capabilities: str) -> None:
    allowed = sum(1 << BITS[name] for name in capabilities)
    assert status["Uid"].split() == [str(user)] * 4
    assert int(status["CapBnd"], 16) == allowed
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_ssh_server(machine: Host) -> None:
    machine("install", "-d", "-m", "0700", "/root")
    machine("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/key")
    key = machine("cat", "/root/key.pub").strip()
    common = {"port": 22, "tunnel": "", "authorities": [], "principals": [], "revoked": [], "public_keys": [key]}
    addresses = {"admin": "127.0.0.1", "audit": "127.0.0.2"}
    instances = [{**common, "name": name, "addresses": [address]} for name, address in addresses.items()]
    configure(machine, "admin_access", admin_access_instances=instances)
    for name in addresses:
        assert_confined(start(machine, f"sshd@{name}.service"), 0, *BITS)
    words = ["-F", "none", "-oStrictHostKeyChecking=no", "-oBatchMode=yes", "-i", "/root/key"]
    machine.write("/root/bundle", "configuration\n")
    machine("sftp", *words, "-b", "-", "admin@127.0.0.1", stdin="put /root/bundle\n")
    assert machine("cat", "/var/lib/vauban/drop/incoming/bundle") == "configuration\n"
    machine("journalctl", "--sync")
    seen = machine("ssh", *words, "audit@127.0.0.2", "journalctl --unit=sshd@admin.service")
    assert 'open "/incoming/bundle"' in seen


def test_collector_and_forwarder(machine: Host) -> None:
    to = [{"address": "127.0.0.1", "port": 2514}]
    collect = {"logging_collect": True, "logging_collect_addresses": ["127.0.0.1"]}
    configure(machine, "logging", logging_collectors=to, **collect)
    machine("systemctl", "restart", "systemd-journald.service")
    for unit in ("log-collector.service", "rsyslog.service"):
        assert_confined(start(machine, unit), 456)
    machine("logger", "--tag", "beacon", "the text to be found")
    arrived = ["grep", "-q", "the text to be found", "/var/log/collected/127.0.0.1.log"]
    hosts.wait_for(lambda: machine.ask(*arrived).returncode == 0, "the message")


def test_time_server(machine: Host) -> None:
    """In the place of chrony.service, which nothing here may run: this one never touches the clock."""
    instance = {"name": "logs", "addresses": ["127.0.0.1"], "clients": ["127.0.0.0/8"]}
    configure(machine, "time_sync", time_sync_instances=[instance])
    machine.write("/etc/systemd/system/chronyd-server@logs.service.d/30-tunnel.conf", "[Unit]\n")
    machine("systemctl", "daemon-reload")
    assert_confined(start(machine, "chronyd-server@logs.service"), 123, "CAP_NET_BIND_SERVICE")
    asked = machine("chronyc", "-h", "/run/chrony-server-logs/chronyd.sock", "-n", "-c", "tracking")
    assert asked.split(",")[2] == "10"


def test_time_client(machine: Host) -> None:
    """chrony.service as it is, but for the right to set the clock and the wish to."""
    configure(machine, "time_sync", time_sync_servers=[{"name": "127.0.0.1", "nts": False, "key": 1}])
    change = """[Unit]
ConditionCapability=
[Service]
AmbientCapabilities=
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
ExecStart=
ExecStart=/usr/sbin/chronyd -x -U -F 1
"""
    machine.write("/etc/systemd/system/chrony.service.d/90-test.conf", change)
    machine("systemctl", "daemon-reload")
    assert_confined(start(machine, "chrony.service"), 123, "CAP_NET_BIND_SERVICE")
    assert "127.0.0.1" in machine("chronyc", "-n", "-c", "sources")


def test_journal_is_sealed(machine: Host) -> None:
    """Entries verify with the key that was made, and a file that somebody changed does not."""
    for library in LIBRARIES:
        # The image has them as soon as a package set names libgcrypt20; until then, those of this machine serve.
        if machine.ask("test", "-e", library).returncode != 0:
            found = Path(library)
            if not found.exists():
                pytest.skip(f"neither the image nor this machine has {library}: systemd cannot seal")
            (machine.root / library.lstrip("/")).write_bytes(found.read_bytes())
    started = machine.ask("systemctl", "start", "journal-seal.service")
    assert started.returncode == 0, machine("journalctl", "--no-pager", "--unit=journal-seal.service")
    machine("logger", "the text to be sealed")
    machine("journalctl", "--rotate")
    secret = "/var/lib/journal-seal/verification-key"
    assert machine("stat", "-c", "%U %a", secret, "/var/lib/journal-seal").split() == ["root", "600", "root", "700"]
    verify = ["journalctl", "--verify", f"--verify-key={machine('cat', secret).strip()}"]
    done = machine.ask(*verify)
    assert done.returncode == 0, done.stderr
    assert "=> Validated from" in done.stderr
    files = machine("sh", "-c", "grep -l 'text to be sealed' /var/log/journal/*/*@*.journal").split()
    change = "printf X | dd of=$1 bs=1 conv=notrunc seek=$(grep -abo 'text to be sealed' $1 | head -1 | cut -d: -f1)"
    machine("sh", "-c", change, "sh", files[0])
    assert machine.ask(*verify).returncode != 0


def test_bus(machine: Host) -> None:
    assert start(machine, "dbus-broker.service")["NoNewPrivs"] == "1"
    assert "org.freedesktop.systemd1" in machine("busctl", "list", "--no-pager")


def test_tasks_end_well(machine: Host) -> None:
    for unit in ("systemd-user-sessions.service", "systemd-tmpfiles-clean.service", "systemd-journal-flush.service"):
        machine("systemctl", "restart", unit)
        assert machine("systemctl", "show", "--property=Result", "--value", unit) == "success\n"


@pytest.mark.parametrize("call", sorted(CALLS))
def test_forbidden_call_ends_the_service(machine: Host, call: str) -> None:
    done = run_with(machine, f"forbidden-{call}.service", CALLS[call])
    assert done == {"ExecMainCode": "2", "ExecMainStatus": "31", "Result": "signal"}  # CLD_KILLED by SIGSYS


@pytest.mark.parametrize(
    "command",
    [
        ["touch", "/etc/x"],
        ["touch", "/var/x"],
        ["touch", "/home/x"],
        ["cat", "/root/key"],
        ["cat", "/proc/sys/kernel/osrelease"],
        ["ls", "/proc/1/fd"],
        ["ping", "-c1", "127.0.0.1"],
    ],
)
def test_what_is_out_of_reach(machine: Host, command: list[str]) -> None:
    assert run_with(machine, "unreachable.service", command)["Result"] != "success"


def test_what_is_left_works(machine: Host) -> None:
    done = run_with(machine, "left.service", ["sh", "-c", "echo x > /tmp/x; cat /proc/self/status"])
    assert done["Result"] == "success"


def run_with(machine: Host, unit: str, command: list[str]) -> dict[str, str]:
    """Run a command as a service with profile ``base``."""
    dropin = _confinement.dropins([{"name": unit, "profile": "base"}])[0]
    words = " ".join(f'"{word}"' for word in command)
    machine.write(f"/run/systemd/system/{unit}", f"[Service]\nType=oneshot\nExecStart={words}\n")
    machine.write(f"/run/systemd/system/{unit}.d/50-confinement.conf", "\n".join(["[Service]", *dropin.lines, ""]))
    machine("systemctl", "daemon-reload")
    machine.ask("systemctl", "start", unit)
    shown = machine("systemctl", "show", "--property=ExecMainCode,ExecMainStatus,Result", unit)
    return dict(line.split("=", 1) for line in shown.split())
