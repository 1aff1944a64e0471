# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook release: a release is checked, signed by the second signer, and offered by a running Debian."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from booted import Booted, booted
from certificates import P256, Authority, ec_key, pem
from playing import ansible_playbook
from provisioned import ROOT, write_release
from sdk import SDK

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

    def play(self, version: str, *options: str) -> tuple[int, str]:
        """Run the playbook."""
        words = [
            "-i",
            str(self.directory / "hosts.yml"),
            str(ROOT / "playbooks/release.yml"),
            "-e",
            f"version={version}",
        ]
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default"}
        plugins = str(ROOT / "tests/support/connection")
        done = ansible_playbook(self.directory, *words, *options, **settings, ANSIBLE_CONNECTION_PLUGINS=plugins)
        return done.returncode, done.stdout + done.stderr

    def get(self, path: str) -> bytes | None:
        """What the server gives out."""
        words = ["curl", "-sf", "--tlsv1.3", "--cacert", "/tmp/authority.pem", "--resolve", f"{NAME}:443:127.0.0.1"]
        done = self.machine.ask(*words, "-o", "/tmp/got", f"https://{NAME}/{path}")
        return (self.machine.root / "tmp/got").read_bytes() if done.returncode == 0 else None


@pytest.fixture(scope="module")
def controller(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    directory = tmp_path_factory.mktemp("controller")
    tree = SDK if SDK.is_dir() else SDK.parent / "root"
    if not tree.is_dir():
        pytest.skip(f"no unpacked SDK at {tree}: run 'make build', or set FLEET_SDK")
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
        children = {"products": {"hosts": {"server": product}}, "update_servers": {"hosts": {"updates": server}}}
        variables = {
            "fleet_keys_dir": str(directory / "keys"),
            "fleet_build_dir": str(directory / "build"),
            "fleet_sdk": str(SDK),
        }
        (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": children, "vars": variables}}))
        yield Controller(directory, machine)


def test_release_is_looked_at_offered_and_offered_no_second_time(controller: Controller) -> None:
    release = controller.build("1.0")
    code, said = controller.play("1.0", "--check", "--diff")
    assert code == 0, said
    assert '+  "version": "1.0"' in said
    assert not controller.signed.exists()
    assert not controller.store.exists()
    code, said = controller.play("1.0")
    assert code == 0, said + controller.machine.journal()
    assert controller.get("update/v1/server/stable.p7m") == controller.signed.read_bytes()
    for path in release.iterdir():
        assert controller.get(f"releases/server/1.0/{path.name}") == path.read_bytes()
    code, said = controller.play("1.0")
    assert code == 0, said
    assert re.search(r"server +: ok=\d+ +changed=0\b", said), said
    assert re.search(r"updates +: ok=\d+ +changed=0\b", said), said


def test_next_release_takes_its_place_and_the_one_before_stays(controller: Controller) -> None:
    controller.build("1.1")
    before = controller.signed.read_bytes()
    code, said = controller.play("1.1")
    assert code == 0, said
    assert controller.signed.read_bytes() != before
    assert controller.get("update/v1/server/stable.p7m") == controller.signed.read_bytes()
    assert controller.get("releases/server/1.0/manifest.json") is not None


@pytest.mark.parametrize("name", ["core.erofs", "manifest.json", "manifest.json.p7s"])
def test_release_that_is_not_as_it_was_signed_is_offered_to_nobody(controller: Controller, name: str) -> None:
    release = controller.build(f"2.{len(name)}")
    path = release / name
    path.write_bytes(path.read_bytes().replace(b"server", b"serve_")[:-1] + b"x")
    before = controller.signed.read_bytes()
    code, said = controller.play(release.name)
    assert code != 0
    assert str(path) in said or str(release / "manifest.json") in said, said
    assert controller.signed.read_bytes() == before
    assert controller.get(f"releases/server/{release.name}/manifest.json") is None


def test_development_release_does_not_go_out_as_production(controller: Controller) -> None:
    controller.build("3.0")
    code, said = controller.play("3.0", "-e", "product_keys_kind=production")
    assert code != 0
    assert "these are development keys" in said


def test_release_of_another_signer_is_refused(controller: Controller) -> None:
    release = controller.build("4.0")
    stranger = write_release(controller.directory / "stranger/4.0", controller.directory / "strange", version="4.0")
    for path in stranger.iterdir():
        shutil.copy(path, release)
    code, said = controller.play("4.0")
    assert code != 0
    assert "no valid signature by" in said
