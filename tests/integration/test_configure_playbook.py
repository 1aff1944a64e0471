# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook configure: a site is brought over sftp to machines that run; what they say is what the playbook prints."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hosts
import pytest
import yaml
from configurations import SECONDS, Machine, tree
from configurations import machine as started
from playing import COLLECTIONS
from tokens import move, uri

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
PORT = 2222
MACHINES = 21  # the first is for the tests of one
NAMES = [f"paris-files{number:02}" for number in range(1, MACHINES + 1)]


def model(**changes: Any) -> dict[str, Any]:
    """The site file. What leads to the ssh server is a rule that the model does not know of."""
    rule = {"zone": "machines", "ruleset": "host", "chain": "input", "reason": "the way in of this test"}
    return {
        "site": "lab",
        "domain": "example.org",
        "places": {"paris": {"number": 1}},
        "zones": {"machines": {"products": ["server"]}},
        "raw": [{**rule, "rule": f"tcp dport {PORT} accept"}],
        "hosts": {
            name: {"product": "server", "place": "paris", "number": number + 10} for number, name in enumerate(NAMES)
        },
        **changes,
    }


class Controller:
    """A network namespace with cables to machines, and a directory with a site."""

    def __init__(self, directory: Path, pid: int, keys: Path) -> None:
        self.directory, self.pid, self._keys = directory, pid, keys
        (directory / "inventory").mkdir()
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")]
        subprocess.run(key, check=True)

    def know(self, machines: Sequence[Machine], *, first: int = 0) -> None:
        """Write down where they are, and their keys.

        :param first: number of the first of them.
        """
        lines = []
        for number, machine in enumerate(machines, first):
            public = machine.host("cat", "/var/lib/vauban/ssh/ssh_host_ed25519_key.pub").split()
            lines.append(f"[{address(number)}]:{PORT} {public[0]} {public[1]}\n")
        (self.directory / "known_hosts").write_text("".join(lines))
        known = {NAMES[first + number]: {"ansible_host": address(first + number)} for number in range(len(machines))}
        variables = {
            "ansible_port": PORT,
            "fleet_build_dir": str(ROOT / "build"),
            "fleet_sites_dir": str(self.directory / "sites"),
            "fleet_keys_dir": str(self._keys.parent),
            "configuration_client_private_key": str(self.directory / "key"),
            "configuration_client_known_hosts": str(self.directory / "known_hosts"),
        }
        inventory = {"fleet": {"hosts": known, "vars": variables}}
        (self.directory / "inventory/hosts.yml").write_text(yaml.safe_dump(inventory))
        self.write()

    def write(self, **changes: Any) -> None:
        """The site, with changes."""
        (self.directory / "inventory/lab.site.yml").write_text(yaml.safe_dump(model(**changes), sort_keys=False))

    def allow(self, *ports: int) -> None:
        """The site, whose machines let in what goes to these ports."""
        raw = [{**model()["raw"][0], "rule": f"tcp dport {port} accept"} for port in ports]
        self.write(raw=raw)

    def play(self, *options: str) -> tuple[int, str]:
        """Run the playbook."""
        words = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", sys.executable, "-m", "ansible", "playbook"]
        words += ["-i", str(self.directory / "inventory"), str(ROOT / "playbooks/configure.yml"), *options]
        environment = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
        environment |= {"ANSIBLE_STDOUT_CALLBACK": "default", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            words, cwd=self.directory, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr


def address(number: int) -> str:
    return f"10.9.0.{number + 10}"


@contextmanager
def reached(machine: Machine, number: int, controller: Controller, log: Path) -> Iterator[None]:
    """Lay a cable, and let account admin in as role admin_access does, whatever the site says."""
    host = machine.host
    wire = ["ip", "link", "add", f"w{number}", "netns", str(controller.pid), "type", "veth"]
    subprocess.run([*wire, "peer", "name", "wire", "netns", str(host.pid)], check=True)
    inside(controller.pid, "ip", "link", "set", f"w{number}", "master", "bridge", "up")
    inside(host.pid, "ip", "address", "add", f"{address(number)}/24", "dev", "wire")
    inside(host.pid, "ip", "link", "set", "wire", "up")
    host("systemctl", "start", "ssh-host-key.service")
    files = tree(key=(controller.directory / "key.pub").read_text().strip(), address=address(number))
    for path, content in files.items():
        if path.startswith("etc/vauban/admin_access/"):
            content = content.replace("/etc/vauban/admin_access", "/run/ssh").replace("\nPort 22\n", f"\nPort {PORT}\n")
            host.write(f"/run/ssh/{path.rpartition('/')[2]}", content)
    host("install", "-d", "-m", "0755", "/run/sshd")
    with host.running("/usr/sbin/sshd", "-D", "-f", "/run/ssh/admin.conf", log=log):
        yield


def inside(pid: int, *command: str) -> None:
    subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", *command], check=True)


@pytest.fixture(scope="module")
def controller(server_keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    hosts.require()
    process = subprocess.Popen(["unshare", "--net", "setpriv", "--pdeathsig=KILL", "sleep", "infinity"])
    try:
        hosts.wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "the namespace")
        inside(process.pid, "ip", "link", "add", "bridge", "type", "bridge")
        inside(process.pid, "ip", "address", "add", "10.9.0.1/24", "dev", "bridge")
        inside(process.pid, "ip", "link", "set", "bridge", "up")
        yield Controller(tmp_path_factory.mktemp("controller"), process.pid, server_keys)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def one(
    controller: Controller, configured: tuple[Path, ...], server_keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine that runs, and was installed with another configuration."""
    directory = tmp_path_factory.mktemp("one")
    with (
        started("one", configured, server_keys, directory, tree(PORT)) as machine,
        reached(machine, 0, controller, directory / "sshd.log"),
    ):
        controller.know([machine])
        yield machine


def ruleset(machine: Machine) -> str:
    return machine.host("nft", "list", "ruleset")


ONE = ("--limit", NAMES[0])


def test_configuration_is_shown_brought_and_brought_no_second_time(controller: Controller, one: Machine) -> None:
    controller.allow(PORT, 8006)
    code, said = controller.play(*ONE, "--check", "--diff")
    assert code == 0, said
    assert re.search(rf"{NAMES[0]}: would get another configuration: \d+ files differ from number 0", said), said
    assert f"{NAMES[0]}: /etc/nftables.d/host.nft" in said
    assert one.result()["present"]["number"] == 0
    code, said = controller.play(*ONE)
    assert code == 0, said + one.host.journal()
    assert re.search(rf"{NAMES[0]}: configuration 20\d+ is in force: \d+ files changed", said), said
    assert "dport 8006 accept" in ruleset(one)
    number = one.result()["present"]["number"]
    code, said = controller.play(*ONE)
    assert code == 0, said
    assert f"{NAMES[0]}: has configuration {number} already" in said
    assert re.search(rf"{NAMES[0]} +: ok=\d+ +changed=0\b", said), said


def test_change_of_a_file_is_shown_by_its_lines(controller: Controller, one: Machine) -> None:
    controller.allow(PORT, 8007)
    code, said = controller.play(*ONE, "--check", "--diff")
    assert code == 0, said
    assert re.search(r"(?m)^ *\+.*tcp dport 8007 accept", said), said
    assert re.search(rf"{NAMES[0]}: would get another configuration: 1 file differ", said), said


def test_one_that_cuts_its_own_way_in_comes_back(controller: Controller, one: Machine) -> None:
    before, number = one.in_force(), one.result()["present"]["number"]
    controller.allow(8006)
    code, said = controller.play(*ONE)
    assert code != 0
    line = rf"{NAMES[0]}: went back from configuration \d+: within {SECONDS} s: the controller did not come again"
    assert re.search(line, said), said
    assert f"1 of 1 hosts do not have it: {NAMES[0]}" in said
    assert one.in_force() == before
    assert one.result()["present"]["number"] == number
    assert f"dport {PORT} accept" in ruleset(one)


def test_host_that_is_another_is_not_given_it(controller: Controller, one: Machine) -> None:
    known = controller.directory / "known_hosts"
    content = known.read_text()
    known.write_text("")
    try:
        controller.allow(PORT, 8008)
        code, said = controller.play(*ONE)
    finally:
        known.write_text(content)
    assert code != 0
    assert re.search(rf"{NAMES[0]}: cannot be reached: .*not found in known_hosts", said), said


def test_refusal_of_a_machine_is_in_the_output(controller: Controller, one: Machine) -> None:
    """What it says of a file is shown to who typed the command; a ruleset that only this machine does not take."""
    before = one.in_force()
    one.host("mount", "--bind", "/usr/bin/false", "/usr/sbin/nft")
    try:
        controller.allow(PORT, 8009)
        code, said = controller.play(*ONE)
    finally:
        one.host("umount", "/usr/sbin/nft")
    assert code != 0
    assert re.search(rf"{NAMES[0]}: refused configuration \d+: /etc/nftables.d/host.nft:", said), said
    assert one.in_force() == before


def test_key_is_in_a_token(
    controller: Controller, one: Machine, server_keys: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    keys = ProductKeys(Path(shutil.copytree(server_keys, tmp_path / "keys/server")))
    token = move(sandbox, keys, "configuration", tmp_path / "token")
    controller.allow(PORT, 8009)
    number = one.result()["present"]["number"]
    settings: dict[str, Any] = {"configuration_client_keys_dir": str(keys.directory.parent)}
    code, said = controller.play(*ONE, "-e", json.dumps(settings))
    assert code != 0, said
    settings |= {"configuration_client_key_token": str(token)}
    settings |= {"configuration_client_key_uris": {"configuration": uri("configuration")}}
    code, said = controller.play(*ONE, "-e", json.dumps(settings))
    assert code == 0, said
    assert "471147" not in said
    assert one.result()["present"]["number"] > number
    assert "8009" in ruleset(one)


def test_list_of_revoked_certificates_comes_first(
    controller: Controller, one: Machine, server_keys: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Key `configuration` was replaced; whoever has the old one is heard by this machine no more."""
    keys = ProductKeys(Path(shutil.copytree(server_keys, tmp_path / "server")))
    request = KeyRequest(name="server", revoke=(keys.certificate("configuration").fingerprint,))
    key_directory.ensure(keys, request, sandbox, now=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
    controller.allow(PORT, 8012)
    code, said = controller.play(*ONE, "-e", f"fleet_keys_dir={tmp_path}")
    assert code == 0, said + one.host.journal()
    assert "dport 8012 accept" in ruleset(one)
    assert one.host("cat", "/var/lib/revocations/root.crl") == keys.revocations.read_text()
    assert one.result()["revocations"] == {"seen": 2, "known": 2}
    controller.allow(PORT, 8013)
    code, said = controller.play(*ONE)
    assert code != 0
    assert re.search(rf"{NAMES[0]}: refused configuration \d+: not signed .*: certificate revoked", said), said


@pytest.mark.extended  # twenty machines
def test_many_hosts_at_once(
    controller: Controller, configured: tuple[Path, ...], server_keys: Path, tmp_path: Path
) -> None:
    """One of them is not there: it holds up no other."""
    with ExitStack() as stack:
        machines = []
        for number in range(1, MACHINES):
            name = NAMES[number]
            files = tree(PORT, name=name)
            machine = stack.enter_context(started(name, configured, server_keys, tmp_path / name, files))
            stack.enter_context(reached(machine, number, controller, tmp_path / f"{name}.log"))
            # Two processors treat them all: twenty daemons of IKE do not start in time.
            machine.host("systemctl", "mask", "--runtime", "strongswan.service")
            machine.host.write("/run/seconds", "180\n")
            machine.host("mount", "--bind", "/run/seconds", "/usr/lib/vauban/configuration/seconds")
            machines.append(machine)
        controller.know(machines, first=1)
        controller.allow(PORT, 8010)
        code, said = controller.play("--limit", ",".join(NAMES[1:]))
        assert code == 0, said
        assert len(re.findall(r"paris-files\d\d: configuration \d+ is in force", said)) == MACHINES - 1
        for machine in machines:
            assert "dport 8010 accept" in ruleset(machine)
        machines[0].host("ip", "link", "set", "wire", "down")
        controller.allow(PORT, 8011)
        code, said = controller.play("--limit", ",".join(NAMES[1:]))
        assert code != 0
        assert f"{NAMES[1]}: cannot be reached: " in said
        assert len(re.findall(r"paris-files\d\d: configuration \d+ is in force", said)) == MACHINES - 2
        code, said = controller.play("--limit", ",".join(NAMES[2:]))
        assert code == 0, said
        assert len(re.findall(r"paris-files\d\d: has configuration \d+ already", said)) == MACHINES - 2
