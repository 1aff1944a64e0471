# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What variables of role boot_server may say, and what comes of them. dnsmasq and Kea read it in another test."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _boot_server

INSTALLER = {"name": "gateway", "product": "gateway", "version": "0.1.0"}
NETWORK = {"network": "192.0.2.0/24", "first": "192.0.2.100", "last": "192.0.2.200"}
HOST = {"name": "srv1", "macs": ["52:54:00:00:00:01"]}
DATABASE = {"type": "postgresql", "host": "leases.example.org", "name": "leases", "user": "kea"}


def settings(**others: Any) -> dict[str, Any]:
    return {
        "mode": "dhcp",
        "dhcp_server": "dnsmasq",
        "lease_database": {},
        "name": "boot.example.org",
        "address": "192.0.2.1",
        "interfaces": ["lan"],
        "networks": [NETWORK],
        "lease": "1h",
        "known_only": False,
        "installers": [INSTALLER],
        "default": "gateway",
        "hosts": [],
        **others,
    }


def lines(**others: Any) -> list[str]:
    return list(_boot_server.plan(settings(**others))["dhcp"])


def installer(**others: Any) -> list[dict[str, Any]]:
    return [{**INSTALLER, **others}]


def network(**others: Any) -> list[dict[str, Any]]:
    return [{**NETWORK, **others}]


def host(**others: Any) -> list[dict[str, Any]]:
    return [{**HOST, **others}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "relay"}, "boot_server_mode"),
        ({"interfaces": []}, "boot_server_interfaces: needed in mode dhcp"),
        ({"interfaces": ["lan\ndhcp-script=/bin/sh"]}, "boot_server_interfaces.0"),
        ({"networks": []}, "boot_server_networks: needed in mode dhcp"),
        ({"networks": network(network="192.0.2.0/33")}, "boot_server_networks.0.network"),
        ({"networks": network(network="2001:db8::/64")}, "boot_server_networks.0.network"),
        ({"networks": network(first=None)}, "192.0.2.0/24): first and last"),
        ({"networks": network(last="198.51.100.1")}, "is no range of this network"),
        ({"networks": network(first="192.0.2.201")}, "is no range of this network"),
        ({"networks": network(first="192.0.2.1")}, "192.0.2.1 of this server would be given"),
        ({"networks": network(colour="red")}, "boot_server_networks.0.colour"),
        ({"address": ""}, "boot_server_address: needed"),
        ({"address": "boot.example.org"}, "boot_server_address"),
        ({"lease": "forever"}, "boot_server_lease"),
        ({"lease": "9999999h"}, "boot_server_lease"),
        ({"dhcp_server": "isc"}, "boot_server_dhcp_server"),
        ({"dhcp_server": "kea", "mode": "proxy"}, "boot_server_dhcp_server: Kea knows no ProxyDHCP"),
        ({"lease_database": DATABASE}, "boot_server_lease_database: dnsmasq keeps its leases in memory"),
        ({"dhcp_server": "kea", "lease_database": {"type": "sqlite"}}, "boot_server_lease_database.type"),
        ({"dhcp_server": "kea", "lease_database": {**DATABASE, "user": "o'hara"}}, "boot_server_lease_database.user"),
        (
            {"dhcp_server": "kea", "networks": [NETWORK, *network(network="192.0.2.0/25", last="192.0.2.120")]},
            "192.0.2.0/25): overlaps with 192.0.2.0/24",
        ),
        ({"default": "server"}, "boot_server_default: no installer server"),
        ({"installers": [INSTALLER, INSTALLER]}, "boot_server_installers: name: more than once: gateway"),
        ({"installers": installer(version=None)}, "product and version belong together"),
        ({"installers": installer(product=None, version=None)}, "leads nowhere"),
        ({"installers": installer(version="../../etc")}, "boot_server_installers.0.version"),
        ({"installers": installer(version="0.1.0,tag:x")}, "boot_server_installers.0.version"),
        ({"installers": installer(pxe="../x")}, "boot_server_installers.0.pxe"),
        ({"installers": installer(url="ftp://x/y")}, "boot_server_installers.0.url"),
        ({"installers": installer(url="http://x/y z")}, "boot_server_installers.0.url"),
        ({"installers": installer(version="1" * 60)}, "more than 127 characters"),
        ({"installers": installer(scheme="https"), "name": ""}, "boot_server_name: needed"),
        ({"hosts": host(installer="server")}, "boot_server_hosts (srv1): installer: no installer server"),
        ({"hosts": host(macs=[])}, "boot_server_hosts.0.macs"),
        ({"hosts": host(macs=["52:54:00:00:00"])}, "boot_server_hosts.0.macs"),
        ({"hosts": host(name="srv 1")}, "boot_server_hosts.0.name"),
        ({"hosts": host(address="198.51.100.1")}, "198.51.100.1 is in none of boot_server_networks"),
        ({"hosts": [*host(), *host(name="srv2", macs=["52-54-00-00-00-01"])]}, "macs: more than once"),
        ({"hosts": [*host(), *host(macs=["52:54:00:00:00:02"])]}, "name: more than once"),
    ],
)
def test_mistake_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FleetError) as caught:
        lines(**changes)
    assert message in str(caught.value)


def test_proxy_needs_no_range() -> None:
    assert "dhcp-range=192.0.2.0,proxy,255.255.255.0" in lines(mode="proxy", networks=[{"network": "192.0.2.0/24"}])


def test_mode_none_says_nothing_of_dhcp() -> None:
    assert lines(mode="none", networks=[], hosts=host()) == ["interface=lan"]
    assert lines(mode="none", networks=[], interfaces=[], address="", default="", installers=[]) == []


def test_url_by_https_has_the_name_and_one_by_http_the_address() -> None:
    path = "releases/gateway/0.1.0/gateway_0.1.0_installer.efi"
    assert f"dhcp-boot=tag:http,tag:!own,http://192.0.2.1/{path}" in lines()
    found = lines(installers=installer(scheme="https"))
    assert f"dhcp-boot=tag:http,tag:!own,https://boot.example.org/{path}" in found


def test_another_server_may_have_the_installer() -> None:
    other = {"name": "gateway", "url": "http://192.0.2.7/x.efi"}
    plan = _boot_server.plan(settings(installers=[other]))
    assert "dhcp-boot=tag:http,tag:!own,http://192.0.2.7/x.efi" in plan["dhcp"]
    assert plan["held"] == []


def test_releases_that_machines_are_sent_to_are_held() -> None:
    others = [{**INSTALLER, "name": "again"}, {"name": "server", "product": "server", "version": "2+instrumented"}]
    assert _boot_server.plan(settings(installers=[INSTALLER, *others]))["held"] == [
        "gateway/0.1.0",
        "server/2+instrumented",
    ]


def test_without_a_default_only_hosts_that_choose_boot() -> None:
    found = lines(default="", hosts=host(installer="gateway"))
    boots = [line for line in found if line.startswith(("dhcp-boot", "dhcp-option-force"))]
    assert boots
    assert all("tag:boot-gateway" in line for line in boots)
    assert "dhcp-host=52:54:00:00:00:01,set:own,set:boot-gateway,srv1" in found


@given(
    st.text(max_size=40),
    st.sampled_from(["name", "address", "lease", "default", "interfaces", "installers.version", "hosts.name"]),
)
def test_no_text_becomes_a_line_of_its_own(text: str, place: str) -> None:
    """What is accepted has no character that dnsmasq.conf(5) gives a meaning."""
    changes: dict[str, Any] = {
        "interfaces": {"interfaces": [text]},
        "installers.version": {"installers": installer(version=text)},
        "hosts.name": {"hosts": host(name=text)},
    }.get(place, {place: text})
    try:
        found = lines(**changes)
    except FleetError:
        return
    if place != "interfaces" and text:
        assert not set(text) & set('\n\r"#\\ ')
    assert all(line.isprintable() and "#" not in line and '"' not in line for line in found)


def kea(**others: Any) -> dict[str, Any]:
    (made,) = _boot_server.plan(settings(dhcp_server="kea", **others))["kea"]
    return dict(made)


def test_kea_answers_in_mode_dhcp_alone_and_dnsmasq_then_serves_tftp_alone() -> None:
    plan = _boot_server.plan(settings(dhcp_server="kea"))
    assert (plan["dhcp"], [made["name"] for made in plan["kea"]]) == (["interface=lan"], ["kea-dhcp4"])
    assert _boot_server.plan(settings())["kea"] == []
    assert _boot_server.plan(settings(dhcp_server="kea", mode="none"))["kea"] == []


def test_number_of_a_network_does_not_depend_on_the_others() -> None:
    """Leases name it."""
    other = {"network": "10.0.0.0/8", "first": "10.0.0.1", "last": "10.0.0.9"}
    alone, both = (json.loads(kea(networks=each)["subnets"]) for each in ([NETWORK], [other, NETWORK]))
    assert [each["id"] for each in alone] == [each["id"] for each in both][1:]


@given(st.text(max_size=40), st.sampled_from(["host", "name", "user", "authority"]))
def test_no_text_becomes_a_member_of_its_own(text: str, place: str) -> None:
    """What is accepted has no character that JSON, libpq or systemd gives a meaning."""
    try:
        made = kea(lease_database={**DATABASE, place: text})
    except FleetError:
        return
    assert not set(text) & set("\n\r\"'\\ %$<>#")
    assert json.loads(made["database"].replace('<?include "', '"').replace('"?>', '"'))[place] == text or (
        place == "authority" and made["environment"] == ["PGSSLMODE=verify-full", f"PGSSLROOTCERT={text}"]
    )


@pytest.mark.parametrize(("database", "port"), [({}, None), (DATABASE, "5432"), ({**DATABASE, "port": 6432}, "6432")])
def test_packet_filter_lets_kea_reach_its_database(database: dict[str, Any], port: str | None) -> None:
    """Its answers go by a packet socket, which no filter sees."""
    found = _boot_server.rules("dhcp", ["lan"], server="kea", database=database)
    assert [rule["ports"] for rule in found["output"]] == ([[port]] if port else [])
    assert found["input"] == _boot_server.rules("dhcp", ["lan"])["input"]


def test_packet_filter_of_a_combination_that_is_none() -> None:
    with pytest.raises(FleetError, match="boot_server_dhcp_server: Kea knows no ProxyDHCP"):
        _boot_server.rules("proxy", server="kea")


@pytest.mark.parametrize(("mode", "ports"), [("dhcp", [["67"]]), ("proxy", [["67", "4011"]]), ("none", [])])
def test_packet_filter_lets_in_what_the_mode_needs(mode: str, ports: list[list[str]]) -> None:
    rules = _boot_server.rules(mode, ["lan"])
    assert [rule["ports"] for rule in rules["input"]] == [*ports, ["69"], ["80", "443"]]
    assert {rule["interface"] for rule in rules["input"]} == {"lan"}
    assert len(rules["output"]) == len(ports)
    behind = _boot_server.rules(mode, ["lan"], ["inner"])["input"][-1]
    assert (behind["interface"], behind["ports"]) == ("inner", ["443"])


def test_packet_filter_of_no_such_mode() -> None:
    with pytest.raises(FleetError, match="boot_server_mode"):
        _boot_server.rules("both")


def test_hosts_boot_the_installer_of_their_product() -> None:
    def host(name: str, product: str, *macs: str) -> dict[str, Any]:
        return {"inventory_hostname": name, "fleet_product": product, **({"fleet_macs": list(macs)} if macs else {})}

    hosts = [
        host("files", "server", "m1"),
        host("gw", "gateway", "m2"),
        host("desk", "other", "m3"),
        host("x", "server"),
    ]
    installers = [{"name": "edge", "product": "gateway"}, {"name": "files", "product": "server"}, {"name": "raw"}]
    assert _boot_server.chosen(hosts, installers, "edge") == [{"name": "files", "macs": ["m1"], "installer": "files"}]
