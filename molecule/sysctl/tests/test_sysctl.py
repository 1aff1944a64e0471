# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of role `sysctl` are in force in running kernels, and do what they are for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from testinfra.host import Host

# A line of sysctl.d(5): an optional dash, the name, the value.
LINE = re.compile(r"^-?([a-z][\w./*-]*)\s*=\s*(.*?)\s*$", re.MULTILINE)
NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --"


def running(host: Host, names: list[str]) -> dict[str, str]:
    printed = host.run_expect([0], f"sysctl {' '.join(names)}").stdout
    return dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in printed.splitlines())


def test_every_setting_is_in_force(host: Host) -> None:
    """Those with a dash, too: Debian's kernel has all of them."""
    text = host.file("/usr/lib/sysctl.d/60-vauban.conf").content_string
    wanted = dict(LINE.findall(text))
    assert len(wanted) == len([line for line in text.splitlines() if line and not line.startswith("#")]) >= 50
    assert running(host, list(wanted)) == wanted


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("client", "net.ipv6.conf.all.disable_ipv6", "1"),
        ("client", "net.ipv6.conf.default.disable_ipv6", "1"),
        ("client", "net.ipv4.ip_forward", "0"),
        ("client", "net.ipv6.conf.all.forwarding", "0"),
        ("gateway", "net.ipv6.conf.all.disable_ipv6", "0"),
        ("gateway", "net.ipv6.conf.default.disable_ipv6", "0"),
        ("gateway", "net.ipv4.ip_forward", "1"),
        ("gateway", "net.ipv6.conf.all.forwarding", "1"),
    ],
)
def test_setting_is_that_of_the_machine(machine: Any, name: str, setting: str, value: str) -> None:
    assert running(machine(name), [setting]) == {setting: value}


def test_client_has_no_ipv6_address_and_gets_none(machine: Any) -> None:
    client = machine("client")
    assert client.run("ip -6 address").stdout == ""
    client.run_expect([0], "ip link add probe type dummy && ip link set probe up")
    tried = client.run("ip -6 address add 2001:db8::1/64 dev probe")
    client.run("ip link delete probe")
    assert tried.rc != 0
    assert "Permission denied" in tried.stderr or "disabled" in tried.stderr.lower()


def test_nobody_reads_the_kernel_log(host: Host) -> None:
    tried = host.run(f"{NOBODY} dmesg")
    assert "Operation not permitted" in tried.stderr


def test_nobody_learns_addresses_of_the_kernel(host: Host) -> None:
    symbols = host.run_expect([0], "head --lines=100 /proc/kallsyms").stdout
    assert {line.split()[0] for line in symbols.splitlines()} == {"0" * 16}


def test_nobody_makes_a_user_namespace(host: Host) -> None:
    assert "No space left on device" in host.run(f"{NOBODY} unshare --user true").stderr


def test_a_program_that_crashes_leaves_no_memory_image(host: Host) -> None:
    assert host.run("cd /var && ulimit -c unlimited && sh -c 'kill -SEGV $$'").rc == 139
    assert host.run("ls /var/core*").rc != 0


def test_nothing_failed(host: Host) -> None:
    assert host.run("systemctl is-system-running").stdout.strip() == "running"
