# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._image.layer import LAYER
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, remove_tree
from ansible_collections.vauban.fleet.plugins.plugin_utils._roles import role_path
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import StepAction, sandbox_at

# What Ansible itself adds to a host's variables, and what this build adds: none of it configures the product.
_FOREIGN: tuple[str, ...] = ("_", "ansible_", "rootfs_", "inventory_", "group", "omit", "playbook_dir")
_FOREIGN += ("hostvars", "environment", "vars")
# Where this machine keeps things: the same product comes out wherever that is.
_PLACES = {
    *("fleet_assets_dir", "fleet_build_dir", "fleet_export_path", "fleet_keys_dir", "fleet_lock_file", "fleet_mirrors"),
    *("fleet_package_set_dirs", "fleet_scratch", "fleet_sdk", "product_assets_dir", "product_build_dir"),
    *("product_export_path", "product_hardware_directories", "product_key_token", "product_keys_dir"),
    *("product_keys_path", "product_lock_file", "product_mirrors", "product_package_set_dirs", "product_scratch"),
    "product_sdk",
}
# Settings of what is made from the finished tree. They reach it only if a role or another variable names them.
_OF_IMAGES = {
    *("product_author", "product_disk_size", "product_enrolment", "product_hardening_arguments"),
    *("product_escrow_recipients", "product_installation", "fleet_enrolment", "fleet_escrow_recipients"),
    *("product_kernel_arguments", "product_root_format", "product_tpm_pcrs"),
}
RECORD = "record.jsonl"


class ActionModule(StepAction):
    """Opens the layer that roles write to, empty if anything that reaches it changed; and closes it after them."""

    SPEC: ClassVar[dict[str, Any]] = {
        "state": {"type": "str", "choices": ["opened", "closed"], "required": True},
        "base": {"type": "path", "required": True},
        "sdk": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "roles": {"type": "list", "elements": "str", "required": True},
    }

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """The tree below, the host's variables, and the files of every role that takes part."""
        variables = self.task_vars["hostvars"].raw_get(self.task_vars["inventory_hostname"])
        chosen = {name: value for name, value in variables.items() if not name.startswith(_FOREIGN)}
        chosen = {name: value for name, value in chosen.items() if name not in _PLACES}
        layer = Path(arguments["dest"])
        roles = {name: role_path(name, self) for name in arguments["roles"]}
        for entry in _record(layer):
            if entry.get("role") and entry["role"] not in roles:
                roles[entry["role"]] = self._path_of_recorded(entry)
        # Role product, which runs this, has those settings for the images it makes later.
        configuring = [path for name, path in roles.items() if name != self._task._role.get_name()]
        chosen = _without_unnamed(chosen, _OF_IMAGES, configuring)
        inputs = {
            "base tree": digest_of(Path(arguments["base"])),
            "roles": _digest.of_data({name: _digest.of_tree(path) for name, path in roles.items() if path.is_dir()}),
            "list of roles": _digest.of_data(arguments["roles"]),
            **{f"variable {name}": _digest.of_data(value) for name, value in chosen.items()},
        }
        return Stage(layer / "upper", inputs)

    def _path_of_recorded(self, entry: Mapping[str, str]) -> Path:
        """A role that took part lies where it is found now; one that only another role can find, where it was."""
        try:
            return role_path(entry["role"], self)
        except FleetError:
            return Path(entry["role_path"])

    def build(self, arguments: Mapping[str, Any], stage: Stage) -> None:
        """Empty the layer in state ``opened``: only closing it makes it whole."""
        if arguments["state"] == "closed":
            super().build(arguments, stage)
            return
        stage.begin()
        layer = stage.output.parent
        for name in ("upper", "work"):
            remove_tree(layer / name)
        (layer / RECORD).unlink(missing_ok=True)

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Check that every write of a role was recorded; the origin of each file is part of the release."""
        record = _record(stage.output.parent)
        if not record:
            raise FleetError(
                "no task was recorded, so the origin of files is unknown",
                where="ansible.cfg: callbacks_enabled",
                remedy="add vauban.fleet.origin to callbacks_enabled",
            )
        files = {path: entry["origin"] for entry in record for path in entry["paths"]}
        layer = stage.output.parent
        content = inside.call(
            sandbox_at(arguments["sdk"], layer),
            "_image.layer.content",
            {},
            binds=[Bind(stage.output, LAYER)],
            epoch=0,
            log=layer / "root_layer.log",
        )
        # Later steps look at what roles wrote, not at the variables they read: most variables do not reach the image.
        configuration = {name: digest for name, digest in stage.inputs.items() if name != "base tree"}
        return {
            "files": files,
            "content": _digest.of_data(content, files),
            "inventory": _digest.of_data(configuration),
        }


def _without_unnamed(variables: dict[str, Any], names: Set[str], roles: Iterable[Path]) -> dict[str, Any]:
    """The variables without those of ``names`` that neither a file of a role nor the value of another names."""
    texts = [path.read_bytes() for role in roles for path in role.rglob("*") if path.is_file()]
    rest = {name: value for name, value in variables.items() if name not in names}
    text = b"\n".join([*texts, json.dumps(rest, default=str).encode()])
    named = {name for name in names & variables.keys() if name.encode() in text}
    return _without_unnamed(variables, names - named, roles) if named else rest


def _record(layer: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (layer / RECORD).read_text("utf-8").splitlines()]
    except FileNotFoundError:
        return []
