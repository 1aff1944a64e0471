# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook build in check mode: what it foresees, and what it says about settings that cannot work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playing import ansible_playbook

BUILDER = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}

Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run the playbook in check mode for one product with these variables and options."""

    def call(*options: str, groups: dict[str, Any] | None = None, **variables: Any) -> subprocess.CompletedProcess[str]:
        known = groups or {"builders": {"hosts": {"builder": BUILDER}}, "products": {"hosts": {"gateway": {}}}}
        places = {f"fleet_{name}_dir": str(tmp_path / name) for name in ("build", "assets", "keys")}
        inventory = {"all": {"children": known, "vars": places}}
        (tmp_path / "inventory.json").write_text(json.dumps(inventory))
        words = ["--check", "-i", "inventory.json", "vauban.fleet.build", "-e", json.dumps(variables), *options]
        return ansible_playbook(
            tmp_path,
            *words,
            ANSIBLE_CALLBACKS_ENABLED="vauban.fleet.origin",
            ANSIBLE_STDOUT_CALLBACK="vauban.fleet.progress",
        )

    return call


def steps(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("  gateway")]


def test_a_first_build_is_foreseen_without_writing_anything(play: Play, tmp_path: Path) -> None:
    done = play("--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(steps(done)) == 16
    assert all("would be made" in line or "would change" in line for line in steps(done))
    assert [path.name for path in tmp_path.iterdir() if path.name != ".ansible"] == ["inventory.json"]


def test_the_tag_sdk_foresees_the_sdk_alone(play: Play) -> None:
    done = play("--tags", "sdk")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(steps(done)) == 3


@pytest.mark.parametrize(
    ("variables", "key", "said"),
    [
        ({"product_version": "a b"}, "product_version", "use up to 64 letters, digits, '.' and '-'"),
        ({"product_name": "Gate Way"}, "product_name", "use a-z first"),
        ({"fleet_volume_group": "-x"}, "product_volume_group", "use up to 32 letters"),
        ({"product_hardware_profiles": ["nosuch"]}, "product_hardware_profiles", "choose from common, "),
        ({"product_roles": ["nosuch"]}, "product_roles", "no role named 'nosuch'"),
        ({"product_root_format": "ext4"}, "product_root_format", "must be one of: erofs, squashfs, got: ext4"),
        ({"product_tpm_pcrs": ["x"]}, "product_tpm_pcrs", "cannot be converted to an int"),
        ({"product_tpm_pcrs": [11]}, "product_tpm_pcrs", "Got no match for: 11"),
        ({"product_instrumentation": ["nosuch"]}, "product_instrumentation", "Got no match for: nosuch"),
        (
            {"product_instrumentation": ["verbose_boot"], "product_keys_kind": "production"},
            "product_instrumentation",
            "production keys do not sign instrumentation",
        ),
        ({"product_state_places": [{"path": "/var"}]}, "product_state_places", "missing required arguments"),
        ({"fleet_lock_file": "/nonexistent"}, "/nonexistent", "run 'ansible-playbook vauban.fleet.lock'"),
        ({"product_name": "nosuch"}, "lock file", "no package set 'nosuch'"),
    ],
)
def test_bad_settings_fail_first_with_key_and_remedy(
    play: Play, tmp_path: Path, variables: dict[str, Any], key: str, said: str
) -> None:
    done = play(**variables)
    assert done.returncode == 2, done.stdout
    failed, *message = done.stdout.partition("FAILED")[2].splitlines()
    assert not failed
    assert key in "\n".join(message)
    assert said in "\n".join(message)
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "build").exists()


def test_all_that_is_wrong_is_said_at_once(play: Play) -> None:
    done = play(product_version="a b", product_hardware_profiles=["nosuch"])
    assert done.stdout.count("Remedy:") == 2


def test_production_keys_must_be_there(play: Play, tmp_path: Path) -> None:
    done = play(product_keys_kind="production")
    assert done.returncode == 2
    assert str(tmp_path / "keys/gateway") in done.stdout
    assert "playbook pki" in done.stdout


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"builders": {"hosts": {"builder": BUILDER}}}, "group products has no host"),
        ({"products": {"hosts": {"gateway": {}}}}, "group builders has no host"),
    ],
)
def test_an_inventory_without_a_group_is_an_error(play: Play, groups: dict[str, Any], said: str) -> None:
    done = play(groups=groups)
    assert done.returncode == 2
    assert said in done.stdout
    assert "Remedy: add" in done.stdout


def test_a_limit_that_matches_nothing_is_an_error(play: Play) -> None:
    done = play("--limit", "nosuch")
    assert done.returncode == 1
    assert "Could not match supplied host pattern, ignoring: nosuch" in done.stderr
