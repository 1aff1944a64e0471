# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine takes another configuration, has it after a start, and after a loss of power the one before.

What is judged, refused, and taken back by a machine that goes on: integration/test_configuration_client.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from configurations import INCOMING, RESULT, STATE, archive, entries, statement
from machines import Boot, copy_with_raw_disk, reach
from shell import PROMPT, Shell
from updates import sign

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine

PIECE = 3000  # characters of a line to the shell
LATE = 900  # seconds, of an emulated machine


@pytest.fixture
def machine(instrumented_release: Path, boot: Boot, tmp_path: Path) -> Iterator[Machine]:
    """A copy of the built machine, which starts again when it is told to."""
    (tmp_path / "machine").mkdir()
    with boot(replace(copy_with_raw_disk(instrumented_release, tmp_path / "machine"), reboots=True)) as running:
        reach(running, PROMPT)
        yield running


def started(machine: Machine) -> Shell:
    """The shell of the machine that comes up now."""
    machine.serial.wait_for(r"BdsDxe: starting", timeout=LATE)
    machine.serial.wait_for(PROMPT, timeout=LATE)
    return Shell(machine)


def files(shell: Shell, *ports: int) -> dict[str, str]:
    """A configuration of this machine: its name, and a ruleset that says which one it is."""
    rules = "".join(f"\t\ttcp dport {port} accept\n" for port in ports)
    chain = "type filter hook input priority filter; policy drop;"
    table = f"flush ruleset\ntable inet filter {{\n\tchain input {{\n\t\t{chain}\n{rules}\t}}\n}}\n"
    return {"etc/hostname": shell("cat /etc/hostname"), "etc/nftables.d/host.nft": table}


def drop(shell: Shell, keys: ProductKeys, scratch: Path, number: int, tree: dict[str, str]) -> None:
    """Leave a signed configuration, as sftp would."""
    content = archive(entries(tree))
    said = statement(content, number, product="gateway", host=tree["etc/hostname"].strip())
    (scratch / "statement.json").write_text(json.dumps(said))
    sign(scratch / "statement.json", keys.directory, "configuration", scratch / "signed", attached=True)
    for name, data in (("configuration.tar.gz", content), ("configuration.p7m", (scratch / "signed").read_bytes())):
        shell("rm -f /run/piece")
        text = base64.b64encode(data).decode()
        for first in range(0, len(text), PIECE):
            shell(f"printf %s {text[first : first + PIECE]} >> /run/piece")
        shell(f"base64 -d /run/piece > /run/whole; install -m 600 -o admin /run/whole {INCOMING}/{name}.part")
        shell(f"mv {INCOMING}/{name}.part {INCOMING}/{name}")


def last(shell: Shell, *states: str) -> dict[str, Any]:
    """What the machine says, once it is one of these."""
    wanted = "|".join(states)
    shell(f"until jq -r .last.state {RESULT}/configuration.json | grep -qxE '{wanted}'; do sleep 2; done", timeout=LATE)
    return dict(json.loads(shell(f"cat {RESULT}/configuration.json"))["last"])


def test_configuration_is_in_force_and_stays(machine: Machine, keys: ProductKeys, tmp_path: Path) -> None:
    shell = Shell(machine)
    tree = files(shell, 8006)
    drop(shell, keys, tmp_path, 1, tree)
    assert last(shell, "trying", "refused")["state"] == "trying"
    assert "8006" in shell("nft list ruleset")
    shell(f"echo 1 > /run/whole; install -m 600 -o admin /run/whole {INCOMING}/configuration.confirm")
    assert last(shell, "applied", "went back")["state"] == "applied"
    machine_id = shell("cat /etc/machine-id")
    assert len(machine_id.strip()) == 32
    machine.serial.send("systemctl reboot\n")
    shell = started(machine)
    assert "8006" in shell("nft list ruleset")
    assert shell("cat /etc/nftables.d/host.nft").strip() == tree["etc/nftables.d/host.nft"].strip()
    assert shell("cat /etc/machine-id") == machine_id
    assert shell("systemctl list-units --failed --no-legend --plain --no-pager") == ""
    assert last(shell, "applied")["number"] == 1


@pytest.mark.extended  # the same as integration/test_configuration_client.py tries, on a whole machine
def test_after_a_loss_of_power_the_one_before_is_in_force(machine: Machine, keys: ProductKeys, tmp_path: Path) -> None:
    """It starts once more by itself: systemd has read the units of the one that goes."""
    shell = Shell(machine)
    drop(shell, keys, tmp_path, 1, files(shell, 8006))
    assert last(shell, "trying", "refused")["state"] == "trying"
    shell(f"test -e {STATE}/trial")
    machine.serial.send("echo b > /proc/sysrq-trigger\n")  # no program of the machine does anything more
    machine.serial.wait_for(r"BdsDxe: starting", timeout=LATE)
    shell = started(machine)
    assert "8006" not in shell("nft list ruleset")
    told = last(shell, "went back")
    assert (told["number"], told["reason"]) == (1, "the machine was started again before it was confirmed")
    assert shell.ask(f"test -e {STATE}/trial").status != 0
    assert shell("systemctl list-units --failed --no-legend --plain --no-pager") == ""
