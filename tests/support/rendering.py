# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host configuration that a role gives a machine, from the role's own templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ansible_collections.vauban.fleet.plugins.module_utils import _errors
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.render import environment
from ansible_collections.vauban.fleet.plugins.plugin_utils._tree import sources

ROLES = Path(_errors.__file__).parents[2] / "roles"


def render(role: str, *, tree: str = "root", **variables: Any) -> dict[str, str]:
    """Contents by path, without the leading slash. Defaults and constants of the role are there without being named.

    :param tree: which of the role's directories of templates.
    """
    known = {**defaults(role), **constants(role), **variables}
    jinja = environment()
    rendered = {}
    for source in sources(ROLES / role / "templates" / tree):
        text = source.path.read_text("utf-8")
        for place, item in source.instances(known.__getitem__):
            rendered[place] = jinja.from_string(text).render({**known, "item": item}) if source.template else text
    return rendered


def defaults(role: str) -> dict[str, Any]:
    """The variables of a role that nobody gave a value."""
    return _read(ROLES / role / "defaults/main.yml")


def constants(role: str) -> dict[str, Any]:
    """The variables of a role that nobody is to give a value."""
    return _read(ROLES / role / "vars/main.yml")


def lay_down(role: str, directory: Path, **variables: Any) -> None:
    """Write that configuration below a directory, beside what of the role belongs to the image."""
    for source in sources(ROLES / role / "files/root"):
        _write(directory / source.dest, source.path.read_text("utf-8"))
        if source.executable:
            (directory / source.dest).chmod(0o755)
    for place, content in render(role, **variables).items():
        _write(directory / place, content)


def _read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text("utf-8")) or {}) if path.exists() else {}


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")
