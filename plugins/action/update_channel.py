# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_bytes
from ansible_collections.vauban.fleet.plugins.module_utils._boot import signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import LIST
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._lock import locked
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._update import channel, patch
from ansible_collections.vauban.fleet.plugins.plugin_utils._action import ControllerAction
from ansible_collections.vauban.fleet.plugins.plugin_utils._signer import SIGNING_SPEC, Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, sandbox_at

_PROGRAM = COLLECTION / "roles/update_client/files/root/usr/lib/vauban/update-patch"


class ActionModule(ControllerAction):
    """Checks a release that the builder has signed, and says with the controller's key that a channel offers it."""

    SPEC: ClassVar[dict[str, Any]] = {
        "product": {"type": "str"},
        "release": {"type": "path"},
        "channel": {"type": "str", "required": True},
        "days": {"type": "int", "default": 30},
        "percent": {"type": "int"},
        "rollout": {"type": "str", "choices": list(channel.ORDERS)},
        "experience": {"type": "dict", "default": {}},
        "failures": {"type": "float", "default": 0.1},
        "patches": {"type": "int", "default": 2},
        "sdk": {"type": "path", "required": True},
        **{name: option for name, option in SIGNING_SPEC.items() if name != "instrumentation"},
        "dest": {"type": "path", "required": True},
        "work": {"type": "path", "required": True},
    }

    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Sign only what is new or half expired, so that a second run changes nothing."""
        if arguments["days"] < 1:
            raise FleetError("a channel is valid for one day at least", where="days")
        if not 0 <= arguments["failures"] <= 1:
            raise FleetError("a share is 0 to 1", where="failures")
        work = Path(arguments["work"])
        work.mkdir(parents=True, exist_ok=True)
        sandbox = sandbox_at(arguments["sdk"], work)
        signer = Signer({**arguments, "instrumentation": []})
        now = dt.datetime.now(dt.UTC)
        key, number = signer.reference("publish"), signer.keys.revocation_list().number
        valid, warnings = _validity(signer, dt.timedelta(days=arguments["days"]), now)
        wanted = self._wanted(arguments, sandbox, signer, now, valid)
        complete = True
        if wanted is not None:
            wanted, complete, unpatched = self._patched(arguments, sandbox, signer, wanted, work)
            warnings += unpatched
        product = wanted.product if wanted is not None else arguments["product"]
        dest = Path(arguments["dest"]) / product / f"{arguments['channel']}{channel.SUFFIX}"
        if not self._task.check_mode:
            dest.parent.mkdir(parents=True, exist_ok=True)
        certificate, trust = signer.certificate("publish"), signer.keys.trust("publish")
        with locked(dest.parent) if dest.parent.is_dir() else nullcontext():
            before = channel.read(sandbox, dest, trust)
            offered, halted = self._decided(arguments, before, wanted)
            offered = replace(offered, revocations=number)
            changed = not complete or offered != before or offered.halfway(now)
            # A certificate that took the place of another one signs anew what that one has signed.
            changed = changed or not signing.signed_by(sandbox, dest, certificate)
            if changed:
                offered = offered.renewed(now, valid, before)
            if changed and not self._task.check_mode:
                channel.write(sandbox, offered, dest, key, certificate, work=work)
            paths = set(dest.parent.glob(f"*{channel.SUFFIX}")) - {dest}
            others = [channel.read(sandbox, each, trust) for each in paths]
            revocations = dest.with_name(LIST)
            if not self._task.check_mode:
                _copy(signer.keys.revocations, revocations)
        warnings += [
            f"channel {each.channel} of {product} was signed before the present list of revoked certificates:"
            f" run playbook release with -e channel={each.channel}"
            for each in others
            if each is not None and each.revocations < number
        ]
        standing = [each for each in (*others, before, offered) if each is not None]
        held = {f"{each.product}/{each.version}" for each in standing}
        named = {dest.parent / each.version / file.name for each in standing for file in each.patches}
        if not self._task.check_mode:
            _remove_patches(dest.parent, {each.version for each in standing})
        release = str(Path(arguments["release"]).resolve()) if wanted is not None else None
        result = {"changed": changed, "path": str(dest), "release": release, "offer": offered.as_dict()}
        result |= {"held": sorted(held), "halted": halted, "warnings": warnings, "revocations": str(revocations)}
        result |= {"patches": sorted(str(file) for file in named if file.is_file())}
        return {**result, "diff": _diff(before, offered)} if changed else result

    def _wanted(
        self, arguments: Mapping[str, Any], sandbox: Sandbox, signer: Signer, now: dt.datetime, valid: dt.timedelta
    ) -> channel.Offer | None:
        """The release that is named, all of it checked; None if none is."""
        if arguments["release"] is None:
            if arguments["product"] is None:
                raise FleetError("needed where no release is named", where="product")
            channel.check_name(arguments["channel"])
            return None
        directory = Path(arguments["release"]).resolve()
        manifest = channel.check_release(sandbox, directory, signer.keys.trust("release"))
        _check_kind(manifest, arguments["keys_kind"], directory)
        number = signer.keys.revocation_list().number
        return channel.offer_of(manifest, directory, arguments["channel"], revocations=number, now=now, valid=valid)

    def _patched(
        self, arguments: Mapping[str, Any], sandbox: Sandbox, signer: Signer, wanted: channel.Offer, work: Path
    ) -> tuple[channel.Offer, bool, list[str]]:
        """The offer with its patches; whether all are there, which in check mode they need not be; and what went wrong.

        A release before this one that cannot be patched is a reason for a longer download, and not for no release.
        """
        release = Path(arguments["release"]).resolve()
        dest = Path(arguments["dest"]) / wanted.product / wanted.version
        found, complete, warnings = [], True, []
        for base in channel.releases_before(sandbox, release, arguments["patches"]):
            is_known, made = patch.known(base, release, dest)
            if not is_known and self._task.check_mode:
                complete = False
            elif not is_known:
                try:
                    channel.check_release(sandbox, base, signer.keys.trust("release"))
                    made = patch.make(sandbox, base, release, dest, program=_PROGRAM, work=work)
                except FleetError as exc:
                    warnings.append(f"no patch from {base.name} to {wanted.version}: {exc}")
            if made is not None:
                found.append(made)
        return replace(wanted, patches=tuple(found)), complete, warnings

    @staticmethod
    def _decided(
        arguments: Mapping[str, Any], before: channel.Offer | None, wanted: channel.Offer | None
    ) -> tuple[channel.Offer, str | None]:
        """What the channel is to say; and why it is held back, if it should not go on as was asked."""
        order, percent = arguments["rollout"], arguments["percent"]
        offered = channel.next_offer(before, wanted, percent=percent, order=order)
        if before is None or order is not None or not before.offers(offered):
            return offered, None
        reason = channel.trouble(before, arguments["experience"], arguments["failures"])
        return (offered, None) if reason is None else (before.ordered("pause"), reason)


def _validity(signer: Signer, wanted: dt.timedelta, now: dt.datetime) -> tuple[dt.timedelta, list[str]]:
    """For how long it can be signed: no longer than the certificate counts; and what is to be said of that."""
    certificate = signer.keys.certificate("publish")
    left = certificate.not_after - now
    if left >= wanted:
        return wanted, []
    said = f"valid until {certificate.not_after:%Y-%m-%d}, and so is what the channel says: renew it with playbook pki"
    return left, [f"{certificate.path}: {said}"]


def _copy(source: Path, dest: Path) -> None:
    content = source.read_bytes()
    if not dest.is_file() or dest.read_bytes() != content:
        write_bytes(dest, content)


def _remove_patches(directory: Path, versions: set[str]) -> None:
    """Those to versions that no channel offers any more."""
    for path in directory.iterdir():
        if path.is_dir() and path.name not in versions:
            shutil.rmtree(path)


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
