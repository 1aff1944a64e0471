# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles did to a Debian that is not ours, without a boot in between: handlers put it into force."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://gateway"]


def test_it_is_a_stock_debian(host: Host) -> None:
    assert host.run("grep --quiet '^ID=debian$' /etc/os-release").rc == 0


def test_kernel_settings_are_in_force(host: Host) -> None:
    text = host.file("/usr/lib/sysctl.d/60-vauban.conf").content_string
    # nf_conntrack is not loaded here; its line has a dash.
    wanted = dict(re.findall(r"^([a-z][\w./*-]*)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    printed = host.run_expect([0], f"sysctl {' '.join(wanted)}").stdout
    assert dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in printed.splitlines()) == wanted


def test_ipv6_is_off(host: Host) -> None:
    assert host.run("ip -6 address").stdout == ""


def test_card_is_configured_by_the_role(ask: Any) -> None:
    (card,) = [card for card in ask("gateway", "networkctl --json=short list")["Interfaces"] if card["Type"] == "ether"]
    assert card["AdministrativeState"] == "configured"
    assert card["NetworkFile"] == "/etc/systemd/network/20-outside.network"


def test_nothing_leaves_but_what_the_rules_allow(host: Host) -> None:
    """A server listens on the machine's other side, as DHCP showed, but no rule leads there."""
    asked = host.run("timeout 5 bash -c '</dev/tcp/10.0.2.2/22'")
    assert asked.rc != 0
    hooks = [each["chain"] for each in json.loads(host.check_output("nft --json list chains"))["nftables"][1:]]
    policies = {each["hook"]: each["policy"] for each in hooks if "policy" in each}
    assert {policies["input"], policies["output"], policies["forward"]} == {"drop"}


@pytest.mark.parametrize("name", ["admin", "audit", "logs_time"])
def test_tunnel_is_there_and_closed_but_for_its_rules(host: Host, name: str) -> None:
    assert host.service(f"tunnel@{name}.service").is_running
    shown = json.loads(host.check_output(f"ip -netns {name} -json -details link show type xfrm"))
    assert [each["linkinfo"]["info_kind"] for each in shown] == ["xfrm"]
    assert "policy drop" in host.check_output(f"ip netns exec {name} nft list ruleset")


def test_charon_runs_as_its_user_with_one_capability(host: Host) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value strongswan.service")
    status = host.file(f"/proc/{pid}/status").content_string
    assert re.search(r"^Uid:\s+200\s", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0*1000$", status, re.MULTILINE)  # CAP_NET_ADMIN
    assert "laptop:" in host.check_output("swanctl --list-conns")


def test_gateway_has_the_address_of_the_pair(host: Host) -> None:
    assert host.service("keepalived.service").is_running
    assert "10.0.2.17/32" in host.check_output("ip -4 -brief address")


@pytest.mark.parametrize(
    ("unit", "namespace"),
    [
        ("chrony.service", "logs_time"),
        ("rsyslog.service", "logs_time"),
        ("sshd@admin.service", "admin"),
        ("sshd@audit.service", "audit"),
    ],
)
def test_member_runs_in_its_tunnel_confined(host: Host, unit: str, namespace: str) -> None:
    pid = host.check_output(f"systemctl show --property=MainPID --value {unit}")
    assert host.check_output(f"ip netns identify {pid}") == namespace
    assert "NoNewPrivs:\t1" in host.file(f"/proc/{pid}/status").content_string


def test_clock_asks_the_server_of_the_site_alone(host: Host) -> None:
    assert "10.68.0.20" in host.check_output("chronyc -n sources")
