# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks status and rollout: what machines say, and to whom a version goes, with a running Debian between them."""

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
from ansible_collections.vauban.fleet.plugins.module_utils._update.channel import Rollout
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


def rollout(controller: Controller, *settings: str) -> tuple[int, str, dict[str, Any]]:
    """Status, what was said, and what the channel says on the server then."""
    code, said = controller.play("rollout", *[word for setting in settings for word in ("-e", setting)])
    served = controller.get("update/v1/server/stable.p7m")
    assert served == controller.signed.read_bytes()
    found = re.search(rb"\{.*?\n\}", served, re.DOTALL)
    assert found is not None
    return code, said, json.loads(found.group())


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


def test_share_of_the_machines_goes_first_and_only_grows(controller: Controller) -> None:
    controller.build("1.1")
    code, said = controller.play("rollout", "-e", "version=1.1", "-e", "percent=10", "--check", "--diff")
    assert code == 0, said
    assert '+    "percent": 10' in said
    assert rollout(controller)[2]["version"] == "1.0"
    code, said, offer = rollout(controller, "version=1.1", "percent=10")
    assert code == 0, said
    assert (offer["version"], offer["rollout"]["percent"], offer["rollout"]["state"]) == ("1.1", 10, "running")
    assert controller.get("releases/server/1.1/manifest.json") is not None
    code, said, again = rollout(controller, "version=1.1", "percent=10")
    assert (code, again) == (0, offer), said
    assert not re.search(r"changed=[1-9]", said), said
    code, said, less = rollout(controller, "percent=-5")
    assert code != 0
    assert "-5 is no share of hundred" in said
    code, said, less = rollout(controller, "version=1.1", "percent=5")
    assert code != 0
    assert "it goes to 10 of 100 machines" in said
    assert less == offer
    code, said, more = rollout(controller, "percent=50")
    assert code == 0, said
    assert more["rollout"] == {**offer["rollout"], "percent": 50}


def test_machines_of_the_share_believe_what_was_signed(controller: Controller) -> None:
    """The program of role update_client, with what the controller's module has signed."""
    machine, program = controller.machine, ROOT / "roles/update_client/files/root/usr/lib/vauban/update-decide"
    machine.write("/usr/lib/vauban/update-decide", program.read_text())
    functions = ROOT / "roles/signatures/files/root/usr/lib/vauban/signatures"
    machine.write("/usr/lib/vauban/signatures", functions.read_text())
    for name in ("root.crt", "root.crl"):
        machine.write(f"/usr/lib/vauban/trust/{name}", (controller.directory / "keys/server" / name).read_text())
    machine.write("/usr/lib/os-release", "IMAGE_ID=server\nIMAGE_VERSION=1.0\nVAUBAN_SECURITY_EPOCH=1\n")
    machine.write("/etc/vauban/update/channel", "stable\n")
    told = rollout(controller)[2]["rollout"]
    share = Rollout(told["percent"], told["seed"])
    inside = [each for each in map(machine_id, range(500)) if share.includes(each)][:4]
    outside = [each for each in map(machine_id, range(500)) if not share.includes(each)][:4]
    before = machine("cat", "/etc/machine-id")
    script = "mkdir -p /tmp/work && cd /tmp/work && cp /srv/vauban/update/v1/server/stable.p7m channel.p7m"
    script += " && STATE_DIRECTORY=/tmp/work exec sh /usr/lib/vauban/update-decide channel"
    try:
        for each in (*inside, *outside):
            machine.write("/etc/machine-id", f"{each}\n")
            done = machine.ask("sh", "-euc", script)
            assert (done.returncode, "not yet" in done.stdout) == ((0, False) if each in inside else (10, True)), done
    finally:
        machine.write("/etc/machine-id", before)
    assert len(inside) == len(outside) == 4


def test_release_playbook_keeps_the_share(controller: Controller) -> None:
    code, said = controller.play("release", "-e", "version=1.1")
    assert code == 0, said
    assert rollout(controller)[2]["rollout"]["percent"] == 50


def test_pause_and_resume(controller: Controller) -> None:
    code, said, paused = rollout(controller, "rollout=pause")
    assert code == 0, said
    assert paused["rollout"]["state"] == "paused"
    code, said, same = rollout(controller, "percent=80")
    assert code != 0
    assert "it is paused" in said
    assert same == paused
    code, said, resumed = rollout(controller, "rollout=resume")
    assert code == 0, said
    assert (resumed["rollout"]["state"], resumed["rollout"]["percent"]) == ("running", 50)


def test_goes_on_while_few_fail_and_stops_by_itself_when_more_do(controller: Controller, fleet: Fleet) -> None:
    fleet.take(range(1, 10), "1.1")
    fleet.take([10], "1.1", "fell-back:1.1")
    fleet.ask([97], "1.0", "fell-back:1.1", source=STRANGER)  # no host, and so no reason
    code, said, offer = rollout(controller)
    assert code == 0, said
    assert offer["rollout"]["state"] == "running"
    fleet.take([11], "1.1", "failed:1.1")
    code, said, offer = rollout(controller, "percent=100")
    assert code != 0
    assert "of 11 machines that took it 2 failed and 0 are silent: host10, host11" in said
    assert (offer["rollout"]["state"], offer["rollout"]["percent"]) == ("paused", 50)
    code, said, offer = rollout(controller, "rollout=resume")
    assert code == 0, said
    code, said, offer = rollout(controller, "rollout_failures=0.2")
    assert (code, offer["rollout"]["state"]) == (0, "running"), said


def test_silence_of_those_that_took_it_stops_it(controller: Controller) -> None:
    code, said, offer = rollout(controller, "rollout_failures=0.2")
    assert (code, offer["rollout"]["state"]) == (0, "running"), said
    code, said, offer = rollout(controller, "rollout_failures=0.2", "update_server_silence=0.000001")
    assert code != 0
    assert "of 11 machines that took it 2 failed and 9 are silent" in said
    assert offer["rollout"]["state"] == "paused"


def test_withdrawn_version_does_not_come_back_and_a_higher_one_does(controller: Controller) -> None:
    code, said, offer = rollout(controller, "rollout=withdraw")
    assert code == 0, said
    assert offer["rollout"]["state"] == "withdrawn"
    for setting in ("rollout=resume", "rollout=pause", "percent=100"):
        code, said, same = rollout(controller, setting)
        assert code != 0
        assert "publish a better one under a higher version" in said
        assert same == offer
    controller.build("1.2")
    code, said, offer = rollout(controller, "version=1.2", "percent=0")
    assert code == 0, said
    assert (offer["version"], offer["rollout"]["percent"]) == ("1.2", 0)


@pytest.mark.extended  # most of a minute, for a branch of what the others try
def test_what_another_channel_offers_is_not_pruned(controller: Controller) -> None:
    code, said = controller.play("release", "-e", "version=1.0", "-e", "channel=beta")
    assert code == 0, said
    for version in ("1.3", "1.4", "1.5"):
        controller.build(version)
        code, said = controller.play("release", "-e", f"version={version}")
        assert code == 0, said
    assert controller.get("releases/server/1.0/manifest.json") is not None
    assert controller.get("releases/server/1.2/manifest.json") is None


@pytest.mark.parametrize("name", ["status", "rollout"])
def test_inventory_without_a_server_is_an_error(tmp_path: Path, name: str) -> None:
    done = ansible_playbook(tmp_path, "-i", "alone,", str(ROOT / f"playbooks/{name}.yml"))
    assert done.returncode != 0
    assert "update_servers has no host" in done.stdout + done.stderr
