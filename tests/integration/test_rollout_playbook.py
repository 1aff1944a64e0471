# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook status: what machines say to a running Debian that offers updates."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import offering
import pytest
from offering import NAME, Controller
from playing import ansible_playbook
from prometheus_client.parser import text_string_to_metric_families
from provisioned import ROOT

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils._updates import Known

HOSTS = 20
STRANGER = "127.0.9.9"


def address(number: int) -> str:
    return f"127.0.1.{number}"


def machine_id(number: int) -> str:
    return f"{number:032x}"


# The last one comes from an address that says nothing of it.
FLEET: dict[str, Any] = {f"host{number}": {"ansible_host": address(number)} for number in range(1, HOSTS)}
FLEET[f"host{HOSTS}"] = {"ansible_host": "host.example.org", "fleet_machine_id": machine_id(HOSTS)}


class Fleet:
    """Machines that ask the server as role update_client does; they differ by address."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller

    def ask(
        self,
        numbers: Iterable[int],
        version: str,
        last: str = "ok",
        *,
        path: str = "",
        source: str = "",
        agent: str = "",
    ) -> None:
        """Each asks once.

        :param path: of the server, in place of the channel's.
        """
        script = []
        for number in numbers:
            words = f"vauban-update/1 product=server version={version} machine={machine_id(number)}"
            words += f" since=2026-11-01T07:00:00Z trial=no last={last}"
            come = source or (address(number) if number < HOSTS else "127.0.8.8")
            script.append(
                f"curl -sf --cacert /tmp/authority.pem --resolve {NAME}:443:127.0.0.1 --interface {come}"
                f" --user-agent '{agent or words}' -o /dev/null https://{NAME}/{path or 'update/v1/server/stable.p7m'}"
            )
        self.controller.machine("sh", "-euc", "\n".join(script))

    def take(self, numbers: Iterable[int], version: str, last: str = "ok") -> None:
        """They have fetched a version and run it, or have fallen back from it."""
        numbers = list(numbers)
        manifest = json.loads((self.controller.directory / f"build/server/{version}/manifest.json").read_text())
        self.ask(numbers, "1.0", path=f"releases/server/{version}/{manifest['bundle']['file']}")
        self.ask(numbers, version if last == "ok" else "1.0", last)

    def status(self, *options: str) -> tuple[str, dict[str, Any]]:
        """What people are shown, and what programs are."""
        code, said = self.controller.play("status", *options)
        assert code == 0, said
        written: dict[str, Any] = json.loads((self.controller.directory / "build/status/status.json").read_text())
        return said, written


@pytest.fixture(scope="module")
def controller(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with offering.controller(sandbox, tmp_path_factory.mktemp("controller"), FLEET) as made:
        made.build("1.0")
        code, said = made.play("release", "-e", "version=1.0")
        assert code == 0, said + made.machine.journal()
        yield made


@pytest.fixture(scope="module")
def fleet(controller: Controller) -> Fleet:
    return Fleet(controller)


def test_status_says_who_runs_what(fleet: Fleet) -> None:
    fleet.ask([1, 2, HOSTS], "1.0")
    fleet.ask([3], "1.0", "fell-back:0.99")
    fleet.ask([99], "0.9", source=STRANGER)
    fleet.ask([98], "0.9", source=STRANGER, agent="vauban-update/1 <script>")
    said, status = fleet.status()
    by_name = {each["host"]: each for each in status["machines"]}
    assert set(by_name) == {*FLEET, None}
    for name in ("host1", "host2", f"host{HOSTS}"):
        assert by_name[name]["report"]["version"] == "1.0"
        assert not by_name[name]["silent"]
    assert (by_name["host3"]["report"]["last"], by_name["host3"]["report"]["about"]) == ("fell-back", "0.99")
    assert by_name["host4"] == {"host": "host4", "silent": True, "note": "never heard of", "report": None}
    assert (by_name[None]["report"]["address"], by_name[None]["report"]["version"]) == (STRANGER, "0.9")
    assert status["malformed"] == 1
    assert re.search(r"host3 +server +1\.0 +2026-11-01 07:00 +\d+ s ago +fell-back 0\.99", said), said
    assert re.search(rf"{STRANGER} 00000000 .* not in the inventory", said), said
    assert "<script>" not in said


def test_status_is_read_by_prometheus(fleet: Fleet) -> None:
    fleet.status()
    text = (fleet.controller.directory / "build/status/status.prom").read_text()
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    silent = {sample.labels["host"]: sample.value for sample in families["vauban_update_silent"]}
    assert silent["host1"] == 0.0
    assert silent["host4"] == 1.0
    (fell_back,) = [s for s in families["vauban_update_info"] if s.labels["outcome"] == "fell-back"]
    assert (fell_back.labels["host"], fell_back.labels["about"]) == ("host3", "0.99")


def test_status_names_those_that_fell_silent(fleet: Fleet) -> None:
    said, status = fleet.status("-e", "update_server_silence=0.000001", "--check")
    assert re.search(r"host1 .* silent for \d+ (s|min)", said), said
    assert not next(each for each in status["machines"] if each["host"] == "host1")["silent"]  # nothing is written


def test_host_of_a_site_is_known_by_its_addresses_in_tunnels() -> None:
    site = str(ROOT / "inventories/example_site/example.site.yml")
    command = [sys.executable, "-m", "ansible", "inventory", "-i", site, "--host", "paris-gw1"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    variables = json.loads(done.stdout)
    addresses = Known.of("paris-gw1", variables).addresses
    assert variables["ansible_host"] in addresses
    assert len(addresses) > 2


@pytest.mark.parametrize("name", ["status"])
def test_inventory_without_a_server_is_an_error(tmp_path: Path, name: str) -> None:
    done = ansible_playbook(tmp_path, "-i", "alone,", str(ROOT / f"playbooks/{name}.yml"))
    assert done.returncode != 0
    assert "update_servers has no host" in done.stdout + done.stderr
