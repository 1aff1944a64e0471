# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, ClassVar

from ansible.release import __version__ as ansible_version

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import FORBIDDEN_UPDATE
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._image.layer import LAYER
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of
from ansible_collections.vauban.fleet.plugins.module_utils._lock import locked
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind
from ansible_collections.vauban.fleet.plugins.plugin_utils._roles import role_path
from ansible_collections.vauban.fleet.plugins.plugin_utils._snapshots import Inputs, Snapshots, ground_of
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, StepAction, sandbox_at

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
    *("product_escrow_threshold", "fleet_escrow_threshold"),
    *("product_kernel_arguments", "product_root_format", "product_tpm_pcrs"),
}
# What the modules and templates of roles are run by.
_CODE = (COLLECTION / "plugins", COLLECTION / "files")


class ActionModule(StepAction):
    """Opens the layer that roles write to, closes it after them, and keeps what it was after each of them.

    If anything that reaches the layer changed, it is opened as it was before the first role that the change reaches.
    """

    SPEC: ClassVar[dict[str, Any]] = {
        "state": {"type": "str", "choices": ["opened", "kept", "closed"], "required": True},
        "base": {"type": "path", "required": True},
        "sdk": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "roles": {"type": "list", "elements": "str", "required": True},
        "role": {"type": "str"},
        "from_nothing": {"type": "bool", "default": False},
        "certificates": {"type": "path"},
    }
    _start = 0

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """As every step; opening also says which roles have to run."""
        if arguments["state"] == "kept":
            return self._keep(arguments)
        result = super().act(arguments)
        if arguments["state"] == "opened":
            result["roles"] = arguments["roles"][self._start :] if result["changed"] else []
            if self._start and result["roles"]:
                result["reason"] += f"; from role {result['roles'][0]} on"
        return result

    def _keep(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        layer = Path(arguments["dest"])
        if not arguments["role"]:
            raise FleetError("required with state kept", where="role", remedy="name the role that just ran")
        if not arguments["from_nothing"] and not self._task.check_mode:
            with locked(layer):
                Snapshots(layer).keep(arguments["role"])
        return {"changed": False}

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """The tree below, the host's variables, and the files of every role that takes part."""
        chosen = self._variables(arguments)
        layer = Path(arguments["dest"])
        roles = {name: role_path(name, self) for name in arguments["roles"]}
        for entry in Snapshots(layer).record():
            for name, place in entry.get("roles", {}).items():
                roles.setdefault(name, self._find(name, place))
        # Role product, which runs this, has those settings for the images it makes later.
        configuring = [path for name, path in roles.items() if name != self._task._role.get_name()]
        chosen = _without_unnamed(chosen, _OF_IMAGES, configuring)
        inputs = {
            "base tree": digest_of(Path(arguments["base"])),
            "roles": _digest.of_data({name: _digest.of_tree(path) for name, path in roles.items() if path.is_dir()}),
            **({"from nothing": "required"} if arguments["from_nothing"] else {}),
            **_certificates(arguments["certificates"]),
            "list of roles": _digest.of_data(arguments["roles"]),
            **{f"variable {name}": _digest.of_data(value) for name, value in chosen.items()},
        }
        return Stage(layer / "upper", inputs)

    def _variables(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The variables of the host that may configure the product, as written; not what roles told meanwhile."""
        variables = self.task_vars["hostvars"].raw_get(self.task_vars["inventory_hostname"])
        before = Snapshots(Path(arguments["dest"])).names() if arguments["state"] == "closed" else None
        names = variables.keys() if before is None else variables.keys() & before
        return {name: variables[name] for name in variables if name in names and _configures(name)}

    def _find(self, name: str, place: str) -> Path:
        """A role that took part lies where it is found now; one that only another role can find, where it was."""
        try:
            return role_path(name, self)
        except FleetError:
            if not place:
                raise
            return Path(place)

    def _inputs(self, arguments: Mapping[str, Any]) -> Inputs | None:
        """What reaches each role; None if no snapshot is to be used."""
        if arguments["from_nothing"]:
            return None
        # The roles see the variables of the one that applies them.
        own = {**self._task._role._default_vars, **self._task._role._role_vars}
        known = {name: value for name, value in own.items() if name not in _PLACES} | self._variables(arguments)
        ground = ground_of(
            digest_of(Path(arguments["base"])),
            digest_of(Path(arguments["sdk"])),
            ansible_version,
            *_certificates(arguments["certificates"]).values(),
            trees=_CODE,
        )
        applying = self._task._role.get_name()
        return Inputs(ground, applying, arguments["roles"], known, _OF_IMAGES, functools.cache(self._find))

    def build(self, arguments: Mapping[str, Any], stage: Stage) -> None:
        """Empty the layer in state ``opened``, or take it back some roles: only closing it makes it whole."""
        if arguments["state"] == "closed":
            super().build(arguments, stage)
            return
        stage.begin()
        names = self._variables(arguments)
        self._start = Snapshots(stage.output.parent).open(self._inputs(arguments), names)

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Check that every write of a role was recorded; the origin of each file is part of the release."""
        snapshots = Snapshots(stage.output.parent)
        record = snapshots.record()
        if not any("origin" in entry for entry in record):
            raise FleetError(
                "no task was recorded, so the origin of files is unknown",
                where="ansible.cfg: callbacks_enabled",
                remedy="add vauban.fleet.origin to callbacks_enabled",
            )
        wrong = snapshots.close(self._inputs(arguments))
        if wrong:
            raise FleetError(wrong, where=arguments["dest"], remedy="build again: all roles run then")
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


def _configures(name: str) -> bool:
    return not name.startswith(_FOREIGN) and name not in _PLACES


def _certificates(directory: str | None) -> dict[str, str]:
    """What roles put into a tree of the product's keys: not the certificates that the root issues for a short time."""
    if directory is None:
        return {}
    paths = [Path(directory) / name for name in ("pcr.crt", "root.crt", "root.crl", FORBIDDEN_UPDATE)]
    found = {path.name: _digest.of_file(path) for path in paths if path.is_file()}
    return {"certificates": _digest.of_data(found)}


def _without_unnamed(variables: dict[str, Any], names: Set[str], roles: Iterable[Path]) -> dict[str, Any]:
    """The variables without those of ``names`` that neither a file of a role nor the value of another names."""
    texts = [path.read_bytes() for role in roles for path in role.rglob("*") if path.is_file()]
    rest = {name: value for name, value in variables.items() if name not in names}
    text = b"\n".join([*texts, json.dumps(rest, default=str).encode()])
    named = {name for name in names & variables.keys() if name.encode() in text}
    return _without_unnamed(variables, names - named, roles) if named else rest
