# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._image import installation_medium
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import MANIFEST
from ansible_collections.vauban.fleet.plugins.module_utils._lock import locked
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision import expectations, media
from ansible_collections.vauban.fleet.plugins.plugin_utils._provision.action import installed_hosts, read_site
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import LoadedSite
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, sandbox_at

_CODE = COLLECTION / "plugins/module_utils/_image/installation_medium.py"


@dataclass(frozen=True)
class _Medium:
    """What one becomes."""

    release: expectations.Release
    installer: Path
    table: media.Table
    stage: Stage


class ActionModule(ControllerAction):
    """Makes media that start the installer of a release where there is no network boot, and know addresses."""

    SPEC: ClassVar[dict[str, Any]] = {
        "site_file": {"type": "path", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "releases": {"type": "list", "elements": "str", "required": True},
        "sdk": {"type": "path", "required": True},
        "keys": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One medium for each product of the hosts: it starts one installer."""
        loaded = read_site(arguments)
        hosts = installed_hosts(loaded, arguments["hosts"])
        with tempfile.TemporaryDirectory(prefix="vauban-medium-") as temporary:
            sandbox = sandbox_at(arguments["sdk"], Path(temporary))
            planned = self._plan(arguments, loaded, hosts, sandbox)
            before = {each.stage.output: each.stage.result().get("addresses", "") for each in planned}
            made = {each.stage.output: self._make(each, sandbox) for each in planned}
        changed = [path for path, reason in made.items() if reason is not None]
        described = [_described(each, made[each.stage.output]) for each in planned]
        result = {
            "changed": bool(changed),
            "reason": f"{len(planned)} media, {len(changed)} of them anew" if changed else "inputs unchanged",
            "media": described,
            "lines": [line for each in described for line in _lines(each)],
        }
        if not self._task.diff:
            return result
        shown = [each for each in planned if each.stage.output in changed]
        return {**result, "diff": [_diff(each, before[each.stage.output]) for each in shown]}

    def _plan(
        self, arguments: Mapping[str, Any], loaded: LoadedSite, hosts: Sequence[str], sandbox: Sandbox
    ) -> list[_Medium]:
        plan, keys = loaded.plan, Path(arguments["keys"])
        found = [Path(self._find_needle("files", str(each))) for each in arguments["releases"]]
        known = [(expectations.read_release(directory, keys, sandbox), directory) for directory in found]
        products = sorted({plan.members[name].host.product for name in hosts})
        chosen = expectations.choose(plan, products, [release for release, _directory in known])
        directories = {release.name: directory for release, directory in known}
        planned = []
        for product, release in chosen.items():
            directory = directories[release.name]
            part = json.loads((directory / MANIFEST).read_text("utf-8"))["installer"]
            table = media.table(plan, [name for name in hosts if plan.members[name].host.product == product])
            dest = Path(arguments["dest"]) / plan.site.site / f"{product}_{release.version}.img"
            inputs = {
                "installer": str(part["sha256"]),
                "addresses": _digest.of_data(table.text),
                "code": _digest.of_file(_CODE),
            }
            planned.append(_Medium(release, directory / part["file"], table, Stage(dest, inputs)))
        return planned

    def _make(self, medium: _Medium, sandbox: Sandbox) -> str | None:
        """Make it unless it is there; return why it had to be made."""
        stage = medium.stage
        if self._task.check_mode:
            return stage.why_stale()
        stage.output.parent.mkdir(parents=True, exist_ok=True)
        with locked(stage.output.parent):
            reason = stage.why_stale()
            if reason is not None:
                stage.begin()
                installation_medium.write(sandbox, medium.installer, medium.table.text, stage.output)
                found = {"size": stage.output.stat().st_size, "sha256": _digest.of_file(stage.output)}
                stage.finish({**found, "addresses": medium.table.text})
        return reason


def _described(medium: _Medium, reason: str | None) -> dict[str, Any]:
    known = medium.stage.result() if medium.stage.why_stale() is None else {}
    return {
        "path": str(medium.stage.output),
        "product": medium.release.product,
        "version": medium.release.version,
        "hosts": list(medium.table.hosts),
        "by_dhcp": medium.table.by_dhcp,
        "reason": reason or "inputs unchanged",
        **{key: known[key] for key in ("size", "sha256") if key in known},
    }


def _lines(described: Mapping[str, Any]) -> list[str]:
    """A medium, for people."""
    digest = f", SHA-256 {described['sha256']}" if "sha256" in described else ""
    count = len(described["hosts"])
    release = f"{described['product']} {described['version']}"
    first = f"{described['path']}: {release}, addresses of {count} host{'s' if count != 1 else ''}{digest}"
    return [first, *(f"{host} asks by DHCP: {reason}" for host, reason in described["by_dhcp"].items())]


def _diff(medium: _Medium, before: str) -> dict[str, str]:
    header = f"{medium.stage.output}: addresses"
    return {"before": before, "after": medium.table.text, "before_header": header, "after_header": header}
