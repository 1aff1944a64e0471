# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""keepalived as the systemd of a product runs it, under its own confinement, beside the daemon that it looks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import rendering
import yaml
from booted import Booted, booted
from ipsec import wait_for

from ansible_collections.vauban.fleet.plugins.plugin_utils import _confinement

UNIT = "keepalived.service"
ADDRESSES = ("192.0.2.10", "2001:db8:1::10")
OWN = ("192.0.2.11/26", "2001:db8:1::11/64")
INSTANCES = [
    {"name": "ipv4", "source": "192.0.2.11", "peer": "192.0.2.12", "address": "192.0.2.10/32"},
    {"name": "ipv6", "source": "2001:db8:1::11", "peer": "2001:db8:1::12", "address": "2001:db8:1::10/128"},
]
CARD = {"name": "outer", "mac": "x", "addresses": list(OWN)}
CAPABILITIES = 1 << 6 | 1 << 12 | 1 << 13  # CAP_SETGID, CAP_NET_ADMIN, CAP_NET_RAW


@pytest.fixture(scope="module")
def machine(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A gateway whose other one is not there."""
    directory = tmp_path_factory.mktemp("pair")
    files = directory / "files"
    constants = yaml.safe_load((rendering.ROLES / "firewall/vars/main.yml").read_text())
    rendering.lay_down("firewall", files, firewall_rulesets=constants["__firewall_rulesets"])
    rendering.lay_down("strongswan", files, strongswan_connections=[])
    instances = [{**each, "interface": "outer", "router": 1, "priority": 150} for each in INSTANCES]
    rendering.lay_down("gateway_pair", files, gateway_pair_instances=instances)
    (lines,) = [each.lines for each in _confinement.image_dropins() if each.name == UNIT]
    dropin = files / f"usr/lib/systemd/system/{UNIT}.d/50-confinement.conf"
    dropin.write_text("\n".join(["[Service]", *lines, ""]))
    # The kernel counts the threads of this user on the machine that runs the test, where others may test, too.
    (files / "usr/lib/systemd/system/strongswan.service.d/99-test.conf").write_text("[Service]\nLimitNPROC=infinity\n")
    with booted("pair", (files, base), directory / "machine") as made:
        made("ip", "link", "add", "outer", "type", "veth", "peer", "name", "wire")
        for link in ("outer", "wire"):
            made("ip", "link", "set", link, "up")
        for address in OWN:
            made("ip", "address", "add", address, "dev", "outer")
        made("systemctl", "start", "strongswan.service", UNIT)
        yield made


def addresses(machine: Booted) -> list[str]:
    shown = machine("ip", "-oneline", "address", "show", "dev", "outer")
    return [address for address in ADDRESSES if f" {address}/" in shown]


def wait_for_addresses(machine: Booted, number: int) -> None:
    wait_for(lambda: len(addresses(machine)) == number, f"{addresses(machine)}\n{machine.journal()}", seconds=15)


def charon(machine: Booted) -> str:
    return machine.ask("pidof", "charon-systemd").stdout.strip()


def times_lost(machine: Booted) -> int:
    """How often charon, which is told by the kernel, saw the address go."""
    messages = machine("journalctl", "--no-pager", "--output=cat", "--unit=strongswan.service")
    return messages.count("192.0.2.10 disappeared from outer")


def test_runs_as_its_own_user_with_three_capabilities(machine: Booted) -> None:
    wait_for_addresses(machine, 2)
    for process in machine("pidof", "keepalived").split():
        status = dict(re.findall(r"(\w+):\t(.*)", machine("cat", f"/proc/{process}/status")))
        assert status["Uid"].split() == ["201"] * 4
        assert {int(status[kind], 16) for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {CAPABILITIES}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_starts_with_the_machine_but_not_without_a_pair(machine: Booted) -> None:
    assert UNIT in machine("systemctl", "show", "--property=Wants", "multi-user.target")
    empty = rendering.render("gateway_pair", gateway_pair_instances=[])["etc/keepalived/keepalived.conf"]
    assert empty == "", "the unit starts if its file has a single byte"


def test_exposure_is_within_the_limit(machine: Booted) -> None:
    limit = _confinement.limits()[UNIT]
    assert limit <= 3.0
    machine(*_confinement.exposure_check(UNIT, limit, "--no-pager"))


def test_systemd_reads_the_unit_without_a_word(machine: Booted) -> None:
    done = machine.ask("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", UNIT)
    assert not done.stderr


def test_daemon_that_comes_back_keeps_the_address(machine: Booted) -> None:
    wait_for_addresses(machine, 2)
    before = charon(machine)
    machine("kill", "-KILL", before)
    wait_for(lambda: charon(machine) not in ("", before), "charon does not come back")
    assert len(addresses(machine)) == 2
    messages = machine("journalctl", f"--unit={UNIT}", "--no-pager", "--output=cat")
    assert "FAULT" not in messages.rpartition("Entering MASTER STATE")[2]


def test_daemon_that_stays_away_gives_the_address_up(machine: Booted) -> None:
    wait_for_addresses(machine, 2)
    machine("systemctl", "stop", "strongswan.service")
    wait_for_addresses(machine, 0)
    machine("systemctl", "start", "strongswan.service")
    wait_for_addresses(machine, 2)


def test_keepalived_that_was_killed_comes_back(machine: Booted) -> None:
    wait_for_addresses(machine, 2)
    before = machine("pidof", "keepalived").split()
    machine("kill", "-KILL", *before)

    def back() -> bool:
        return len(set(machine.ask("pidof", "keepalived").stdout.split()) - set(before)) == 2

    wait_for(back, "it does not come back")
    wait_for(lambda: machine.state(UNIT) == "active", "it does not start")
    wait_for_addresses(machine, 2)


def test_reload_keeps_the_address(machine: Booted) -> None:
    wait_for_addresses(machine, 2)
    machine("systemctl", "reload", UNIT)
    assert machine.state(UNIT) == "active"
    wait_for_addresses(machine, 2)


def test_addresses_come_back_when_networkd_takes_its_interface_in_hand(machine: Booted) -> None:
    """It knows only the addresses that it was told."""
    wait_for_addresses(machine, 2)
    network = rendering.render("network", network_ipv6=True, network_interfaces=[CARD])
    file = machine.root / "etc/systemd/network/20-outer.network"
    # The card of this machine is no real one, which is all that the role describes.
    file.write_text(network["etc/systemd/network/20-outer.network"].replace("Kind=!*\nMACAddress=x", "Name=outer"))
    lost = times_lost(machine)
    for _time in range(2):
        machine("systemctl", "restart", "systemd-networkd.service")
        wait_for(lambda lost=lost: times_lost(machine) > lost, "networkd leaves it")  # type: ignore[misc]
        wait_for_addresses(machine, 2)
        lost = times_lost(machine)
    machine("systemctl", "stop", "systemd-networkd.service")


def test_stopping_gives_the_address_up_at_once(machine: Booted) -> None:
    wait_for_addresses(machine, 2)
    machine("systemctl", "stop", UNIT)
    assert addresses(machine) == []
    machine("systemctl", "start", UNIT)
