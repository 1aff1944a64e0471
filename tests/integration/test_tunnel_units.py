# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units of roles firewall, tunnel and strongswan, run by the systemd of a product under their own confinement.

Not every kernel has XFRM interfaces, or ESP: an interface of another kind stands for the former, and the daemon's own
ESP in user space for the latter. There are no devices for udev to announce either, so the tunnel does not wait for its
links.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rendering
import yaml
from booted import Booted, booted
from ipsec import wait_for
from lab import SDK

TUNNEL = {
    "name": "admin",
    "if_id": 7,
    "addresses": ["10.0.0.1/32"],
    "routes": ["10.1.0.0/16"],
    "mtu": 1380,
    "forward": False,
    "dns": ["10.1.0.53"],
    "search": ["site.example"],
    "hosts": [{"address": "10.1.0.9", "names": ["logs.site.example", "logs"]}],
    "links": [{"name": "lan-0", "addresses": ["10.3.0.1/24"]}],
}
MEMBER = """[Service]
Type=exec
ExecStart=/bin/sleep infinity
"""


def rulesets() -> list[dict[str, Any]]:
    host = yaml.safe_load((rendering.ROLES / "firewall/vars/main.yml").read_text())["__firewall_rulesets"][0]
    inner = {**host, "name": "admin", "input": [], "output": []}
    return [host, inner]


@pytest.fixture
def machine(base: Path, tmp_path: Path) -> Iterator[Booted]:
    """A machine with one tunnel and one member."""
    files = tmp_path / "files"
    rendering.lay_down("firewall", files, firewall_rulesets=rulesets(), firewall_log_rate="10/minute")
    members = [{"name": "member.service", "tunnel": "admin"}]
    rendering.lay_down("tunnel", files, tunnel_tunnels=[TUNNEL], tunnel_members=members, tunnel_ipv6=False)
    outside = files / "etc/vauban/tunnels/admin.outside"
    outside.write_text(outside.read_text().replace("type xfrm if_id 7", "type ifb"))
    shutil.rmtree(files / "etc/systemd/system/tunnel@admin.service.d")
    (files / "etc/systemd/system/member.service").write_text(MEMBER)
    with booted("machine", (files, base), tmp_path / "machine") as made:
        made("ip", "link", "add", "name", "lan-0", "type", "veth", "peer", "name", "lan-1")
        yield made


def write(machine: Booted, path: str, change: Callable[[str], str]) -> None:
    file = machine.root / path
    file.write_text(change(file.read_text()))


# ---- firewall


def test_network_waits_for_the_rules(machine: Booted) -> None:
    assert "counter input_dropped" not in machine("nft", "list", "ruleset")
    machine("systemctl", "start", "systemd-networkd.service")
    assert machine.state("nftables.service") == "active"
    assert "counter input_dropped" in machine("nft", "list", "ruleset")


def test_without_rules_there_is_no_network_and_the_machine_is_shut(machine: Booted) -> None:
    write(machine, "etc/nftables.d/host.nft", lambda text: text + "misspelt\n")
    assert machine.ask("systemctl", "start", "systemd-networkd.service").returncode != 0
    assert machine.state("nftables.service") == "failed"
    assert machine.state("systemd-networkd.service") == "inactive"
    shut = machine("nft", "--stateless", "list", "ruleset")
    assert shut.count("policy drop") == 3
    assert re.findall(r"^\t\t(?!type)(.*)", shut, re.MULTILINE) == ['iif "lo" accept', 'oif "lo" accept']


def test_reload_that_fails_keeps_the_rules_and_stopping_never_opens(machine: Booted) -> None:
    machine("systemctl", "start", "nftables.service")
    before = machine("nft", "--stateless", "list", "ruleset")
    write(machine, "etc/nftables.d/host.nft", lambda text: text + "misspelt\n")
    assert machine.ask("systemctl", "reload", "nftables.service").returncode != 0
    assert machine.state("nftables.service") == "active"
    assert machine("nft", "--stateless", "list", "ruleset") == before
    machine("systemctl", "stop", "nftables.service")
    assert machine("nft", "--stateless", "list", "ruleset") == before


def test_reload_that_succeeds_changes_the_rules(machine: Booted) -> None:
    machine("systemctl", "start", "nftables.service")
    write(machine, "etc/nftables.d/host.nft", lambda text: text.replace("th dport { 68 }", "th dport { 69 }"))
    machine("systemctl", "reload", "nftables.service")
    assert "udp dport 69" in machine("nft", "list", "ruleset")


# ---- tunnel


def links(machine: Booted, *prefix: str) -> set[str]:
    return set(re.findall(r"^\d+: ([^:@]+)", machine(*prefix, "ip", "-oneline", "link"), re.MULTILINE))


def within(machine: Booted) -> list[str]:
    """A command prefix: as the member sees the world."""
    process = machine("systemctl", "show", "--property=MainPID", "--value", "member.service").strip()
    return ["nsenter", f"--target={process}", "--net", "--mount"]


def test_member_sees_its_tunnel_and_nothing_else(machine: Booted) -> None:
    machine("systemctl", "start", "member.service")
    assert machine.state("tunnel@admin.service") == "active"
    inside = within(machine)
    assert links(machine, *inside) == {"lo", "admin", "lan-0"}
    assert {"admin", "lan-0"}.isdisjoint(links(machine))
    addresses = machine(*inside, "ip", "-oneline", "-4", "address")
    assert re.search(r"admin\s+inet 10\.0\.0\.1/32", addresses)
    assert re.search(r"lan-0\s+inet 10\.3\.0\.1/24", addresses)
    assert "mtu 1380" in machine(*inside, "ip", "link", "show", "dev", "admin")
    routes = machine(*inside, "ip", "route").splitlines()
    assert [route.split()[:3] for route in routes] == [["10.1.0.0/16", "dev", "admin"], ["10.3.0.0/24", "dev", "lan-0"]]
    assert machine(*inside, "cat", "/etc/resolv.conf") == "nameserver 10.1.0.53\nsearch site.example\n"
    assert "10.1.0.9 logs.site.example logs" in machine(*inside, "cat", "/etc/hosts")
    assert "10.1.0.9" not in machine("cat", "/etc/hosts")
    assert "firewall admin input" in machine(*inside, "nft", "list", "ruleset")
    for name, value in (
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv4/conf/all/rp_filter", "1"),
    ):
        assert machine(*inside, "cat", f"/proc/sys/net/{name}").strip() == value
    assert "inet6" not in machine(*inside, "ip", "address")


def test_forwarding_is_on_where_it_is_asked_for(machine: Booted) -> None:
    write(machine, "etc/vauban/tunnels/admin.sysctl", lambda text: text.replace("ip_forward = 0", "ip_forward = 1"))
    machine("systemctl", "start", "member.service")
    assert machine(*within(machine), "cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
    assert machine("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "0"


def test_tunnel_stops_and_starts_again_without_a_trace(machine: Booted) -> None:
    for _attempt in range(3):
        machine("systemctl", "restart", "tunnel@admin.service")
    machine("systemctl", "start", "member.service")
    first = within(machine)[1]
    machine("systemctl", "restart", "tunnel@admin.service")
    wait_for(lambda: machine.state("member.service") == "active", "the member does not come back")
    assert within(machine)[1] != first, "the member stayed behind in a namespace that is gone"
    machine("systemctl", "stop", "tunnel@admin.service")
    assert machine.state("member.service") == "inactive"
    wait_for(lambda: not list((machine.root / "run/netns").iterdir()), "the namespace stays")
    assert "admin" not in links(machine)
    assert "lan-0" in links(machine), "the link was not given back"
    assert "failed" not in machine("systemctl", "list-units", "--all", "tunnel@*", "member*")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("etc/nftables.d/admin.nft", "misspelt\n"),
        ("etc/vauban/tunnels/admin.outside", "link set no-such-link netns admin\n"),
        ("etc/vauban/tunnels/admin.inside", "address add 10.0.0.1/99 dev admin\n"),
    ],
)
def test_tunnel_that_cannot_be_made_whole_is_not_made(machine: Booted, file: str, content: str) -> None:
    good = (machine.root / file).read_text()
    write(machine, file, lambda text: text + content)
    assert machine.ask("systemctl", "start", "member.service").returncode != 0
    assert machine.state("tunnel@admin.service") == "failed"
    assert machine.state("member.service") == "inactive"
    wait_for(lambda: not list((machine.root / "run/netns").iterdir()), "the namespace stays")
    assert "lan-0" in links(machine)
    write(machine, file, lambda _text: good)
    machine("systemctl", "start", "member.service")


def test_rules_of_a_tunnel_are_reloaded_or_stay(machine: Booted) -> None:
    machine("systemctl", "start", "member.service")
    inside = within(machine)
    before = machine(*inside, "nft", "--stateless", "list", "ruleset")
    write(machine, "etc/nftables.d/admin.nft", lambda text: text + "misspelt\n")
    assert machine.ask("systemctl", "reload", "tunnel@admin.service").returncode != 0
    assert machine.state("tunnel@admin.service") == "active"
    assert machine(*inside, "nft", "--stateless", "list", "ruleset") == before


# ---- strongswan


@pytest.fixture
def daemon(base: Path, tmp_path: Path) -> Iterator[Booted]:
    """A machine whose IPsec daemon makes ESP itself, for which it needs a device."""
    files = tmp_path / "files"
    rendering.lay_down("firewall", files, firewall_rulesets=rulesets(), firewall_log_rate="10/minute")
    rendering.lay_down("strongswan", files, strongswan_connections=[])
    plugins = files / "usr/lib/ipsec/plugins"
    plugins.mkdir(parents=True)
    sdk = SDK.resolve().parent / "root"
    if not sdk.exists():
        pytest.skip(f"the SDK is packed: there is no {sdk}")
    shutil.copy(sdk / "usr/lib/ipsec/libipsec.so.0", plugins.parent)
    shutil.copy(sdk / "usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so", plugins)
    settings = files / "etc/strongswan.conf"
    settings.write_text(settings.read_text().replace("kernel-netlink", "kernel-libipsec kernel-netlink"))
    override = files / "etc/systemd/system/strongswan.service.d/99-test.conf"
    override.parent.mkdir(parents=True)
    # The kernel counts the threads of this user on the machine that runs the test, where others may test, too.
    override.write_text("[Service]\nPrivateDevices=no\nDeviceAllow=/dev/net/tun\nLimitNPROC=infinity\n")
    with booted("machine", (files, base), tmp_path / "machine") as made:
        yield made


def test_daemon_runs_confined_and_comes_back(daemon: Booted) -> None:
    daemon("systemctl", "start", "strongswan.service")
    process = daemon("pidof", "charon-systemd").strip()
    status = dict(re.findall(r"(\w+):\t(.*)", daemon("cat", f"/proc/{process}/status")))
    assert status["Uid"].split() == ["200"] * 4
    assert {status[kind] for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {f"{1 << 12:016x}"}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    daemon("systemctl", "reload", "strongswan.service")
    daemon("kill", "-KILL", process)

    def another() -> bool:
        now = daemon.ask("pidof", "charon-systemd").stdout.strip()
        return now not in ("", process) and daemon.state("strongswan.service") == "active"

    wait_for(another, "it does not come back")
    daemon("systemctl", "stop", "strongswan.service")
    assert daemon.state("strongswan.service") == "inactive"


def test_counters_of_all_namespaces_get_into_the_journal(machine: Booted) -> None:
    """The role audit reads the journal and may do nothing else."""
    machine("systemctl", "start", "nftables.service", "member.service")
    machine("systemctl", "start", "firewall-counters.service")
    messages = machine("journalctl", "--unit=firewall-counters.service", "--output=cat", "--no-pager")
    assert messages.count('"name": "input_dropped"') == 2
    assert re.search(r"^/run/netns/admin\b", messages, re.MULTILINE)
