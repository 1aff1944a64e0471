# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cards of two running machines have the names and addresses that role `network` was given, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from testinfra.host import Host


@pytest.fixture(scope="module")
def cards(ask: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Cards by machine and name, without the loopback."""
    listed = {name: ask(name, "ip --json address") for name in ("fixed", "dynamic")}
    return {name: {card["ifname"]: card for card in listed[name] if card["ifname"] != "lo"} for name in listed}


def addresses(card: dict[str, Any], family: str) -> set[str]:
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in card["addr_info"] if entry["family"] == family}


def test_machine_has_the_name_of_the_inventory(ask: Any) -> None:
    assert {name: ask(name, "cat /proc/sys/kernel/hostname") for name in ("fixed", "dynamic")} == {
        "fixed": "fixed",
        "dynamic": "dynamic",
    }


def test_card_is_named_by_its_address(cards: dict[str, Any]) -> None:
    assert cards["fixed"]["lan"]["address"] == "52:54:00:aa:00:01"
    assert cards["dynamic"]["lan"]["address"] == "52:54:00:aa:00:02"


def test_card_is_named_by_its_place(cards: dict[str, Any]) -> None:
    assert cards["dynamic"]["outside"]["address"] == "52:54:00:aa:00:03"


def test_fixed_addresses_are_there_and_no_others(cards: dict[str, Any]) -> None:
    assert addresses(cards["fixed"]["lan"], "inet") == {"192.0.2.1/24"}
    assert addresses(cards["dynamic"]["lan"], "inet") == {"192.0.2.2/24"}


def test_address_came_by_dhcp(cards: dict[str, Any]) -> None:
    (entry,) = [entry for entry in cards["dynamic"]["outside"]["addr_info"] if entry["family"] == "inet"]
    assert entry["local"] == "10.0.2.15"
    assert entry["dynamic"]
    assert entry["valid_life_time"] <= 86400


def test_card_that_nobody_named_stays_down(cards: dict[str, Any]) -> None:
    (card,) = [card for card in cards["dynamic"].values() if card["address"] == "52:54:00:aa:00:04"]
    assert "UP" not in card["flags"]
    assert not card["addr_info"]


def test_ipv6_is_there_where_it_was_asked_for(cards: dict[str, Any]) -> None:
    found = addresses(cards["fixed"]["lan"], "inet6")
    assert "2001:db8::1/64" in found
    assert len(found) == 2
    assert any(address.startswith("fe80:") for address in found)


def test_ipv6_is_nowhere_else(ask: Any, cards: dict[str, Any]) -> None:
    assert not [card for card in cards["dynamic"].values() if addresses(card, "inet6")]
    assert ask("dynamic", "ip -6 route show table all") == ""
    assert ask("dynamic", "sysctl --values net.ipv6.conf.outside.disable_ipv6") == 1


def test_routes_are_those_of_the_configuration(ask: Any) -> None:
    # A missing card would make these lists shorter, one too many longer.
    fixed = {(route["dst"], route.get("gateway")) for route in ask("fixed", "ip --json route")}
    assert fixed == {("192.0.2.0/24", None), ("198.51.100.0/24", "192.0.2.2")}
    dynamic = {(route["dst"], route.get("gateway")) for route in ask("dynamic", "ip --json route")}
    assert dynamic == {("default", "192.0.2.1"), ("192.0.2.0/24", None), ("10.0.2.0/24", None)}


def test_name_servers_are_asked_where_there_are_any(machine: Any) -> None:
    files = {name: machine(name).file("/etc/resolv.conf").content_string for name in ("fixed", "dynamic")}
    assert [line for line in files["fixed"].splitlines() if line[:1] != "#"] == ["nameserver 192.0.2.53"]
    assert [line for line in files["dynamic"].splitlines() if line[:1] != "#"] == []


@pytest.mark.parametrize(("source", "target"), [("fixed", "192.0.2.2"), ("dynamic", "192.0.2.1")])
def test_machines_reach_each_other(machine: Any, source: str, target: str) -> None:
    """Nobody listens on that port: a refusal came all the way back."""
    tried = machine(source).run(f"bash -c 'echo >/dev/tcp/{target}/9'")
    assert "Connection refused" in tried.stderr


def test_nothing_failed(host: Host) -> None:
    assert host.run("systemctl is-system-running").stdout.strip() == "running"
