# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook pxe on a running Debian, all but the installation of packages; then provision tells it of a host."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from booted import Booted, booted
from playing import ansible_playbook
from provisioned import PASSPHRASE, ROOT, SITE, write_pki, write_release
from sdk import unpacked

HASH = re.compile("[0-9a-f]{64}")
FETCH = """
import ssl, urllib.request as r
context = ssl.create_default_context(cafile="/tmp/root.pem")
import socket
socket.getaddrinfo = lambda *a, **k: [(2, 1, 6, "", ("127.0.0.1", 443))]
print(len(r.urlopen("https://boot.small.example/{path}", context=context).read()))
"""


@pytest.fixture(scope="module")
def tree() -> Path:
    return unpacked()


def write_inventory(directory: Path, machine: Booted, release: Path, **others: Any) -> None:
    boot = {
        "ansible_connection": "entered",
        "ansible_host": machine.pid,
        "ansible_python_interpreter": "/usr/bin/python3",
        "boot_server_mode": "dhcp",
        "boot_server_interfaces": ["lan"],
        "boot_server_networks": [{"network": "10.9.0.0/22", "first": "10.9.0.100", "last": "10.9.3.250"}],
        "boot_server_address": "10.9.0.1",
        "boot_server_installers": [{"name": "server", "product": "server", "version": "1.0"}],
        "boot_server_default": "server",
        "boot_server_releases": [str(release)],
        # What is installed already; there is no archive to ask.
        "boot_server_packages": [],
        "provision_server_packages": [],
        "site_pki_server_packages": [],
        **others,
    }
    variables = {
        "fleet_keys_dir": str(directory / "keys"),
        "fleet_build_dir": str(ROOT / "build"),
        "fleet_sites_dir": str(directory / "sites"),
        "site_pki_issuing_passphrase": PASSPHRASE,
        "provision_patience": 0,
    }
    content = {"all": {"children": {"provisioning_servers": {"hosts": {"boot": boot}}}, "vars": variables}}
    (directory / "inventory/hosts.yml").write_text(yaml.safe_dump(content))
    (directory / "inventory/small.site.yml").write_text(yaml.safe_dump(SITE, sort_keys=False))


def play(directory: Path, name: str, *options: str) -> tuple[int, str]:
    plugins = str(ROOT / "tests/support/connection")
    words = ["-i", str(directory / "inventory"), str(ROOT / f"playbooks/{name}.yml")]
    words += ["-e", '{"__enrolment_packages": []}']
    settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_CONNECTION_PLUGINS": plugins}
    done = ansible_playbook(directory, *words, *options, **settings, ANSIBLE_STDOUT_CALLBACK="default")
    return done.returncode, done.stdout + done.stderr


def test_debian_becomes_a_provisioning_server(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "inventory").mkdir()
    write_pki(tmp_path / "inventory/pki", tmp_path / "keys/sites/small")
    release = write_release(tmp_path / "release", tmp_path / "keys")
    with ExitStack() as stack:
        machine = stack.enter_context(booted("debian", (tree,), tmp_path / "machine"))
        machine("ip", "link", "add", "lan", "type", "veth", "peer", "name", "wire")
        write_inventory(tmp_path, machine, release)
        code, said = play(tmp_path, "pxe")
        assert code == 0, said + machine.journal()
        assert PASSPHRASE not in said
        for unit in ("nginx.service", "boot-dhcp.service", "vauban-enrolment-admin.socket"):
            assert machine.state(unit) == "active", machine.journal()
        key = machine.root / "var/lib/vauban/https/key.pem"
        assert key.stat().st_mode & 0o777 == 0o640
        listed = json.loads(machine("nft", "--json", "list", "ruleset"))
        assert any(part.get("chain", {}).get("policy") == "drop" for part in listed["nftables"])
        machine.write("/tmp/root.pem", (tmp_path / "inventory/pki/ca/root.pem").read_text())
        assert int(machine("python3", "-c", FETCH.format(path="releases/server/1.0/manifest.json"))) > 1000
        before = key.read_bytes()
        code, said = play(tmp_path, "pxe")
        assert code == 0, said
        assert re.search(r"boot +: ok=\d+ +changed=0\b", said), said
        assert key.read_bytes() == before
        code, said = play(tmp_path, "provision", "--limit", "one")
        assert code == 2, said
        assert "1 of 1 hosts are missing: one" in said
        (configuration,) = (machine.root / "srv/vauban/configurations").iterdir()
        assert HASH.fullmatch(configuration.name)
        path = f"configurations/{configuration.name}"
        assert int(machine("python3", "-c", FETCH.format(path=path))) > 1000


def test_kea_answers_where_the_site_says_so(tree: Path, tmp_path: Path) -> None:
    """The packet filter lets it reach the database that its site names; that one is not there."""
    (tmp_path / "inventory").mkdir()
    write_pki(tmp_path / "inventory/pki", tmp_path / "keys/sites/small")
    release = write_release(tmp_path / "release", tmp_path / "keys")
    database = {"type": "postgresql", "host": "10.9.0.50", "name": "leases", "user": "kea", "port": 15432}
    others = {"boot_server_dhcp_server": "kea", "boot_server_kea_packages": [], "boot_server_lease_database": database}
    with booted("kea", (tree,), tmp_path / "machine") as machine:
        machine("ip", "link", "add", "lan", "type", "veth", "peer", "name", "wire")
        write_inventory(tmp_path, machine, release, **others, boot_server_lease_database_password="leases-of-Paris")
        code, said = play(tmp_path, "pxe", "--diff")
        assert code == 0, said + machine.journal()
        assert "leases-of-Paris" not in said
        assert machine.state("boot-dhcp.service") == "active"
        shown = machine("systemctl", "show", "--value", "--property=CapabilityBoundingSet", "kea-dhcp4-server.service")
        assert sorted(shown.split()) == ["cap_net_bind_service", "cap_net_raw"]
        listed = machine("nft", "list", "ruleset")
        assert re.search(r"tcp dport 15432 .*accept", listed), listed
