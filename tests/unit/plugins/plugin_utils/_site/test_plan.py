# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses follow from numbers, and from nothing else."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
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


def test_gateway_has_no_route_through_the_tunnel_to_a_network_of_its_own_card(load_site: Load) -> None:
    """The kernel takes no second route to a network; those of other places are behind other gateways."""
    plan = load_site(edited({}, [])).plan
    views = Views(plan)

    def tunnel(name: str) -> dict[str, Any]:
        return next(each for each in views.variables(name)["tunnel"]["tunnel_tunnels"] if each["links"])

    linked = [
        name for name in plan.gateways if any(t["links"] for t in views.variables(name)["tunnel"]["tunnel_tunnels"])
    ]
    assert linked
    for name in linked:
        found = tunnel(name)
        networks = {str(ipaddress.ip_interface(each).network) for link in found["links"] for each in link["addresses"]}
        routes = {str(network) for network in plan.selectors(found["name"])}
        assert networks <= routes
        assert set(found["routes"]) == routes - networks


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


def connections_of(views: Views, name: str) -> dict[str, dict[str, Any]]:
    """The connections of a host, by name."""
    found = list(views.variables(name)["strongswan"]["strongswan_connections"])
    assert len(found) == len({each["name"] for each in found})
    return {each["name"]: each for each in found}


def seen_from_there(connection: dict[str, Any]) -> dict[str, Any]:
    """What the other end has to have, apart from who begins, when, and how."""
    ends = [("local_addresses", "remote_addresses"), ("local_identity", "remote_identity")]
    found = {here: connection[there] for pair in ends for here, there in (pair, pair[::-1])}
    for child in connection["children"]:
        found[child["name"]] = (child["if_id"], child["priority"], child["remote"], child["local"])
    return found


def seen_from_here(connection: dict[str, Any]) -> dict[str, Any]:
    """The same of this end."""
    found = {key: value for key, value in connection.items() if key.endswith(("addresses", "identity"))}
    for child in connection["children"]:
        found[child["name"]] = (child["if_id"], child["priority"], child["local"], child["remote"])
    return found


def test_a_gateway_knows_exactly_its_clients(load_site: Load) -> None:
    """By identity and by address: a client cannot take another's."""
    plan = load_site(edited({}, [])).plan
    views = Views(plan)
    connections, others = (
        [each for each in connections_of(views, name).values() if "@" not in each["name"]]
        for name in ("north-gw1", "north-gw2")
    )
    assert connections == others
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
    north, south = (connections_of(views, name) for name in ("north-gw1", "south-gw"))
    assert {name for name, each in south.items() if each["initiator"]} == {"north-south"} < set(north)
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


# Three places: two with pairs, one without.
SECOND_PAIR = {
    "places.east": {
        "number": 3,
        "networks": {"outer": {"ipv4": "203.0.113.64/26"}},
        "gateways": {"hosts": ["east-gw2", "east-gw1"], "addresses": ["203.0.113.70"]},
    },
    "hosts.east-gw1": {
        "product": "gateway",
        "place": "east",
        "number": 2,
        "interfaces": {"outer": {"mac": "52:54:00:00:03:02", "addresses": ["203.0.113.71"]}},
    },
    "hosts.east-gw2": {
        "product": "gateway",
        "place": "east",
        "number": 3,
        "interfaces": {"outer": {"mac": "52:54:00:00:03:03", "addresses": ["203.0.113.72"]}},
    },
}
PAIRED = {"north-gw1": "north", "north-gw2": "north", "east-gw1": "east", "east-gw2": "east"}


def test_the_two_of_a_pair_are_connected_at_their_own_addresses(load_site: Load) -> None:
    plan = load_site(edited(SECOND_PAIR, [])).plan
    views = Views(plan)
    for name, first, second in (
        ("north-gw1@north-gw2", "north-gw1", "north-gw2"),
        ("east-gw2@east-gw1", "east-gw2", "east-gw1"),
    ):
        here, there = (connections_of(views, gateway)[name] for gateway in (first, second))
        assert seen_from_here(here) == seen_from_there(there)
        assert here["initiator"]
        assert there["initiator"]
        assert here["local_identity"] == plan.fqdn(first)
        shared = {str(address) for address in plan.gateway_addresses(plan.gateways[first])}
        assert here["local_addresses"]
        assert not shared & {*here["local_addresses"], *here["remote_addresses"]}
        children = {child["name"]: child for child in here["children"]}
        assert len(children) == 2 * len(plan.site.tunnels)
        for tunnel, part in plan.site.tunnels.items():
            everything = [str(network) for network in plan.selectors(tunnel)]
            own, others = children[f"{tunnel}@{first}"], children[f"{tunnel}@{second}"]
            assert (own["local"], own["remote"]) == (singles(plan.inner(first, tunnel)), everything)
            assert (others["local"], others["remote"]) == (everything, singles(plan.inner(second, tunnel)))
            assert own["if_id"] == others["if_id"] == part.if_id
            assert own["start"] == others["start"] == "start"
            # Behind whatever charon computes, and never the same, or each end might choose another.
            assert own["priority"] != others["priority"]
            assert min(own["priority"], others["priority"]) > 600_000
    assert not [name for name in connections_of(views, "south-gw") if "south-gw@" in name or "@south-gw" in name]


def test_each_of_a_pair_visits_all_other_places(load_site: Load) -> None:
    """Whoever waits cannot use what its place has: it would begin at an address that it does not have."""
    plan = load_site(edited(SECOND_PAIR, [])).plan
    views = Views(plan)
    of = {name: connections_of(views, name) for name in plan.gateways}
    for name, home in PAIRED.items():
        visits = {
            each: of[name][each]
            for each in of[name]
            if each.startswith(f"{name}@") and each.split("@")[1] in plan.site.places
        }
        assert set(visits) == {f"{name}@{place}" for place in plan.site.places if place != home}
        for visit, here in visits.items():
            place = visit.split("@")[1]
            assert here["initiator"]
            assert (here["local_identity"], here["remote_identity"]) == (plan.fqdn(name), plan.gateway_identity(place))
            for gateway in (each for each, at in plan.gateways.items() if at == place):
                there = of[gateway][visit]
                assert seen_from_here(here) == seen_from_there(there)
                assert not there["initiator"]
                assert {child["start"] for child in there["children"]} == {"none"}
            for child in here["children"]:
                assert child["local"] == singles(plan.inner(name, child["name"]))
                assert 0 < child["priority"] < 268_541
            starts = {child["name"]: child["start"] for child in here["children"]}
            assert starts == {"admin": "start", "audit": "trap", "work": "trap"}
    visitors = {each for each in of["south-gw"] if "@" in each}
    assert visitors == {f"{name}@south" for name in PAIRED}


def test_gateways_of_two_pairs_choose_the_same_connection(load_site: Load) -> None:
    """What one sends to the other fits the visits of both, of which the kernel takes that with the lower priority."""
    plan = load_site(edited(SECOND_PAIR, [])).plan
    views = Views(plan)
    priority = {
        name: {
            child["priority"]
            for visit, connection in connections_of(views, name).items()
            if visit.startswith(f"{name}@") and connection["remote_identity"].startswith("gateway.")
            for child in connection["children"]
        }
        for name in PAIRED
    }
    for one, other in itertools.combinations(PAIRED, 2):
        assert len(priority[one]) == len(priority[other]) == 1
        assert priority[one] != priority[other]


def test_connection_of_a_pair_opens_nothing_outside(load_site: Load) -> None:
    """A gateway hears IKE from anywhere, at any of its addresses; no rule names the other beside that of VRRP."""
    views = Views(load_site(edited({}, [])).plan)
    pair, alone = (views.variables(name)["firewall"]["firewall_rulesets"][0] for name in ("north-gw1", "south-gw"))
    for chain in ("input", "forward", "output"):
        assert [rule for rule in pair[chain] if rule["protocol"] in ("udp", "esp")] == [
            rule for rule in alone[chain] if rule["protocol"] in ("udp", "esp")
        ]


def singles(addresses: list[Any]) -> list[str]:
    return [f"{address}/{address.max_prefixlen}" for address in addresses]


def test_a_run_treats_the_hosts_of_one_site(load_site: Load) -> None:
    loaded = load_site(edited({"site": "small-one"}, []))
    assert loaded.hosts(["south-laptop", "north-gw1"]) == ["north-gw1", "south-laptop"]
    with pytest.raises(FleetError, match=r"small\.site\.yml: elsewhere is no host of .*\nRemedy: .*site_small_one$"):
        loaded.hosts(["north-gw1", "elsewhere"])


def test_machine_proves_itself_in_the_tunnel_whose_member_that_is(load_site: Load) -> None:
    """And in its own namespace if the site says nothing."""
    kiosk = {"product": "kiosk", "place": "north", "number": 110}
    product = {"units": ["attestation.service"], "users": ["_chrony", "_rsyslog"]}
    changes = {"products.kiosk": product, "hosts.north-kiosk": kiosk}
    changes |= {"zones.everyone.products": ["server", "workstation", "admin_workstation", "kiosk"]}
    members = ["sshd@audit.service", "attestation.service"]
    views = Views(load_site(edited({**changes, "tunnels.audit.members": members}, [])).plan)
    assert views.variables("north-kiosk")["attestation"] == {"attestation_tunnel": "audit"}
    assert {"name": "attestation.service", "tunnel": "audit"} in views.variables("north-kiosk")["tunnel"][
        "tunnel_members"
    ]
    views = Views(load_site(edited(changes, [])).plan)
    assert views.variables("north-kiosk")["attestation"] == {"attestation_tunnel": ""}


def test_hosts_ask_their_channel_of_the_update_server_in_its_tunnel(load_site: Load) -> None:
    changes = {
        "tunnels.work.members": ["chrony.service", "rsyslog.service", "update-fetch.service"],
        "services.updates": {"tcp": [8443], "user": "update"},
        "policy.2.services": ["logs", "time", "updates"],
        "updates": {
            "servers": ["north-server"],
            "via": "work",
            "service": "updates",
            "channels": {"beta": ["laptops"]},
        },
    }
    views = Views(load_site(edited(changes, [])).plan)
    laptop, gateway = (views.variables(name)["update_client"] for name in ("north-laptop-01", "north-gw1"))
    assert laptop["update_client_url"] == "https://north-server.small.example:8443"
    assert (laptop["update_client_channel"], gateway["update_client_channel"]) == ("beta", "stable")
    assert laptop["update_client_tunnel"] == "work"
    assert "sshd@admin.service" in laptop["update_client_health"]
    assert views.variables("north-server")["update_client"] == {}, "it does not ask itself"
    without = Views(load_site(edited({}, [])).plan)
    assert without.variables("north-gw1")["update_client"] == {}


def test_hosts_ask_hawkbit_where_the_site_has_it(load_site: Load) -> None:
    updates = {"servers": ["north-server"], "via": "work", "service": "updates"}
    changes = {
        "tunnels.work.members": ["chrony.service", "rsyslog.service", "update-fetch.service"],
        "services.updates": {"tcp": [8443], "user": "update"},
        "policy.2.services": ["logs", "time", "updates"],
    }
    for tenant, extra in (("", {}), ("default", {"hawkbit": "default"})):
        views = Views(load_site(edited({**changes, "updates": {**updates, **extra}}, [])).plan)
        assert views.variables("north-gw1")["update_client"]["update_client_hawkbit"] == tenant


def test_hosts_ask_an_update_server_behind_a_gateway_by_its_address(load_site: Load) -> None:
    changes = {
        "tunnels.work.members": ["chrony.service", "rsyslog.service", "update-fetch.service"],
        "services.updates": {"tcp": [443], "user": "update"},
        "policy.3": {"from": ["everyone", "gateways"], "to": ["vault"], "services": ["updates"], "via": "work"},
        "updates": {
            "server": "https://updates.small.example",
            "address": "10.80.0.5",
            "via": "work",
            "service": "updates",
        },
    }
    asking = Views(load_site(edited(changes, [])).plan).variables("north-laptop-01")["update_client"]
    assert asking["update_client_url"] == "https://updates.small.example"
    assert asking["update_client_resolve"] == ["updates.small.example:443:10.80.0.5"]
