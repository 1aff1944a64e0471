# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import fnmatch
import os
import re
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

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
        arguments["files"] = [
            self._file(path, os.path.join(dest, str(path.relative_to(source))), modes, task_vars or {})
            for path in sorted(source.rglob("*"))
            if path.is_file()
        ]
        module = "vauban.fleet.config_tree"
        result.update(self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars))
        return result

    def _file(self, path: Path, dest: str, modes: dict[str, str], task_vars: dict[str, Any]) -> dict[str, str]:
        content = path.read_bytes()
        if path.suffix == ".j2":
            dest = dest.removesuffix(".j2")
            # Role files are the author's own text, as the sources of ansible.builtin.template are.
            text = trust_as_template(self._loader.get_text_file_contents(str(path)))
            templar = self._templar.copy_with_new_env(available_variables=task_vars)
            rendered = templar.template(text, escape_backslashes=False)
            content = b"" if rendered is None else str(rendered).encode("utf-8")
        default = "0755" if os.access(path, os.X_OK) else "0644"
        mode = next((mode for pattern, mode in modes.items() if fnmatch.fnmatch(dest, pattern)), default)
        return {"path": dest, "content": base64.b64encode(content).decode(), "mode": mode}
