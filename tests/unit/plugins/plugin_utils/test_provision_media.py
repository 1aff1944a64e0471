# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses of a site stand on an installation medium."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from provisioned import SITE

from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import media
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import read

Table = Callable[..., media.Table]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Of some hosts, with other properties of the network and of host one, or a network behind the gateway."""

    def make(
        *names: str, network: dict[str, Any] | None = None, inner: dict[str, Any] | None = None, **host: Any
    ) -> media.Table:
        site = copy.deepcopy(SITE)
        site["places"]["here"]["networks"]["outer"].update(network or {})
        site["hosts"]["one"].update(host)
        if inner is not None:
            site["places"]["here"]["networks"]["inner"] = inner
            site["hosts"]["gateway"]["interfaces"]["inner"] = {"mac": "52:54:00:00:01:02"}
        path = tmp_path / "small.site.yml"
        path.write_text(yaml.safe_dump(site))
        return media.table(read(path).plan, names)

    return make


def lines(found: media.Table) -> list[str]:
    return [line for line in found.text.splitlines() if not line.startswith("#")]


def test_each_host_is_named_before_its_cards(table: Table) -> None:
    found = table("two", "one")
    assert found.text.splitlines()[1:] == [
        "# one",
        "52:54:00:00:00:14 192.0.2.20/24",
        "# two",
        "52:54:00:00:00:15 192.0.2.21/24",
    ]
    assert (found.hosts, found.by_dhcp) == (("one", "two"), {})


def test_gateway_is_that_of_the_network(table: Table) -> None:
    assert lines(table("one", network={"routers": ["192.0.2.1"]})) == ["52:54:00:00:00:14 192.0.2.20/24 192.0.2.1"]


@pytest.mark.parametrize(
    ("interface", "reason"),
    [
        ({"mac": "52:54:00:00:00:14", "dhcp": True}, "no fixed IPv4 address in the site"),
        ({"path": "pci-0000:00:01.0"}, "no MAC address of outer in the site"),
    ],
)
def test_host_that_asks_by_dhcp(table: Table, interface: dict[str, Any], reason: str) -> None:
    found = table("one", "two", interfaces={"outer": interface})
    assert found.by_dhcp == {"one": reason}
    assert lines(found) == ["52:54:00:00:00:15 192.0.2.21/24"]


def test_card_in_a_network_behind_a_tunnel_has_none(table: Table) -> None:
    """A gateway has it, once it is installed."""
    outer = "52:54:00:00:00:02 192.0.2.3/24"
    assert lines(table("gateway", inner={"ipv4": "10.80.1.0/24", "tunnel": "admin"})) == [outer]
    inner = "52:54:00:00:01:02 10.80.1.3/24"
    assert set(lines(table("gateway", inner={"ipv4": "10.80.1.0/24"}))) == {outer, inner}
