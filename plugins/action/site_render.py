# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json, write_text
from ansible_collections.vauban.fleet.plugins.plugin_utils import _changes
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import inspector, load, render, report, store
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.host import Views
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION

_ROLES = COLLECTION / "roles"
_SUMMARY = "render.json"
_REPORT = "report.html"
_SHOWN = 20  # refusals


class ActionModule(ControllerAction):
    """Renders, has it judged, and only then lets hosts point to it. One call for the whole fleet."""

    SPEC: ClassVar[dict[str, Any]] = {
        "site_file": {"type": "path", "required": True},
        "hosts": {"type": "list", "elements": "str", "required": True},
        "dest": {"type": "path", "required": True},
        "sdk": {"type": "path", "required": True},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do nothing if nothing changed, else all of it."""
        loaded, sdk = load.load(Path(arguments["site_file"])), Path(arguments["sdk"])
        plan, hosts = loaded.plan, loaded.hosts(arguments["hosts"])
        output = store.Store(Path(arguments["dest"]) / plan.site.site)
        judges = inspector.judges(sdk, _ROLES)
        inputs = _digest.of_data(loaded.inputs, _code(), judges, hosts)
        summary = _read(output.directory / _SUMMARY)
        before = {name: output.current(name) for name in hosts}
        if summary.get("inputs") == inputs and before == {name: summary["trees"].get(name) for name in hosts}:
            reason = f"{len(hosts)} hosts: nothing changed"
            return {"changed": False, "reason": reason, **_told(summary["told"], output)}
        output.directory.mkdir(parents=True, exist_ok=True)
        renderer = render.Renderer(Views(plan), _ROLES, plan.authorities)
        judge = inspector.Inspector(loaded, output.directory, sdk, _ROLES, judges)
        log = output.directory / "render.log"
        trees: dict[str, str] = {}
        for name in hosts:
            tree = renderer.tree(name)
            trees[name] = output.write(tree)
            judge.add(name, trees[name], tree)
        verdicts = list(judge.verdicts(log))
        changed = [name for name in hosts if trees[name] != before[name]]
        gone = sorted(set(output.hosts()) - set(plan.members))
        refused = sorted({name for _path, names, _said in verdicts for name in names})
        facts = {
            "hosts": len(hosts),
            "hosts_changed": [name for name in changed if name not in refused],
            "hosts_refused": refused,
            "hosts_removed": gone,
            "files_checked": judge.count(),
        }
        counts = f"{len(changed)} changed, {len(gone)} removed; {judge.count()} distinct files judged"
        result = {"changed": bool(changed or gone), "reason": f"{len(hosts)} hosts: {counts}", **facts}
        if self._task.diff:
            result["diff"] = _diff(output, before, trees, changed)
        if verdicts:
            output.discard()
            raise AnsibleActionFail(_refusal(verdicts, len(refused), len(hosts)), result=facts)
        if self._task.check_mode:
            output.discard()
            return result
        drawing = judge.draw(report.graph(plan), log)
        output.switch(trees, keep=plan.members)
        write_text(output.directory / _REPORT, report.page(plan, loaded.warnings, drawing))
        # What a run that finds nothing changed will say.
        told = {**facts, "hosts_changed": []}
        write_json(output.directory / _SUMMARY, {"inputs": inputs, "trees": trees, "told": told})
        return {**result, **_told(facts, output)}


def _told(facts: Mapping[str, Any], output: store.Store) -> dict[str, Any]:
    return {**facts, "path": str(output.directory), "report": str(output.directory / _REPORT)}


def _refusal(verdicts: Sequence[tuple[str, list[str], str]], refused: int, hosts: int) -> str:
    lines = inspector.by_file(verdicts)
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([f"{refused} of {hosts} hosts are refused; none was changed", *lines[:_SHOWN], *more])


def _code() -> str:
    """Digest of all that makes text of a model, beside what roles put into images."""
    parts = [path for name in ("templates", "vars", "defaults") for path in sorted(_ROLES.glob(f"*/{name}"))]
    parts += [COLLECTION / "files/confinement", COLLECTION / "plugins/plugin_utils/_confinement.py"]
    return _digest.of_tree(*parts, COLLECTION / "plugins/plugin_utils/_site")


def _read(path: Path) -> dict[str, Any]:
    """What the last run remembered; empty if there was none that came to its end."""
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) and {"inputs", "trees", "told"} <= set(summary) else {}


def _diff(
    output: store.Store, before: Mapping[str, str | None], after: Mapping[str, str], changed: Iterable[str]
) -> list[dict[str, str]]:
    """What changes, the same change on many hosts shown once, and first what changes on most of them."""
    found: dict[tuple[str, str], list[str]] = {}
    seen: dict[tuple[str | None, str], list[tuple[str, str]]] = {}
    for name in changed:
        pair = (before[name], after[name])
        if pair not in seen:
            seen[pair] = [*_between(output, *pair)]
        for change in seen[pair]:
            found.setdefault(change, []).append(name)
    return _changes.shown(found)


def _between(output: store.Store, before: str | None, after: str) -> Iterable[_changes.Change]:
    return _changes.between(_texts(output.path(before)) if before else {}, _texts(output.path(after)))


def _texts(tree: Path) -> dict[str, str]:
    found = {}
    for directory, _directories, files in os.walk(tree):
        for name in files:
            path = os.path.join(directory, name)
            with open(path, encoding="utf-8", errors="replace") as stream:
                found[os.path.relpath(path, tree)] = stream.read()
    return found
