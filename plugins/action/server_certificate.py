# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._site import load
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import files
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki.issue import Issuer


class ActionModule(ControllerAction):
    """Signs what a web server of the site asks for."""

    SPEC: ClassVar[dict[str, Any]] = {
        "site_file": {"type": "path", "required": True},
        "name": {"type": "str", "required": True},
        "request": {"type": "str", "required": True},
        "issuing_key": {"type": "path", "required": True},
        "issuing_passphrase": {"type": "str", "no_log": True},
        "days": {"type": "int", "default": 365},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Sign, unless what is there lasts."""
        loaded = load.read(Path(arguments["site_file"]))
        key, passphrase = Path(arguments["issuing_key"]), arguments["issuing_passphrase"]
        issuer = Issuer.of_site(loaded.plan, loaded.file, key, passphrase, arguments["days"])
        issuer.check_authorities()  # its key is needed only if it has to sign
        path = issuer.directory / files.SERVERS / f"{arguments['name']}.pem"
        if self._task.check_mode:
            return {"changed": not path.exists(), "path": str(path), "chain": ""}
        before = path.read_bytes() if path.exists() else b""
        chain = issuer.issue_server(arguments["name"], arguments["request"])
        return {"changed": path.read_bytes() != before, "path": str(path), "chain": chain}
