# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses follow from numbers, and from nothing else."""

from __future__ import annotations

import ipaddress

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import Views

from .conftest import Load, edited


def inner(load_site: Load, changes: dict[str, object]) -> dict[str, dict[str, list[str]]]:
    """The inner addresses of all hosts."""
    plan = load_site(edited(changes, [])).plan
    return {
        name: {tunnel: [str(address) for address in plan.inner(name, tunnel)] for tunnel in plan.tunnels_of[name]}
        for name in plan.members
        if name in plan.tunnels_of
    }


def test_address_is_that_of_place_and_number(load_site: Load) -> None:
    found = inner(load_site, {})
    assert found["south-laptop"]["admin"] == ["10.1.2.101", "fd00:1:0:2::65"]
    assert found["north-laptop-03"]["work"] == ["10.3.1.103", "fd00:3:0:1::67"]
    assert found["north-gw1"]["work"] == ["10.3.1.2", "fd00:3:0:1::2"]


def test_address_given_for_a_host_counts(load_site: Load) -> None:
    assert inner(load_site, {})["north-admin"]["admin"] == ["10.1.1.40"]


def test_new_hosts_places_and_tunnels_move_no_address(load_site: Load) -> None:
    before = inner(load_site, {})
    after = inner(
        load_site,
        {
            "places.attic": {"number": 9, "networks": {"outer": {"ipv4": "203.0.113.0/28"}}},
            "hosts.aaa-first": {"product": "server", "place": "north", "number": 50},
            "tunnels.more": {
                "if_id": 9,
                "pool": {"ipv4": "10.9.0.0/16", "ipv6": "fd00:9::/48"},
                "peers": ["everyone"],
            },
        },
    )
    for name, tunnels in before.items():
        assert tunnels.items() <= after[name].items()


def test_no_two_hosts_share_an_inner_address(load_site: Load) -> None:
    found = [address for tunnels in inner(load_site, {}).values() for part in tunnels.values() for address in part]
    assert len(found) == len(set(found))


def test_a_gateway_knows_exactly_its_clients(load_site: Load) -> None:
    """By identity and by address: a client cannot take another's."""
    plan = load_site(edited({}, [])).plan
    views = Views(plan)
    connections = views.variables("north-gw1")["strongswan"]["strongswan_connections"]
    assert connections == views.variables("north-gw2")["strongswan"]["strongswan_connections"]
    clients = {connection["name"]: connection for connection in connections if not connection["initiator"]}
    assert set(clients) == {"north-server", "north-admin", "north-laptop-01", "north-laptop-02", "north-laptop-03"}
    for name, connection in clients.items():
        own = views.variables(name)["strongswan"]["strongswan_connections"]
        assert [each["name"] for each in own] == [name]
        assert (own[0]["local_identity"], own[0]["remote_identity"]) == (
            connection["remote_identity"],
            connection["local_identity"],
        )
        mirrored = [(child["name"], child["if_id"], child["remote"], child["local"]) for child in own[0]["children"]]
        assert mirrored == [
            (child["name"], child["if_id"], child["local"], child["remote"]) for child in connection["children"]
        ]
        for child in connection["children"]:
            assert all(ipaddress.ip_network(selector).num_addresses == 1 for selector in child["remote"])


def test_hosts_that_others_reach_connect_before_they_have_anything_to_say(load_site: Load) -> None:
    views = Views(load_site(edited({}, [])).plan)
    starts = {
        name: {child["name"]: child["start"] for child in connection["children"]}
        for name in ("north-server", "north-laptop-01")
        for connection in views.variables(name)["strongswan"]["strongswan_connections"]
    }
    assert starts["north-server"] == {"admin": "start", "audit": "start", "work": "start"}
    assert starts["north-laptop-01"] == {"admin": "start", "audit": "start", "work": "trap"}


def test_gateways_of_all_places_are_connected(load_site: Load) -> None:
    views = Views(load_site(edited({}, [])).plan)
    north, south = (
        {
            connection["name"]: connection
            for connection in views.variables(name)["strongswan"]["strongswan_connections"]
            if connection["initiator"]
        }
        for name in ("north-gw1", "south-gw")
    )
    assert set(north) == set(south) == {"north-south"}
    ends = [{child["name"]: (child["local"], child["remote"]) for child in north["north-south"]["children"]}]
    ends.append({child["name"]: (child["remote"], child["local"]) for child in south["north-south"]["children"]})
    assert ends[0] == ends[1]
    assert ends[0]["work"][0] == ["10.3.1.0/24", "fd00:3:0:1::/64", "10.80.0.0/24"]


def test_the_two_of_a_pair_speak_with_each_other_alone(load_site: Load) -> None:
    views = Views(load_site(edited({}, [])).plan)
    pairs = {name: views.variables(name).get("gateway_pair") for name in ("north-gw1", "north-gw2", "south-gw")}
    assert pairs["south-gw"] is None, "one gateway shares nothing"
    (first,), (second,) = (pairs[name]["gateway_pair_instances"] for name in ("north-gw1", "north-gw2"))
    assert (first["source"], first["peer"]) == (second["peer"], second["source"])
    assert first["address"] == second["address"] == "192.0.2.10/32"
    assert first["priority"] > second["priority"]
    rulesets = {name: views.variables(name)["firewall"]["firewall_rulesets"][0] for name in pairs}
    for name in ("north-gw1", "north-gw2"):
        members = {each["name"]: each["elements"] for each in rulesets[name]["sets"]}
        for chain in ("input", "output"):
            (rule,) = [each for each in rulesets[name][chain] if each["protocol"] == "vrrp"]
            for end in ("source", "destination"):
                assert set(members[rule[end]]) == {first["source"], second["source"]}
            assert (rule["family"], rule["interface"]) == ("ipv4", "outer")
    assert "vrrp" not in str(rulesets["south-gw"])
