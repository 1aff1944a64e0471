# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._tree import Source, sources

_MODE = re.compile("0?[0-7]{3,4}")


class ActionModule(ActionBase):
    """Renders the files on the controller and hands them to the module in one call."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Collect the files of ``src`` and execute the module."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            source = Path(self._find_needle("files", str(arguments["src"])))
        except KeyError as exc:
            raise AnsibleActionFail("src: required. Remedy: name the directory to lay down") from exc
        if not source.is_dir():
            raise AnsibleActionFail(f"src: {source}: not a directory")
        dest, modes = str(arguments.get("dest") or "/"), arguments.get("modes") or {}
        for pattern, mode in modes.items():
            # Without quotes YAML reads an octal number and hands over its decimal digits.
            if not isinstance(mode, str) or not _MODE.fullmatch(mode):
                raise AnsibleActionFail(f"modes: {pattern}: {mode!r} is no mode. Remedy: write it quoted, as '0640'")
        try:
            arguments["files"] = list(self._files(source, dest, modes, task_vars or {}))
        except FleetError as exc:
            raise AnsibleActionFail(str(exc)) from exc
        module = "vauban.fleet.config_tree"
        result.update(self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars))
        return result

    def _files(
        self, directory: Path, dest: str, modes: dict[str, str], task_vars: dict[str, Any]
    ) -> Iterator[dict[str, str]]:
        def value(name: str) -> Any:
            return self._templar.template(trust_as_template(f"{{{{ {name} }}}}"))

        for source in sources(directory):
            for place, item in source.instances(value):
                variables = task_vars if item is None else {**task_vars, "item": item}
                yield self._file(source, os.path.join(dest, place), modes, variables)

    def _file(self, source: Source, dest: str, modes: dict[str, str], variables: dict[str, Any]) -> dict[str, str]:
        content = source.path.read_bytes()
        if source.template:
            # Role files are the author's own text, as the sources of ansible.builtin.template are.
            text = trust_as_template(self._loader.get_text_file_contents(str(source.path)))
            templar = self._templar.copy_with_new_env(available_variables=variables)
            rendered = templar.template(text, escape_backslashes=False)
            content = b"" if rendered is None else str(rendered).encode("utf-8")
        default = "0755" if source.executable else "0644"
        mode = next((mode for pattern, mode in modes.items() if fnmatch.fnmatch(dest, pattern)), default)
        return {"path": dest, "content": base64.b64encode(content).decode(), "mode": mode}
