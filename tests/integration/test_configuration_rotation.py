# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Key `configuration` is stolen, revoked and replaced: a running machine refuses the old one and takes the new."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
from configurations import INCOMING, Machine, archive, entries, statement, tree
from configurations import machine as started

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

HIGHEST = 9007199254740990  # that a machine takes, nearly
KEPT = "/var/lib/revocations/root.crl"


@pytest.fixture
def machine(
    configured: tuple[Path, ...], server_keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    with started("rotated", configured, server_keys, tmp_path_factory.mktemp("client"), tree(22)) as made:
        made.host("systemctl", "start", "revocations.path")
        yield made


def _refused(machine: Machine, number: int, revocations: int) -> str:
    content = archive(entries(tree(22)))
    signed = machine.sign(statement(content, number, revocations=revocations))
    machine.drop(content, signed)
    done = machine.outcome(signed)
    assert done["state"] == "refused", done
    return str(done["reason"])


def _drop_list(machine: Machine, content: bytes) -> None:
    """As account admin leaves it."""
    machine.host.write(f"{INCOMING}/root.crl.part", content.decode(), owner="admin:admin", mode="0600")
    machine.host("mv", f"{INCOMING}/root.crl.part", f"{INCOMING}/root.crl")


def test_stolen_key_is_revoked_and_the_site_has_its_machine_back(
    machine: Machine, server_keys: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The thief used up the numbers, so that no configuration of the site would ever count again."""
    assert machine.bring(tree(22, 666), HIGHEST)["state"] == "applied"
    assert "is not higher than" in _refused(machine, 2, 1)
    keys = ProductKeys(Path(shutil.copytree(server_keys, tmp_path / "server")))
    first = keys.revocations.read_bytes()
    request = KeyRequest(name="server", kind="development", revoke=(keys.certificate("configuration").fingerprint,))
    key_directory.ensure(keys, request, sandbox, now=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
    _drop_list(machine, keys.revocations.read_bytes())
    hosts.wait_for(lambda: machine.host.ask("test", "-e", KEPT).returncode == 0, "the list")
    assert machine.host("cat", KEPT) == keys.revocations.read_text()
    assert "key configuration: certificate revoked" in _refused(machine, HIGHEST + 1, 2)
    machine.keys = keys.directory
    content = archive(entries(tree(22, 8006)))
    signed = machine.sign(statement(content, 3, revocations=2))
    machine.drop(content, signed)
    assert machine.outcome(signed, ended=False)["state"] == "trying"
    machine.confirm(3)
    assert machine.outcome(signed)["state"] == "applied"
    assert machine.result()["present"]["number"] == 3
    assert machine.result()["revocations"] == {"seen": 2, "known": 2}
    assert "was current; this machine has had 2" in _refused(machine, HIGHEST, 1)
    # User update brings the next one.
    key_directory.ensure(
        keys,
        KeyRequest(name="server", revoke=(keys.certificate("publish").fingerprint,)),
        sandbox,
        now=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5),
    )
    machine.host.write("/var/lib/update/root.crl.new", keys.revocations.read_text())
    machine.host("mv", "/var/lib/update/root.crl.new", "/var/lib/update/root.crl")
    hosts.wait_for(lambda: machine.host("cat", KEPT) == keys.revocations.read_text(), "the next list")
    machine.host("rm", "/var/lib/update/root.crl")
    # Neither does the list of before come back, nor one that is none.
    for content in (first, b"no list\n"):
        _drop_list(machine, content)
        hosts.wait_for(lambda: machine.host.ask("test", "-e", f"{INCOMING}/root.crl").returncode != 0, "the end of it")
    hosts.wait_for(lambda: machine.host.state("revocations.service") == "inactive", "revocations.service")
    assert machine.host("cat", KEPT) == keys.revocations.read_text()
