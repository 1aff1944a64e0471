# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference and the schema say what the model says."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from ansible_collections.vauban.fleet.plugins.plugin_utils._site import reference
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION

from .conftest import BASE, edited


def test_files_are_those_of_the_model() -> None:
    """Otherwise: make docs."""
    assert reference.SCHEMA.read_text() == reference.schema()
    assert reference.PAGE.read_text() == reference.page()


def test_every_key_is_explained() -> None:
    lines = [line for line in reference.page().splitlines() if line.startswith("| `")]
    assert len(lines) > 80
    assert [line for line in lines if line.rstrip("| ").count("|") < 4] == []


@pytest.mark.parametrize(
    "site", [BASE, yaml.safe_load((COLLECTION / "inventories/example_site/example.site.yml").read_text())]
)
def test_schema_takes_what_the_model_takes(site: object) -> None:
    jsonschema.Draft202012Validator(json.loads(reference.schema())).validate(site)


@pytest.mark.parametrize("change", [{"tunnel": {}}, {"places.north.number": "first"}, {"services.ssh.tcp.0": 70000}])
def test_schema_refuses_what_the_model_refuses(change: dict[str, object]) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(reference.schema()))
    assert list(validator.iter_errors(edited(change, [])))
