# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of a Debian that is not ours, without a boot in between."""

from __future__ import annotations

import re
from typing import Any

from testinfra.host import Host

testinfra_hosts = ["ansible://laptop"]


def test_card_is_configured_by_the_role(ask: Any) -> None:
    (card,) = [card for card in ask("laptop", "networkctl --json=short list")["Interfaces"] if card["Type"] == "ether"]
    assert card["NetworkFile"] == "/etc/systemd/network/20-outside.network"


def test_charon_runs_as_its_user_with_one_capability(host: Host) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value strongswan.service")
    status = host.file(f"/proc/{pid}/status").content_string
    assert re.search(r"^Uid:\s+200\s", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0*1000$", status, re.MULTILINE)  # CAP_NET_ADMIN


def test_packet_for_the_tunnel_waits_for_it(host: Host) -> None:
    """The kernel has the client's trap policies."""
    assert "gateway:" in host.check_output("swanctl --list-conns")
    found = host.check_output("ip xfrm policy")
    assert re.search(r"src 10\.65\.0\.9/32 dst 10\.65\.0\.0/16", found), found
    assert "if_id 0x1" in found


def test_client_begins_by_itself(host: Host) -> None:
    assert host.service("ipsec-start.timer").is_running
