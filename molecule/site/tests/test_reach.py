# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who reaches whom: the policy of the site compared with packets, cell by cell."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import pytest
from site_fixtures import SPEAKERS, Packet
from three import HOSTS, TUNNELS

PROBES = list(product(("tcp", "udp"), (22, 123, 443, 2514, 4460, 8010, 8011)))
# Where the policy binds services to users, each of them; elsewhere one that is bound to none.
RUNS = [("logs_time", user) for user in ("_rsyslog", "_chrony", "daemon")]
RUNS += [(tunnel, "daemon") for tunnel in ("admin", "audit", "high")]


@pytest.fixture(scope="module", autouse=True)
def silence(ask: Any, inside: Any, eventually: Any) -> Iterator[None]:
    """Nobody else says anything meanwhile, and every tunnel is there: a kernel drops what has to wait for one."""
    for name in HOSTS:
        ask(name, f"systemctl stop {SPEAKERS}")
    for name in HOSTS:
        eventually(
            lambda name=name: inside(name, "logs_time", "ss --no-header --tcp state connected") == "",
            f"{name}: connections of services ended",
            180,
        )
    for tunnel in TUNNELS:
        if tunnel not in ask("client", "swanctl --list-sas"):
            ask("client", f"swanctl --initiate --ike client --child {tunnel} --timeout 60")
    yield
    for name in HOSTS:
        ask(name, f"systemctl start {SPEAKERS}")


def allowed(plan: Any, tunnel: str, source: str, destination: str, probe: tuple[str, int], user: str) -> bool:
    """What the site file says, read without any of the code that makes rules of it."""
    protocol, port = probe
    for rule in plan.site.policy:
        service = [plan.site.services[name] for name in rule.services]
        if (
            rule.via == tunnel
            and any(source in plan.zones[zone].hosts for zone in rule.sources)
            and any(destination in plan.zones[zone].hosts for zone in rule.destinations)
            and any(_covers(each, protocol, port) and each.user in (None, user) for each in service)
        ):
            return True
    return False


def _covers(service: Any, protocol: str, port: int) -> bool:
    for entry in getattr(service, protocol):
        first, _dash, last = str(entry).partition("-")
        if int(first) <= port <= int(last or first):
            return True
    return False


def _send(user: str, packets: list[Packet]) -> str:
    """A shell command that sends them, all at once."""
    lines = [
        f"(echo x >/dev/{protocol}/{address}/{port}) 2>/dev/null &" for _source, address, protocol, port in packets
    ]
    script = "\n".join([*lines, "sleep 2", "kill $(jobs -p) 2>/dev/null", "true"])
    return f"setpriv --reuid={user} --regid={user} --clear-groups bash -c {shlex.quote(script)}"


@pytest.mark.parametrize(("tunnel", "user"), RUNS)
def test_packets_arrive_as_the_policy_says(
    plan: Any, inside: Any, watch: Any, seen: Any, tunnel: str, user: str
) -> None:
    """168 cells each time: pairs of hosts, protocols, ports and both families."""
    for name in HOSTS:
        watch(name, tunnel)
    cells: dict[Packet, bool] = {}
    for source in HOSTS:
        packets = []
        for destination in [other for one, other in permutations(HOSTS, 2) if one == source]:
            for (protocol, port), family in product(PROBES, range(2)):
                ends = [str(plan.inner(name, tunnel)[family]) for name in (source, destination)]
                packet = (ends[0], ends[1], protocol, port)
                packets.append(packet)
                cells[packet] = allowed(plan, tunnel, source, destination, (protocol, port), user)
        inside(source, tunnel, _send(user, packets))
    found = {packet for name in HOSTS for packet in seen(name, tunnel)}
    assert len(cells) == 168
    assert {packet for packet, passes in cells.items() if passes != (packet in found)} == set()


def test_inner_addresses_are_not_reached_in_clear(plan: Any, ask: Any, watch: Any, seen: Any) -> None:
    for name in HOSTS:
        watch(name, None)
    inner: set[str] = set()
    for source, destination in permutations(HOSTS, 2):
        packets = [
            ("", str(plan.inner(destination, tunnel)[family]), protocol, port)
            for tunnel, (protocol, port), family in product(plan.site.tunnels, PROBES, range(2))
        ]
        ask(source, _send("daemon", packets))
        inner |= {packet[1] for packet in packets}
    assert {packet for name in HOSTS for packet in seen(name, None, "arrived") if packet[1] in inner} == set()
