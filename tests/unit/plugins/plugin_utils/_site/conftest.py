# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site that is right, to be broken by tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import LoadedSite, load

SMALL = Path(__file__).parent / "small.site.yml"
BASE: dict[str, Any] = yaml.safe_load(SMALL.read_text())

Load = Callable[[dict[str, Any] | str], LoadedSite]


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    return tmp_path / "small.site.yml"


@pytest.fixture
def load_site(site_file: Path) -> Load:
    """Load a site given as data or as text."""

    def call(site: dict[str, Any] | str) -> LoadedSite:
        site_file.write_text(site if isinstance(site, str) else yaml.safe_dump(site, sort_keys=False))
        return load(site_file)

    return call


def edited(changes: dict[str, Any], dropped: list[str]) -> dict[str, Any]:
    """The small site with values set and keys dropped, each by its dotted path."""
    site = copy.deepcopy(BASE)
    for path, value in changes.items():
        parent, key = _parent(site, path)
        parent[key] = value
    for path in dropped:
        parent, key = _parent(site, path)
        del parent[key]
    return site


def _parent(node: Any, path: str) -> tuple[Any, Any]:
    *above, last = path.split(".")
    for key in above:
        node = node[int(key)] if isinstance(node, list) else node[key]
    return node, int(last) if isinstance(node, list) else last
