# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._lock import locked
from ansible_collections.vauban.fleet.plugins.module_utils._update import channel
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._signer import SIGNING_SPEC, Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import sandbox_at


class ActionModule(ControllerAction):
    """Checks a release that the builder has signed, and says with the controller's key that a channel offers it."""

    SPEC: ClassVar[dict[str, Any]] = {
        "release": {"type": "path", "required": True},
        "channel": {"type": "str", "required": True},
        "days": {"type": "int", "default": 30},
        "sdk": {"type": "path", "required": True},
        **{name: option for name, option in SIGNING_SPEC.items() if name != "instrumentation"},
        "dest": {"type": "path", "required": True},
        "work": {"type": "path", "required": True},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Sign only what is new or half expired, so that a second run changes nothing."""
        if arguments["days"] < 1:
            raise FleetError("a channel is valid for one day at least", where="days")
        work, directory = Path(arguments["work"]), Path(arguments["release"]).resolve()
        work.mkdir(parents=True, exist_ok=True)
        sandbox = sandbox_at(arguments["sdk"], work)
        signer = Signer({**arguments, "instrumentation": []})
        manifest = channel.check_release(sandbox, directory, signer.certificate("release"))
        _check_kind(manifest, arguments["keys_kind"], directory)
        now, valid = dt.datetime.now(dt.UTC), dt.timedelta(days=arguments["days"])
        wanted = channel.offer_of(manifest, directory, arguments["channel"], now=now, valid=valid)
        dest = Path(arguments["dest"]) / wanted.product / f"{wanted.channel}{channel.SUFFIX}"
        dest.parent.mkdir(parents=True, exist_ok=True)
        with locked(dest.parent):
            before = channel.read(sandbox, dest, signer.certificate("publish"))
            changed = before is None or not before.offers(wanted) or before.halfway(now)
            if changed and not self._task.check_mode:
                key, certificate = signer.reference("publish"), signer.certificate("publish")
                channel.write(sandbox, wanted, dest, key, certificate, work=work)
        offered = wanted if before is None or changed else before
        result = {"changed": changed, "path": str(dest), "release": str(directory), "offer": offered.as_dict()}
        return {**result, "diff": _diff(before, offered)} if changed else result


def _check_kind(manifest: Mapping[str, Any], kind: str, directory: Path) -> None:
    """Only what was built for a site goes to one.

    :raises FleetError: development keys or instrumentation in what is to be published as production.
    """
    if manifest["key_kind"] != kind:
        raise FleetError(
            f"the release was signed with {manifest['key_kind']} keys, and {kind} is to be published",
            where=f"{directory}/manifest.json: key_kind",
            remedy="build it with product_keys_kind=production, or name other keys",
        )
    if kind == "production" and manifest["instrumentation"]:
        raise FleetError(
            f"the release is instrumented ({', '.join(manifest['instrumentation'])})",
            where=f"{directory}/manifest.json: instrumentation",
            remedy="build it without instrumentation",
        )


def _diff(before: channel.Offer | None, after: channel.Offer) -> dict[str, str]:
    texts = [json.dumps(each.as_dict(), indent=2, sort_keys=True) + "\n" if each else "" for each in (before, after)]
    return {"before": texts[0], "after": texts[1]}
