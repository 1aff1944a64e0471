# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that repeat what another file decides."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def test_execution_environment_holds_the_collection_of_this_version() -> None:
    metadata, environment = read("galaxy.yml"), read("execution-environment.yml")
    name = f"dist/{metadata['namespace']}-{metadata['name']}-{metadata['version']}.tar.gz"
    assert environment["dependencies"]["galaxy"]["collections"] == [{"name": name, "type": "file"}]
    assert environment["additional_build_files"] == [{"src": f"build/{name}", "dest": "dist"}]


def test_execution_environment_has_the_ansible_that_requirements_name() -> None:
    core = read("execution-environment.yml")["dependencies"]["ansible_core"]["package_pip"]
    assert core in (ROOT / "requirements.in").read_text("utf-8").splitlines()


def test_files_that_an_execution_environment_reads_exist() -> None:
    for name in read("meta/execution-environment.yml")["dependencies"].values():
        assert (ROOT / name).is_file()


def test_requirements_for_awx_are_the_dependencies_of_the_collection() -> None:
    named = {part["name"]: part["version"] for part in read("requirements.yml")["collections"]}
    assert named == read("galaxy.yml")["dependencies"]


def test_unpacked_collections_are_releases_that_the_collection_accepts() -> None:
    for name, accepted in read("galaxy.yml")["dependencies"].items():
        package = import_module(f"ansible_collections.{name}.plugins")
        (directory,) = package.__path__
        manifest = json.loads((Path(directory).parent / "MANIFEST.json").read_text("utf-8"))
        assert manifest["collection_info"]["version"] in SpecifierSet(accepted), name
