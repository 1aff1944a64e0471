# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Both gateways of a pair are machines of the site: the one that waits is reached, logs and keeps time through tunnels.

What decides is priorities of policies in the kernel, so only kernels can show it. The tests go in order: in the middle
the address moves to the other gateway.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from site_fixtures import SPEAKERS
from wire import is_esp

SHARED = "192.0.2.10"
MACS = {"first": "52:54:00:aa:00:11", "second": "52:54:00:aa:00:12"}
# A client finds out in 31 to 62 s, and the gateway that lost the address forgets it after 28 s.
MOVED = 180


def _active(ask: Any, *, but: str = "") -> str | None:
    """Who has the address, if it is one alone and not the one named."""
    have = [
        name
        for name in MACS
        if SHARED in [each["local"] for card in ask(name, "ip --json address") for each in card["addr_info"]]
    ]
    return have[0] if len(have) == 1 and have != [but] else None


@pytest.fixture(params=["before", "after"], scope="module", autouse=True)
def roles(request: pytest.FixtureRequest, ask: Any, eventually: Any) -> tuple[str, str]:
    """Who has the address, and who waits."""
    active = eventually(lambda: _active(ask), "one has the address")
    if request.param == "after":
        lost = active
        ask(lost, "systemctl stop keepalived.service")
        active = eventually(lambda: _active(ask, but=lost), "the address moved")
        ask(lost, "systemctl start keepalived.service")
    (waits,) = set(MACS) - {active}
    return active, waits


def _banner(inside: Any, tunnel: str, address: str) -> str:
    """What a server of ssh says first."""
    script = f"exec 3<>/dev/tcp/{address}/22 && head --bytes=4 <&3"
    return str(inside("collector", tunnel, f"bash -c 'timeout 5 bash -c \"{script}\" 2>/dev/null || true'"))


@pytest.mark.parametrize("family", [0, 1])
@pytest.mark.parametrize("tunnel", ["admin", "audit"])
def test_both_are_reached(
    plan: Any, inside: Any, eventually: Any, roles: tuple[str, str], tunnel: str, family: int
) -> None:
    for name in roles:
        address = str(plan.inner(name, tunnel)[family])
        eventually(lambda address=address: _banner(inside, tunnel, address) == "SSH-", f"{name}: {address}", MOVED)


def test_both_send_their_logs(ask: Any, eventually: Any, roles: tuple[str, str]) -> None:
    for name in roles:
        word = f"said-by-{name}-while-{roles[0]}-is-active"
        ask(name, f"logger --tag proof {word}")
        eventually(
            lambda word=word: word in ask("collector", "sh -c 'cat /var/log/collected/*.log || true'"), word, MOVED
        )


def test_both_have_the_time(ask: Any, eventually: Any, roles: tuple[str, str]) -> None:
    for name in roles:
        start = time.monotonic()
        eventually(lambda name=name, start=start: _synchronised(ask, name, start), f"{name}: time", MOVED)


def _synchronised(ask: Any, name: str, since: float) -> bool:
    """Whether the server is chosen, and answered since then. Left alone it would be asked every other minute."""
    ask(name, "chronyc burst 3/5")
    _mode, state, _name, _stratum, _poll, _reach, last, *_rest = ask(name, "chronyc -n -c sources").split(",")
    return state == "*" and int(last) < time.monotonic() - since


def test_the_other_is_only_asked_for_what_is_its_own(
    plan: Any, ask: Any, inside: Any, wire: Any, roles: tuple[str, str]
) -> None:
    """Nothing of what the active gateway exchanges with a client goes through the one that waits."""
    active, waits = roles
    ask(waits, f"systemctl stop {SPEAKERS}")
    try:
        time.sleep(2)
        mark = wire.mark()
        assert _banner(inside, "admin", str(plan.inner(active, "admin")[0])) == "SSH-"
        assert _between(wire.since(mark)) == 0
        mark = wire.mark()
        assert _banner(inside, "admin", str(plan.inner(waits, "admin")[0])) == "SSH-"
        time.sleep(1)
        assert _between(wire.since(mark)) > 2
    finally:
        ask(waits, f"systemctl start {SPEAKERS}")


def _between(frames: list[Any]) -> int:
    """How many packets of ESP the two gateways sent each other."""
    return sum({frame.src, frame.dst} == set(MACS.values()) and is_esp(frame) for frame in frames)
