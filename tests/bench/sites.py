# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sites of any size for benchmarks: the example, grown to so many hosts, each written out."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventories/example_site/example.site.yml"
PER_PLACE = 480  # laptops, beside two gateways


def write(path: Path, hosts: int) -> None:
    """Write a site of ``hosts`` hosts: places with a pair of gateways and laptops, one of them with the servers too."""
    site = yaml.safe_load(EXAMPLE.read_text())
    for name in ("office", "archive"):
        del site["places"]["paris"]["networks"][name]
    servers = {name: host for name, host in site["hosts"].items() if name.startswith("paris") and "laptop" not in name}
    for host in servers.values():
        host.get("interfaces", {}).pop("archive", None)
    site["zones"]["collectors"] = {"hosts": ["paris-logs1"]}
    site["zones"]["time_servers"] = {"hosts": ["paris-time1"]}
    site["zones"]["file_servers"] = {"hosts": ["paris-files1"]}
    del site["zones"]["archive"]
    site["zones"]["pilots"] = {"hosts": ["place2-laptop-0000", "place2-laptop-0001"]}
    site["policy"][-1]["to"] = ["file_servers"]
    site["time"]["servers"], site["logs"]["collectors"] = ["paris-time1"], ["paris-logs1"]
    places, site["places"] = {"paris": site["places"]["paris"]}, {}
    for tunnel in site["tunnels"].values():
        tunnel["pool"]["place_prefix"] = 22
    number = 1
    written = len(servers) + 1
    while written < hosts:
        number += 1
        name = f"place{number}"
        second, third = divmod(number, 256)
        outer = {"ipv4": f"10.{100 + second}.{third}.0/24", "ipv6": f"2001:db8:{number:x}::/64"}
        places[name] = {
            "number": number,
            "networks": {"outer": outer},
            "gateways": {"hosts": [f"{name}-gw1", f"{name}-gw2"], "addresses": [f"10.{100 + second}.{third}.10"]},
        }
        for index in (2, 3):
            mac = f"52:54:{number >> 8:02x}:{number & 255:02x}:00:{index:02x}"
            interface = {
                "mac": mac,
                "addresses": [f"10.{100 + second}.{third}.{index + 9}", f"2001:db8:{number:x}::{index:x}"],
            }
            servers[f"{name}-gw{index - 1}"] = {
                "product": "gateway",
                "place": name,
                "number": index,
                "interfaces": {"outer": interface},
            }
        written += 2
        for index in range(min(PER_PLACE, hosts - written)):
            servers[f"{name}-laptop-{index:04}"] = {"product": "workstation", "place": name, "number": 101 + index}
            written += 1
    site["places"], site["hosts"] = places, servers
    path.write_text(yaml.safe_dump(site, sort_keys=False, default_flow_style=None))
