# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation of an action says is what the action takes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.vauban.fleet.plugins.module_utils import _errors

COLLECTION = Path(_errors.__file__).parents[2]
PACKAGE = "ansible_collections.vauban.fleet.plugins.action"
# Their actions hand all options to modules of these names, which have the specifications.
MODULES = {"config_tree", "release_store"}
ACTIONS = sorted({path.stem for path in (COLLECTION / "plugins/action").glob("*.py")} - MODULES)
BUILD_GROUP = yaml.safe_load((COLLECTION / "meta/runtime.yml").read_text())["action_groups"]["build"]


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What ansible-doc shows, by name of the module."""
    names = [f"vauban.fleet.{name}" for name in ACTIONS]
    command = [sys.executable, "-m", "ansible", "doc", "--type", "module", "--json", *names]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTION.parents[2]), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {name.rpartition(".")[2]: shown for name, shown in json.loads(done.stdout).items()}


def specification(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = importlib.import_module(f"{PACKAGE}.{name}").ActionModule.SPEC
    return spec


def plain(option: dict[str, Any]) -> dict[str, Any]:
    facts = {key: option.get(key) for key in ("type", "elements", "choices", "default")}
    return {**facts, "required": bool(option.get("required"))}


@pytest.mark.parametrize("name", ACTIONS)
def test_options_are_those_of_the_specification(name: str, documented: dict[str, Any]) -> None:
    options = {key: plain(option) for key, option in documented[name]["doc"]["options"].items()}
    assert options == {key: plain(option) for key, option in specification(name).items()}


@pytest.mark.parametrize("name", ACTIONS)
def test_attributes_say_what_a_run_does(name: str, documented: dict[str, Any]) -> None:
    attributes = documented[name]["doc"]["attributes"]
    assert {"check_mode", "diff_mode", "idempotent", "action"} <= set(attributes)
    assert all(attribute["support"] in ("full", "partial", "none", "N/A") for attribute in attributes.values())
    assert ("action_group" in attributes) == (name in BUILD_GROUP)


@pytest.mark.parametrize("name", ACTIONS)
def test_examples_use_options_that_exist(name: str, documented: dict[str, Any]) -> None:
    tasks = [task[f"vauban.fleet.{name}"] for task in yaml.safe_load(documented[name]["examples"])]
    spec = specification(name)
    for options in tasks:
        assert set(options) <= set(spec)
        assert {key for key, option in spec.items() if option.get("required")} <= set(options)


@pytest.mark.parametrize("name", ACTIONS)
def test_every_return_value_has_condition_type_and_sample(name: str, documented: dict[str, Any]) -> None:
    for key, value in documented[name]["return"].items():
        assert {"description", "returned", "type", "sample"} <= set(value), key


def test_members_of_the_action_group_share_the_options_it_is_for() -> None:
    for name in BUILD_GROUP:
        assert {"sdk", "work"} <= set(specification(name)), name
