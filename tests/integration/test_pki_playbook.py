# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook pki: check, do, check again, do again; and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playing import ansible_playbook
from sdk import SDK

pytestmark = pytest.mark.skipif(
    not SDK.exists(), reason=f"no SDK at {SDK}: set FLEET_SDK, or build it with 'make build'"
)

Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run the playbook for product gateway with these options; the keys are in ``keys`` of the test's directory."""
    builder = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {
        "all": {
            "vars": {
                "fleet_sdk": str(SDK.resolve()),
                "fleet_scratch": str(tmp_path / "scratch"),
                "fleet_keys_dir": str(tmp_path / "keys"),
            },
            "children": {"builders": {"hosts": {"builder": builder}}, "products": {"hosts": {"gateway": {}}}},
        }
    }
    (tmp_path / "inventory.json").write_text(json.dumps(inventory))

    def call(*options: str) -> subprocess.CompletedProcess[str]:
        return ansible_playbook(tmp_path, "-i", "inventory.json", "vauban.fleet.pki", *options)

    return call


def test_check_do_check_do(play: Play, tmp_path: Path) -> None:
    changes = []
    for options in (["--check"], [], ["--check"], []):
        done = play("--diff", "-vvv", *options)
        assert done.returncode == 0, done.stdout
        changes.append("changed=1" in done.stdout)
        assert "PRIVATE KEY" not in done.stdout
        assert "AGE-SECRET-KEY" not in done.stdout
        if changes == [True]:
            assert not (tmp_path / "keys").exists()
    assert changes == [True, True, False, False]
    assert str(tmp_path / "keys/gateway") in done.stdout


def test_development_keys_do_not_become_production_keys(play: Play) -> None:
    assert play().returncode == 0
    refused = play("-e", "product_keys_kind=production")
    assert refused.returncode != 0
    assert "here are development keys" in refused.stdout + refused.stderr


def test_production_keys_with_their_roots_offline(play: Play, tmp_path: Path) -> None:
    made = play("-e", "product_keys_kind=production")
    assert made.returncode == 0
    assert "PK.key, KEK.key, escrow.key, noPK.auth" in made.stdout
    for name in ("PK.key", "KEK.key", "escrow.key", "noPK.auth"):
        (tmp_path / "keys/gateway" / name).unlink()
    production = json.dumps({"product_keys_kind": "production"})
    forgotten = play("-e", production)
    assert forgotten.returncode != 0
    assert "held_elsewhere" in forgotten.stdout + forgotten.stderr
    elsewhere = json.dumps({"product_keys_held_elsewhere": ["PK", "KEK", "escrow"]})
    checked = play("-e", production, "-e", elsewhere)
    assert checked.returncode == 0
    assert "changed=0" in checked.stdout
