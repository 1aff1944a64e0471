# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Administrators and auditors get in through their tunnels, each as what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o ConnectTimeout=20"
OPTIONS += " -o LogLevel=ERROR"


@pytest.fixture(scope="module")
def keys(machine: Any, scenario: Path) -> None:
    """The keys of two people, at their workstation."""
    for person in ("admin", "audit"):
        key = (scenario / "site" / person).read_text()
        machine("client").run_expect([0], f"sh -c 'umask 077; printf %s \"{key}\" > /run/{person}.key'")


@pytest.fixture(scope="module")
def ssh(machine: Any, keys: None) -> Any:
    """What ssh of one role answers when a person asks it."""

    def run(tunnel: str, person: str, user: str, address: str, command: str) -> Any:
        line = f"ip netns exec {tunnel} ssh {OPTIONS} -i /run/{person}.key {user}@{address} {command}"
        # 255, with which ssh is refused, would mean a lost connection to what runs the tests.
        return machine("client").run(f"sh -c '{line} || exit $(($? == 255 ? 254 : $?))'")

    return run


@pytest.mark.parametrize(("name", "address"), [("gateway", "10.65.1.2"), ("collector", "[fd00:65:0:1::14]")])
def test_administrator_brings_a_file(machine: Any, keys: None, ask: Any, name: str, address: str) -> None:
    batch = r"-rm /incoming/brought\nput /etc/machine-id /incoming/brought\n"
    command = f"ip netns exec admin sftp {OPTIONS} -i /run/admin.key -b - admin@{address}"
    machine("client").run_expect([0], f"sh -c 'printf %b \"{batch}\" | {command}'")
    assert ask(name, "cat /var/lib/vauban/drop/incoming/brought") == ask("client", "cat /etc/machine-id")


def test_administrator_gets_no_shell(ssh: Any) -> None:
    done = ssh("admin", "admin", "admin", "10.65.1.20", "id")
    assert done.rc == 1
    assert "sftp connections only" in done.stdout


@pytest.mark.parametrize("address", ["10.66.1.2", "10.66.1.20", "fd00:66:0:1::14"])
def test_auditor_reads_the_journal(ssh: Any, address: str) -> None:
    done = ssh("audit", "audit", "audit", address, "journalctl --unit=strongswan.service")
    assert done.rc == 0, done.stderr
    assert "charon" in done.stdout


def test_nobody_gets_in_as_somebody_else(ssh: Any) -> None:
    for tunnel, person, user in (
        ("admin", "audit", "admin"),
        ("audit", "admin", "audit"),
        ("admin", "admin", "audit"),
        ("admin", "admin", "root"),
        ("audit", "audit", "root"),
    ):
        address = "10.65.1.20" if tunnel == "admin" else "10.66.1.20"
        assert _refused(ssh(tunnel, person, user, address, "id"))


def test_roles_do_not_meet(ssh: Any) -> None:
    """The server of one role is not there in the tunnel of the other, whose policy has the same port."""
    assert _refused(ssh("audit", "admin", "admin", "10.66.1.20", "id"))
    assert _refused(ssh("admin", "audit", "audit", "10.65.1.20", "id"))


def _refused(done: Any) -> bool:
    return bool(done.rc == 254 and "Permission denied" in done.stderr)
