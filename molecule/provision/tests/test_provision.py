# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway, a server and a workstation, switched on by their power controller and installed over the network."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
TESTBED = PROJECT / "build/molecule/provision"
# What follows from the site file.
INNER = {"paris-files1": "10.67.1.20", "paris-desk1": "10.67.1.30"}
HOSTS = {"paris-gw1", *INNER}
# The server has no curl.
ASK = """
import http.client, socket
service = http.client.HTTPConnection("enrolment")
service.sock = socket.socket(socket.AF_UNIX)
service.sock.connect("/run/vauban-enrolment/admin.sock")
service.request("GET", "/admin/v1/audit")
print(service.getresponse().read().decode())
"""


@pytest.fixture(scope="module")
def records(host: Host) -> list[dict[str, Any]]:
    """The audit log of the enrolment service."""
    answer: dict[str, Any] = json.loads(host.run_expect([0], "python3 -c %s", ASK).stdout)
    assert answer["intact"]
    return list(answer["records"])


def test_all_are_installed() -> None:
    reported = json.loads((TESTBED / "report.json").read_text())
    assert reported["complete"]
    assert {name: host["state"] for name, host in reported["hosts"].items()} == dict.fromkeys(HOSTS, "installed")


@pytest.mark.parametrize("name", INNER)
def test_it_spoke_through_the_tunnel(name: str, records: list[dict[str, Any]]) -> None:
    """After its first boot from the disk: before, from wherever DHCP put it."""
    said = [each["actor"] for each in records if each["host"] == name and each["actor"].startswith("machine ")]
    assert said[-1] == f"machine {INNER[name]}"
    assert said[0].startswith("machine 10.9.0.")


def test_server_runs_and_lets_in_nothing_else(host: Host) -> None:
    assert host.run("systemctl is-failed boot-dhcp.service nginx.service vauban-enrolment-admin.service").rc == 1
    listed = json.loads(host.run_expect([0], "nft --json list ruleset").stdout)["nftables"]
    policies = {part["chain"]["name"]: part["chain"].get("policy") for part in listed if "chain" in part}
    assert policies["input"] == "drop"


def test_another_run_changes_nothing() -> None:
    words = ["ansible-playbook", f"--inventory={TESTBED}/site", f"--extra-vars=@{TESTBED}/secrets.yml"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    for name in ("pxe", "provision"):
        done = subprocess.run(
            [*words, f"vauban.fleet.{name}"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        assert "nothing had to be done" in done.stdout, done.stdout
