# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller of a site that offers updates: keys, builds and inventory, and a Debian that gives them out."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from booted import Booted, booted
from certificates import P256, Authority, ec_key, pem
from playing import ansible_playbook
from provisioned import ROOT, write_release
from sdk import SDK, unpacked

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

NAME = "updates.example.org"


class Controller:
    """The controller of a site: keys, builds and inventory, and the machine that is to offer updates."""

    def __init__(self, directory: Path, machine: Booted) -> None:
        self.directory, self.machine = directory, machine
        self.signed = directory / "build/channels/server/stable.p7m"
        self.store = machine.root / "srv/vauban"

    def build(self, version: str) -> Path:
        """A release as the builder leaves it."""
        return write_release(self.directory / "build/server" / version, self.directory / "keys", version=version)

    def play(self, name: str, *options: str) -> tuple[int, str]:
        """Run a playbook."""
        words = ["-i", str(self.directory / "hosts.yml"), str(ROOT / f"playbooks/{name}.yml")]
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default"}
        plugins = str(ROOT / "tests/support/connection")
        done = ansible_playbook(self.directory, *words, *options, **settings, ANSIBLE_CONNECTION_PLUGINS=plugins)
        return done.returncode, done.stdout + done.stderr

    def get(self, path: str, authority: str = "/tmp/authority.pem") -> bytes | None:
        """What the server gives out to who believes this authority alone."""
        words = ["curl", "-sf", "--tlsv1.3", "--cacert", authority, "--resolve", f"{NAME}:443:127.0.0.1"]
        done = self.machine.ask(*words, "-o", "/tmp/got", f"https://{NAME}/{path}")
        return (self.machine.root / "tmp/got").read_bytes() if done.returncode == 0 else None


@contextmanager
def controller(sandbox: Sandbox, directory: Path, fleet: Mapping[str, Any] | None = None) -> Iterator[Controller]:
    """Nothing has been built, and the server is as Debian leaves it.

    :param fleet: hosts of group ``fleet`` and their variables.
    """
    tree = unpacked()
    keys = ProductKeys(directory / "keys/server")
    key_directory.ensure(keys, KeyRequest(name="server", kind="development"), sandbox, now=dt.datetime.now(dt.UTC))
    with booted("updates", (tree,), directory / "machine") as machine:
        authority = Authority.root("Example Root", ec_key(P256))
        own = authority.issue(NAME, ec_key(P256))
        machine.write("/var/lib/vauban/https/certificate.pem", own.pem.decode())
        machine.write("/var/lib/vauban/https/key.pem", pem(own.key).decode(), mode="0640", owner="root:www-data")
        machine.write("/tmp/authority.pem", authority.pem.decode())
        server = {
            "ansible_connection": "entered",
            "ansible_host": machine.pid,
            "ansible_python_interpreter": "/usr/bin/python3",
            "boot_server_packages": [],  # what is installed already; there is no archive to ask
            "update_server_name": NAME,
        }
        product = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        children = {
            "products": {"hosts": {"server": product}},
            "update_servers": {"hosts": {"updates": server}},
            "fleet": {"hosts": dict(fleet or {})},
        }
        variables = {
            "fleet_keys_dir": str(directory / "keys"),
            "fleet_build_dir": str(directory / "build"),
            "fleet_sdk": str(SDK),
        }
        (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": children, "vars": variables}}))
        yield Controller(directory, machine)
