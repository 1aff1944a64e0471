# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vauban.fleet.plugins.module_utils import _release_store
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

_MODULE = "vauban.fleet.release_store"


class ActionModule(ActionBase):
    """Asks the target what it lacks, brings it there, and lets the module check it and give it its name."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Two calls of the module, with the files in between; one if nothing is missing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        given = arguments.get("releases")
        if not isinstance(given, list):
            raise AnsibleActionFail("releases: must be a list of directories. Remedy: name those of releases")
        try:
            directories = {release.name: (release, path) for release, path in self._read(given)}
        except FleetError as exc:
            raise AnsibleActionFail(str(exc), result={"failure": exc.as_failure()}) from None
        arguments["wanted"] = [release.as_dict() for release, _path in directories.values()]
        told = self._execute_module(module_name=_MODULE, module_args=arguments, task_vars=task_vars)
        if not (told.get("failed") or told.get("complete") or self._task.check_mode):
            told = self._bring([directories[name] for name in told["published"]], arguments, task_vars)
        told.pop("complete", None)
        result.update(told)
        return result

    def _read(self, given: list[Any]) -> list[tuple[_release_store.Release, Path]]:
        found = [(Path(self._find_needle("files", str(each)))) for each in given]
        releases = [(_release_store.read(path), path) for path in found]
        names = [release.name for release, _path in releases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise FleetError(f"more than one directory has {', '.join(twice)}", where="releases")
        return releases

    def _bring(
        self,
        missing: list[tuple[_release_store.Release, Path]],
        arguments: Mapping[str, Any],
        task_vars: dict[str, Any] | None,
    ) -> dict[str, Any]:
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()  # removed with whatever is in it when the task ends
        arrived = {}
        for number, (release, path) in enumerate(missing):
            place = shell.join_path(shell.tmpdir, f"release-{number}")
            self._low_level_execute_command(f"umask 077; mkdir {shell.quote(place)}")
            for file in release.files:
                self._transfer_file(str(path / file.name), shell.join_path(place, file.name))
            arrived[release.name] = place
        # A user other than root may be about to read them.
        self._fixup_perms2([shell.tmpdir, *arrived.values()])
        told: dict[str, Any] = self._execute_module(
            module_name=_MODULE, module_args={**arguments, "arrived": arrived}, task_vars=task_vars
        )
        return told
