# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail

from ansible_collections.vauban.fleet.plugins.module_utils._boot import forbidden
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import (
    ESCROW,
    PRODUCT_NAME,
    RECIPIENT,
    ProductKeys,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.state import SECURE_BOOT_PCR
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data, _escrow, _provisioning_server
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._roles import role_path
from ansible_collections.vauban.fleet.plugins.plugin_utils._signer import SIGNING_SPEC, Signer

# A part of file names, of logical volumes (lvm(8)) and, without '+', no boot counter (systemd-boot(7)).
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")
_VOLUME_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")


class ActionModule(ControllerAction):
    """Checks the settings of a product before minutes are spent on it, and reports all that is wrong at once."""

    SPEC: ClassVar[dict[str, Any]] = {
        "name": {"type": "str", "required": True},
        "version": {"type": "str", "required": True},
        "volume_group": {"type": "str", "required": True},
        "roles": {"type": "list", "elements": "str", "required": True},
        "hardware_profiles": {"type": "list", "elements": "str", "default": []},
        "hardware_directories": {"type": "list", "elements": "path", "default": []},
        "enrolment": {"type": "dict", "default": {}},
        "recipients": {"type": "list", "elements": "str", "default": []},
        "threshold": {"type": "int", "default": 1},
        "dbx": {"type": "list", "elements": "str", "default": []},
        "tpm_pcrs": {"type": "list", "elements": "int", "default": [7, 12, 15]},
        **SIGNING_SPEC,
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check; change nothing."""
        found = list(problems(arguments, self.task_vars, partial(role_path, action=self)))
        if found:
            failures = [problem.as_failure() for problem in found]
            raise AnsibleActionFail("\n".join(map(str, found)), result={"failure": failures[0], "failures": failures})
        return {"changed": False}


def problems(
    arguments: Mapping[str, Any], task_vars: Mapping[str, Any], find_role: Callable[[str], Any]
) -> Iterator[FleetError]:
    """What is wrong with the settings, each with its key and remedy."""
    name, version, group = (arguments[key] for key in ("name", "version", "volume_group"))
    if not PRODUCT_NAME.fullmatch(name):
        remedy = "use a-z first, then up to 31 of a-z 0-9 _ -"
        yield FleetError(f"{name!r} is no name of a product", where="product_name", remedy=remedy)
    if not _VERSION.fullmatch(version):
        remedy = "use up to 64 letters, digits, '.' and '-'"
        yield FleetError(f"{version!r} is no version", where="product_version", remedy=remedy)
    if not _VOLUME_GROUP.fullmatch(group):
        remedy = "use up to 32 letters, digits, '_', '.' and '-'"
        yield FleetError(f"{group!r} is no name of a volume group", where="product_volume_group", remedy=remedy)
    if not task_vars.get("groups", {}).get("builders"):
        remedy = "add the machine that builds, normally localhost"
        yield FleetError("group builders has no host", where="inventory", remedy=remedy)
    checks: list[Callable[[], Any]] = [partial(find_role, role) for role in arguments["roles"]]
    checks.append(partial(_data.hardware, arguments["hardware_profiles"], arguments["hardware_directories"]))
    checks.append(partial(_provisioning_server.parse, arguments["enrolment"]))
    checks.append(partial(_recipients, arguments))
    checks.append(partial(_keys, arguments))
    checks.append(partial(_dbx, arguments))
    for check in checks:
        try:
            check()
        except FleetError as exc:
            yield exc
    yield from _instrumentation(arguments["instrumentation"])


def _recipients(arguments: Mapping[str, Any]) -> None:
    """Of the product's own key, which may not be there yet, only that it will be one of them."""
    recipients = arguments["recipients"]
    for recipient in recipients:
        if not RECIPIENT.fullmatch(recipient):
            remedy = "write public keys (age1...), as age-keygen -y prints them"
            raise FleetError(f"{recipient!r} is no age recipient", where="product_escrow_recipients", remedy=remedy)
    keys = ProductKeys(Path(arguments["keys"]))
    own = keys.recipient() if keys.public(ESCROW).exists() else "the product's key escrow"
    _escrow.officers(own, recipients, arguments["threshold"])


def _keys(arguments: Mapping[str, Any]) -> None:
    """Only development keys are made by the build itself."""
    production = arguments["keys_kind"] == "production"
    if production and arguments["instrumentation"]:
        raise FleetError(
            "production keys do not sign instrumentation",
            where="product_instrumentation",
            remedy="build without instrumentation, or with product_keys_kind: development",
        )
    if production or ProductKeys(Path(arguments["keys"])).marker.exists():
        Signer(arguments)


def _dbx(arguments: Mapping[str, Any]) -> None:
    """What is forbidden has to be signed before the build; only development keys sign it then."""
    digests = arguments["dbx"]
    forbidden.check(digests)
    if not digests:
        return
    if SECURE_BOOT_PCR not in arguments["tpm_pcrs"]:
        raise FleetError(
            f"{forbidden.SETTING} is for state volumes that are bound to PCR {SECURE_BOOT_PCR}",
            where="product_tpm_pcrs",
            remedy=f"add {SECURE_BOOT_PCR}, or forbid nothing",
        )
    if arguments["keys_kind"] == "production":
        forbidden.require(ProductKeys(Path(arguments["keys"])), digests)


def _instrumentation(features: list[str]) -> Iterator[FleetError]:
    known = _data.read(_data.FILES / "instrumentation.yml")
    if unknown := sorted(set(features) - set(known)):
        yield FleetError(
            f"no such feature: {', '.join(unknown)}",
            where="product_instrumentation",
            remedy=f"choose from {', '.join(sorted(known))}",
        )
