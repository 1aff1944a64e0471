# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import files, revocations
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.files import ISSUING, ROOT
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.signer import Signer


class ActionModule(ControllerAction):
    """Writes the revocation list of an authority."""

    SPEC: ClassVar[dict[str, Any]] = {
        "directory": {"type": "path", "required": True},
        "authority": {"type": "str", "choices": [ROOT, ISSUING], "required": True},
        "key": {"type": "path", "required": True},
        "passphrase": {"type": "str", "no_log": True, "required": True},
        "days": {"type": "int", "required": True},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Always write it anew: callers know when."""
        directory, name = Path(arguments["directory"]), arguments["authority"]
        path, authority = files.list_path(directory, name), files.authority_path(directory, name)
        signer = Signer(authority, Path(arguments["key"]), arguments["passphrase"], f"site_pki_{name}_passphrase")
        result: dict[str, Any] = {"changed": True, "path": str(path)}
        if self._task.check_mode and not (authority.exists() and signer.key.exists()):
            return {**result, "revoked": 0}  # an earlier task would make them
        certificate = files.read_certificate(authority)
        before, after = revocations.renewed(certificate, directory, name)
        if self._task.diff:
            result["diff"] = {
                "before_header": str(path),
                "after_header": str(path),
                "before": "".join(f"{serial:x}\n" for serial in before),
                "after": "".join(f"{serial:x}\n" for serial in after),
            }
        key = signer.load()
        if not self._task.check_mode:
            content = revocations.signed(certificate, key, directory, name, days=arguments["days"])
            with replacing_file(path) as temporary:
                temporary.write_bytes(content)
        return {**result, "revoked": len(after)}
