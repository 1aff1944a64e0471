# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""hawkBit says which version a machine takes and when, and hears what became of it; what is believed stays the same.

As test_update_client.py, with nginx as docs/updates.md shows it in front of a server that speaks hawkBit's API.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import ddi
import hosts
import pytest
from asking import NAME, STATE, USER, Updates, started
from certificates import P256, Authority, ec_key
from ddi import Hawkbit
from updates import PRODUCT

from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
NGINX = """
daemon off;
pid /run/front.pid;
error_log stderr warn;
events {}
http {
    access_log off;
    server {
        listen 8443 ssl;
        ssl_certificate /var/lib/vauban/https/certificate.pem;
        ssl_certificate_key /var/lib/vauban/https/key.pem;
        ssl_protocols TLSv1.3;
        root /srv/vauban;
        %s
    }
}
"""
WHOLE = {"boot-loader.efi", "bundle.raucb", "channel.p7m", "manifest.json", "manifest.json.p7s"}


class Managed(NamedTuple):
    """A machine that asks, and the hawkBit that it asks first."""

    updates: Updates
    hawkbit: Hawkbit


@pytest.fixture(scope="module")
def both(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Updates, Hawkbit]]:
    directory = tmp_path_factory.mktemp("hawkbit")
    (location,) = re.findall(r"(?m)^    location /default/controller/ \{\n(?:     .*\n)+    \}\n", _documentation())
    variables = {"update_client_url": f"https://{NAME}:8443", "update_client_resolve": [f"{NAME}:8443:127.0.0.1"]}
    authority = Authority.root("Example Root", ec_key(P256))
    with started(sandbox, authority, directory, **variables, update_client_hawkbit="default") as (machine, keys):
        machine.write("/etc/nginx/front.conf", NGINX % textwrap.dedent(location))
        machine.write("/etc/nginx/hawkbit.token", 'proxy_set_header Authorization "GatewayToken 0123456789abcdef";\n')
        machine.write("/run/ddi.py", Path(ddi.__file__).read_text())
        machine("mkdir", "/run/hawkbit")
        with ExitStack() as stack:
            stack.enter_context(machine.running("python3", "/run/ddi.py", "/run/hawkbit", log=directory / "ddi.log"))
            front = machine.running("/usr/sbin/nginx", "-c", "/etc/nginx/front.conf", log=directory / "front.log")
            stack.enter_context(front)
            asks = ("curl", "-skf", f"https://127.0.0.1:8443/default/controller/v1/{_name(machine)}")
            hawkbit = Hawkbit(machine.root / "run/hawkbit", _name(machine))
            hawkbit.wants()
            hosts.wait_for(lambda: machine.ask(*asks).returncode == 0, f"hawkBit; see {directory}")
            yield Updates(machine, keys, directory / "updates"), hawkbit


@pytest.fixture
def managed(both: tuple[Updates, Hawkbit]) -> Managed:
    updates, hawkbit = both
    updates.reset()
    hawkbit.forget()
    return Managed(updates, hawkbit)


def _documentation() -> str:
    return (ROOT / "docs/updates.md").read_text()


def _name(machine: hosts.Host) -> str:
    return machine("uname", "-n").strip()


def _brought(managed: Managed, action: int) -> None:
    """As if something had been brought for an action before."""
    path = f"{STATE}/hawkbit.action"
    managed.updates.machine.write(path, f"{action}\n")
    managed.updates.machine("chown", USER, path)


def test_version_that_hawkbit_wants_is_fetched_from_the_update_server(managed: Managed) -> None:
    """And hawkBit hears of it, once; no link of its own is followed."""
    managed.updates.publish()
    managed.hawkbit.deploys(7, "1.1.0", product=PRODUCT)
    assert managed.updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert managed.updates.offer() == WHOLE
    assert managed.updates.fetch() == (0, "ready to install: 1.1.0\n")
    assert managed.hawkbit.told() == [("deploymentBase/7", "proceeding", "none", "1.1.0 is there")]
    assert {each["authorization"] for each in managed.hawkbit.asked()} == {"GatewayToken 0123456789abcdef"}
    assert not [each for each in managed.hawkbit.asked() if "evil" in each["path"]]


def test_nothing_is_fetched_that_hawkbit_does_not_want(managed: Managed) -> None:
    """What was brought before it changed its mind is let go of."""
    managed.updates.publish()
    managed.hawkbit.deploys(7, "1.1.0", product=PRODUCT)
    assert managed.updates.fetch()[0] == 0
    managed.hawkbit.wants()
    assert managed.updates.fetch() == (0, "not yet: hawkBit wants nothing of this machine\n")
    assert managed.updates.offer() == set()


@pytest.mark.parametrize("held", [{"update": "skip"}, {"download": "skip", "update": "skip"}])
def test_nothing_is_fetched_before_its_time(managed: Managed, held: dict[str, str]) -> None:
    managed.updates.publish()
    managed.hawkbit.deploys(7, "1.1.0", product=PRODUCT, **held)
    assert managed.updates.fetch() == (0, "not yet: hawkBit wants nothing of this machine\n")
    assert managed.updates.offer() == set()
    assert managed.hawkbit.told() == []


def test_version_that_no_channel_offers_is_not_brought_by_hawkbit(managed: Managed) -> None:
    managed.updates.publish()
    managed.hawkbit.deploys(7, "1.2.0", product=PRODUCT)
    code, said = managed.updates.fetch()
    assert (code, said) == (0, "not yet: hawkBit wants version 1.2.0, and the channel offers 1.1.0\n")
    managed.updates.publish("1.0.0")
    assert managed.updates.fetch() == (0, "up to date: 1.0.0\n")
    assert managed.updates.offer() == set()
    assert [said[1:] for said in managed.hawkbit.told()] == [
        ("proceeding", "none", "the channel offers 1.1.0"),
        ("proceeding", "none", "up to date: 1.0.0"),
    ]


def test_release_of_another_signer_is_refused_whatever_hawkbit_wants(managed: Managed) -> None:
    managed.updates.publish(signer="configuration")
    managed.hawkbit.deploys(7, "1.1.0", product=PRODUCT)
    code, said = managed.updates.fetch()
    assert code == 100
    assert said.startswith("refused: the manifest is not signed with the product's key release: ")
    assert managed.updates.offer() == set()
    assert managed.updates.fetch()[0] == 100
    assert managed.hawkbit.told() == [("deploymentBase/7", "proceeding", "none", said.rstrip("\n"))]


@pytest.mark.parametrize(
    ("file", "content", "wanted", "feedback"),
    [
        (None, None, "1.0.0", ("closed", "success", "ok, runs 1.0.0")),
        (
            "last",
            "installed 1.1.0",
            "1.1.0",
            ("proceeding", "none", "installed already: 1.1.0; it runs after the next start"),
        ),
        ("last", "failed 1.1.0", "1.1.0", ("closed", "failure", "failed:1.1.0, runs 1.0.0")),
        ("failed", "1.1.0", "1.1.0", ("closed", "failure", "fell-back:1.1.0, runs 1.0.0")),
        (None, None, "0.9.0", ("closed", "failure", "ok, runs 1.0.0")),
        (None, None, "1.1.0\\nready: yes", ("closed", "failure", f"no software module {PRODUCT} with a version")),
    ],
)
def test_hawkbit_hears_how_it_ended(
    managed: Managed, file: str | None, content: str | None, wanted: str, feedback: tuple[str, ...]
) -> None:
    managed.updates.publish()
    managed.hawkbit.deploys(7, wanted, product=PRODUCT)
    _brought(managed, 7)
    if file is not None:
        managed.updates.machine.write(f"/var/lib/update-install/{file}", f"{content}\n")
    assert managed.updates.fetch()[0] == 0
    assert managed.updates.offer() == set()
    assert managed.hawkbit.told() == [("deploymentBase/7", *feedback)]


def test_version_that_failed_is_tried_again_by_a_new_action(managed: Managed) -> None:
    managed.updates.publish()
    _brought(managed, 7)
    managed.updates.machine.write("/var/lib/update-install/last", "failed 1.1.0\n")
    managed.hawkbit.deploys(8, "1.1.0", product=PRODUCT)
    assert managed.updates.fetch() == (0, "ready to install: 1.1.0\n")


@pytest.mark.parametrize(
    ("outcome", "execution", "finished"),
    [("failed 1.0.0", "closed", "success"), ("installed 1.1.0", "rejected", "none")],
    ids=["nothing is installed", "it waits for the next start"],
)
def test_action_is_called_off_as_long_as_nothing_is_installed(
    managed: Managed, outcome: str, execution: str, finished: str
) -> None:
    managed.updates.publish()
    managed.hawkbit.deploys(7, "1.1.0", product=PRODUCT)
    assert managed.updates.fetch()[0] == 0
    managed.updates.machine.write("/var/lib/update-install/last", f"{outcome}\n")
    managed.hawkbit.wants(cancelAction=9)
    assert managed.updates.fetch()[0] == 0
    assert managed.updates.offer() == set()
    assert managed.hawkbit.told()[-1][:3] == ("cancelAction/9", execution, finished)


def test_attributes_are_told_where_hawkbit_asks_for_them(managed: Managed) -> None:
    managed.updates.publish("1.0.0")
    managed.updates.fetch()
    managed.hawkbit.wants(attributes=True)
    managed.updates.fetch()
    (put,) = [each for each in managed.hawkbit.asked() if each["method"] == "PUT"]
    data = {"product": PRODUCT, "version": "1.0.0", "machine": hosts.MACHINE_ID, "channel": "stable"}
    assert json.loads(put["body"]) == {"mode": "merge", "data": data}


@pytest.mark.parametrize("answer", ["", "<html>", "[1]", '"text"', "{" * 100_000], ids=lambda text: text[:6])
def test_answer_that_makes_no_sense_is_none(managed: Managed, answer: str) -> None:
    managed.updates.publish()
    managed.hawkbit.put("", answer)
    code, said = managed.updates.fetch()
    assert code == 1
    assert re.search("no answer that counts: |more than 65536 bytes: ", said), said
    assert managed.updates.offer() == set()


@pytest.mark.parametrize(
    "answer",
    [
        {
            "_links": {
                "deploymentBase": {"href": "https://other.example/default/controller/v1/x/deploymentBase/../../7"}
            }
        },
        {"_links": {"deploymentBase": {"href": 7}}},
        {"_links": {"deploymentBase": "x"}},
        {"_links": [1]},
    ],
)
def test_link_of_another_form_leads_nowhere(managed: Managed, answer: dict[str, object]) -> None:
    managed.updates.publish()
    managed.hawkbit.put("", answer)
    assert managed.updates.fetch() == (0, "not yet: hawkBit wants nothing of this machine\n")
    assert len(managed.hawkbit.asked()) == 1


def test_nothing_is_fetched_while_hawkbit_is_away(managed: Managed) -> None:
    managed.updates.publish()
    managed.updates.machine("rm", f"/run/hawkbit/{_name(managed.updates.machine)}")
    code, said = managed.updates.fetch()
    assert code == 1
    assert "no answer that counts: " in said
    assert managed.updates.offer() == set()
