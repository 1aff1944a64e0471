# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._image import apt, lock
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction


class ActionModule(ControllerAction):
    """Resolves package sets against the archive and writes the lock file."""

    SPEC: ClassVar[dict[str, Any]] = {
        "path": {"type": "path", "required": True},
        "package_sets": {"type": "dict", "required": True},
        "directories": {"type": "list", "elements": "path", "default": []},
        "codename": {"type": "str", "default": "trixie"},
        "components": {"type": "list", "elements": "str", "default": ["main"]},
        "architecture": {"type": "str", "default": "amd64"},
        "mirrors": {"type": "dict", "default": {}},
        "keyring": {"type": "path", "default": str(apt.KEYRING)},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Resolve, compare with the present lock file, and replace it."""
        path = Path(arguments["path"])
        before = {package.name: package.version for package in lock.read(path).packages} if path.exists() else {}
        wanted = arguments["package_sets"].items()
        locked = apt.lock(
            {name: _packages(entries, arguments["directories"]) for name, entries in wanted},
            codename=arguments["codename"],
            mirrors=arguments["mirrors"] or apt.host_mirrors(),
            components=arguments["components"],
            architecture=arguments["architecture"],
            keyring=Path(arguments["keyring"]),
        )
        after = {package.name: package.version for package in locked.packages}
        changed = not path.exists() or path.read_text("utf-8") != locked.as_text()
        if changed and not self._task.check_mode:
            locked.write(path)
        kept = sorted(set(before) & set(after))
        return {
            "changed": changed,
            "packages": len(after),
            "bytes": sum(package.size for package in locked.packages),
            "added": sorted(set(after) - set(before)),
            "removed": sorted(set(before) - set(after)),
            "upgraded": {name: [before[name], after[name]] for name in kept if before[name] != after[name]},
            "diff": {
                "before_header": str(path),
                "after_header": str(path),
                "before": _listing(before),
                "after": _listing(after),
            },
        }


def _packages(entries: list[str], directories: list[str]) -> list[str]:
    """Package names; an entry ``@name`` stands for the file ``name.yml`` of package sets."""
    packages: list[str] = []
    for entry in entries:
        packages += _data.package_set(entry[1:], directories) if entry.startswith("@") else [entry]
    return sorted(set(packages))


def _listing(packages: dict[str, str]) -> str:
    return "".join(f"{name} {version}\n" for name, version in sorted(packages.items()))
