# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What roles did to a Debian that is not ours, without a boot in between: handlers put it into force."""

from __future__ import annotations

import re
from typing import Any

from testinfra.host import Host


def test_it_is_a_stock_debian(host: Host) -> None:
    assert host.run("grep --quiet '^ID=debian$' /etc/os-release").rc == 0


def test_kernel_settings_are_in_force(host: Host) -> None:
    text = host.file("/usr/lib/sysctl.d/60-vauban.conf").content_string
    # nf_conntrack is not loaded here; its line has a dash.
    wanted = dict(re.findall(r"^([a-z][\w./*-]*)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    printed = host.run_expect([0], f"sysctl {' '.join(wanted)}").stdout
    assert dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in printed.splitlines()) == wanted


def test_ipv6_is_off(host: Host) -> None:
    assert host.run("ip -6 address").stdout == ""


def test_card_is_configured_by_the_role(ask: Any) -> None:
    (card,) = [card for card in ask("debian", "networkctl --json=short list")["Interfaces"] if card["Type"] == "ether"]
    assert card["AdministrativeState"] == "configured"
    assert card["NetworkFile"] == "/etc/systemd/network/20-outside.network"
