# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What a channel offers: one release, for a time, said with the key ``publish``.

The builder signs a release, the controller says which one is current; a machine wants both. As in The Update Framework
the short-lived part (timestamp) and the lasting part (targets) have keys of their own; a machine verifies these with
openssl, since it has no Python.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._boot import signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.manifest import validate
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import MANIFEST, SIGNATURE, check_file
from ansible_collections.vauban.fleet.plugins.module_utils._release_store import PARTS
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._signatures import Trust
from ansible_collections.vauban.fleet.plugins.module_utils._update.patch import Patch

FORMAT = 1
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
RUNNING, PAUSED, WITHDRAWN = STATES = ("running", "paused", "withdrawn")
ORDERS = ("pause", "resume", "withdraw")
SUFFIX = ".p7m"  # a signature that holds what it signs (RFC 8551, 3.2.1)
_NAMED = 10  # hosts, in a message
_HIGHER = "publish a better one under a higher version; machines do not go back"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Rollout:
    """To which machines a version goes. Each finds out by itself whether it is one of them (``update-decide``).

    :param percent: of all machines; it only grows, since machines do not go back.
    :param seed: makes the machines that are first others for each release.
    :param state: one of ``STATES``; only ``running`` gives the version to machines that do not have it.
    """

    percent: int
    seed: str
    state: str = RUNNING

    def includes(self, machine: str) -> bool:
        """Whether a machine takes the version, by its machine id."""
        return self.state == RUNNING and place(self.seed, machine) < self.percent

    def as_dict(self) -> dict[str, Any]:
        """What is signed."""
        return {"percent": self.percent, "seed": self.seed, "state": self.state}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rollout:
        """The reverse.

        :raises ValueError: a value that :meth:`as_dict` does not make.
        """
        rollout = cls(int(data["percent"]), str(data["seed"]), str(data["state"]))
        if not 0 <= rollout.percent <= 100 or rollout.state not in STATES:
            raise ValueError(f"no such rollout: {rollout}")
        return rollout


def place(seed: str, machine: str) -> int:
    """Where a machine stands among hundred: 0 to 99."""
    return int(hashlib.sha256(f"{seed} {machine}".encode()).hexdigest()[:8], 16) % 100


@dataclass(frozen=True)
class Offer:
    """What a channel says.

    :param issued: aware; a machine never believes an older one again.
    :param expires: aware; from then on it believes none.
    :param revocations: number of the root's list of revoked certificates. A machine that has not seen that list or a
        newer one believes nothing of this, so nobody keeps the list from it for longer than this counts.
    :param rollout: None: the version goes to every machine.
    :param patches: what machines can fetch in place of the bundle, by what they run.
    """

    product: str
    channel: str
    version: str
    security_epoch: int
    issued: dt.datetime
    expires: dt.datetime
    manifest_size: int
    manifest_sha256: str
    revocations: int
    rollout: Rollout | None = None
    patches: tuple[Patch, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What is signed."""
        return {
            **({"rollout": self.rollout.as_dict()} if self.rollout is not None else {}),
            **({"patches": [each.as_dict() for each in self.patches]} if self.patches else {}),
            "format": FORMAT,
            "product": self.product,
            "channel": self.channel,
            "version": self.version,
            "security_epoch": self.security_epoch,
            "issued": self.issued.strftime(_TIME),
            "expires": self.expires.strftime(_TIME),
            "revocations": self.revocations,
            "manifest": {"size": self.manifest_size, "sha256": self.manifest_sha256},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Offer:
        """The reverse.

        :raises FleetError: not what :meth:`as_dict` makes.
        """
        try:
            known = data["format"] == FORMAT
            offer = cls(
                product=str(data["product"]),
                channel=str(data["channel"]),
                version=str(data["version"]),
                security_epoch=int(data["security_epoch"]),
                issued=_time(data["issued"]),
                expires=_time(data["expires"]),
                manifest_size=int(data["manifest"]["size"]),
                manifest_sha256=str(data["manifest"]["sha256"]),
                revocations=int(data["revocations"]),
                rollout=Rollout.from_dict(data["rollout"]) if "rollout" in data else None,
                patches=tuple(Patch.from_dict(each) for each in data.get("patches", ())),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise FleetError(f"this is no channel: {exc}") from exc
        if not known:
            raise FleetError(f"only channels of format {FORMAT} are supported")
        return offer

    def offers(self, other: Offer) -> bool:
        """Whether both offer the same release; to whom, and until when, does not count."""
        return (self.version, self.manifest_sha256) == (other.version, other.manifest_sha256)

    def halfway(self, now: dt.datetime) -> bool:
        """Whether it is time to say it anew."""
        return now >= self.issued + (self.expires - self.issued) / 2

    def renewed(self, now: dt.datetime, valid: dt.timedelta, before: Offer | None = None) -> Offer:
        """The same, said now, and later than what was said before: a machine never goes back to that."""
        now = now.astimezone(dt.UTC).replace(microsecond=0)
        if before is not None:
            now = max(now, before.issued + dt.timedelta(seconds=1))
        return replace(self, issued=now, expires=now + valid)

    def ordered(self, order: str) -> Offer:
        """The same release, held back, given on or taken back. Who runs it stays with it.

        :param order: one of ``ORDERS``.
        :raises FleetError: it has been withdrawn, or there is nothing to resume.
        """
        rollout = self.rollout or Rollout(100, self._seed())
        where = f"channel {self.channel} of {self.product}"
        if rollout.state == WITHDRAWN and order != "withdraw":
            raise FleetError(f"version {self.version} has been withdrawn", where=where, remedy=_HIGHER)
        state = {"pause": PAUSED, "resume": RUNNING, "withdraw": WITHDRAWN}[order]
        if order == "resume" and rollout.state == RUNNING:
            return self
        return replace(self, rollout=replace(rollout, state=state))

    def spread(self, percent: int) -> Offer:
        """The same release, for so many machines of hundred.

        :raises FleetError: not a share, fewer than before, withdrawn or paused.
        """
        if not 0 <= percent <= 100:
            raise FleetError(f"{percent} is no share of hundred", where="percent", remedy="say 0 to 100")
        where = f"channel {self.channel} of {self.product}: version {self.version}"
        if (rollout := self.rollout) is None:
            return replace(self, rollout=Rollout(percent, self._seed()))
        if rollout.state == WITHDRAWN:
            raise FleetError("it has been withdrawn", where=where, remedy=_HIGHER)
        if rollout.state == PAUSED and percent != rollout.percent:
            raise FleetError("it is paused", where=where, remedy="-e rollout=resume first, if it is to go on")
        if percent < rollout.percent:
            message = f"it goes to {rollout.percent} of 100 machines, and what they have they keep"
            raise FleetError(message, where=where, remedy="say a higher percent, or -e rollout=pause")
        return replace(self, rollout=replace(rollout, percent=percent))

    def _seed(self) -> str:
        """Others than for the release before, and the same ones if this file was lost."""
        return self.manifest_sha256[:32]


def _time(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, _TIME).replace(tzinfo=dt.UTC)


def check_release(sandbox: Sandbox, directory: Path, trust: Trust) -> dict[str, Any]:
    """The manifest of a release that the builder has signed and whose files are all as it says.

    :param trust: in the builder's key ``release``.
    :raises FleetError: names the file that is missing, changed or not signed.
    """
    manifest, signature = directory / MANIFEST, directory / SIGNATURE
    for path in (manifest, signature):
        if not path.is_file():
            raise FleetError("the file is missing", where=str(path), remedy="name the directory of a finished release")
    signing.verify_cms(sandbox, manifest, signature, trust)
    data: dict[str, Any] = json.loads(manifest.read_text("utf-8"))
    validate(data)
    for part in PARTS:
        check_file(directory / data[part]["file"], data[part])
    return data


def next_offer(before: Offer | None, wanted: Offer | None, *, percent: int | None, order: str | None) -> Offer:
    """What a channel is to say, from what it says.

    :param wanted: another release, or None for the one that is offered.
    :raises FleetError: names what does not go together.
    """
    if wanted is not None and (before is None or not before.offers(wanted)):
        if order is not None:
            offered = "nothing" if before is None else f"version {before.version}"
            message = f"the channel offers {offered}, not version {wanted.version}"
            raise FleetError(message, where=f"rollout={order}", remedy="leave version out, or name the one it offers")
        return wanted if percent is None else wanted.spread(percent)
    if before is not None and wanted is not None:
        before = replace(before, patches=wanted.patches)
    if before is None:
        raise FleetError("the channel offers nothing yet", where="version", remedy="name the version of a release")
    if order is not None:
        before = before.ordered(order)
    if percent is None:
        return before
    if before.rollout is None and percent < 100:
        message = f"version {before.version} goes to all machines already"
        raise FleetError(message, where="percent", remedy="-e rollout=pause holds it back from the others")
    return before.spread(percent)


def releases_before(sandbox: Sandbox, directory: Path, count: int) -> list[Path]:
    """Releases beside one that machines which would take it may run: those with the next lower versions.

    :param directory: of the release, without links.
    :returns: at most ``count`` directories, the highest version first. Their files have not been looked at.
    """
    wanted, found = json.loads((directory / MANIFEST).read_text("utf-8")), {}
    for path in sorted(directory.parent.glob(f"*/{MANIFEST}")):
        if path.parent.is_symlink() or path.parent == directory:
            continue
        try:
            data = json.loads(path.read_text("utf-8"))
            same = all(data[key] == wanted[key] for key in ("product", "instrumentation", "key_kind"))
            if same and data["security_epoch"] <= wanted["security_epoch"]:
                found[str(data["version"])] = path.parent
        except (KeyError, TypeError, ValueError):  # not a release
            continue
    if not found or count < 1:
        return []
    # In the order of machines and boot loader: for each the number of those that are lower.
    script = """
        wanted=$1
        shift
        for one; do
            systemd-analyze compare-versions "$one" lt "$wanted" 2> /dev/null || continue
            lower=0
            for other; do
                if systemd-analyze compare-versions "$other" lt "$one" 2> /dev/null; then lower=$((lower + 1)); fi
            done
            echo "$lower $one"
        done
    """
    ranked = sandbox.run(["sh", "-euc", script, "sh", wanted["version"], *found]).stdout.split("\n")
    rows = [line.split(" ", 1) for line in ranked if line]
    rows.sort(key=lambda row: int(row[0]), reverse=True)
    return [found[version] for _rank, version in rows[:count]]


def trouble(offer: Offer, experience: Mapping[str, Any], share: float) -> str | None:
    """Why a version should go to no other machine, if too many of those that took it do badly.

    :param experience: by version, the hosts that ``took`` it, that ``failed`` with it, and that are ``silent`` since.
    :param share: of those that took it, 0 to 1; more than that is too many.
    """
    if offer.rollout is None or offer.rollout.state != RUNNING:
        return None
    seen = experience.get(offer.version, {})
    took, failed, silent = (len(seen.get(kind, [])) for kind in ("took", "failed", "silent"))
    if failed + silent <= share * took:
        return None
    named = [*seen["failed"], *seen["silent"]]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return (
        f"{offer.product} {offer.version}: of {took} machines that took it {failed} failed and {silent} are silent:"
        f" {', '.join(named[:_NAMED])}{more}"
    )


def check_name(channel: str) -> None:
    """It becomes the name of a file.

    :raises FleetError: not a name for a channel.
    """
    if not NAME.fullmatch(channel):
        remedy = "use a-z first, then up to 31 of a-z 0-9 _ -"
        raise FleetError(f"{channel!r} is no name of a channel", where="channel", remedy=remedy)


def offer_of(
    manifest: Mapping[str, Any],
    directory: Path,
    channel: str,
    *,
    revocations: int,
    now: dt.datetime,
    valid: dt.timedelta,
) -> Offer:
    """What a channel would say of a release.

    :param revocations: number of the root's list of revoked certificates.
    :raises FleetError: not a name for a channel.
    """
    check_name(channel)
    now = now.astimezone(dt.UTC).replace(microsecond=0)
    path = directory / MANIFEST
    return Offer(
        product=manifest["product"],
        channel=channel,
        version=manifest["version"],
        security_epoch=manifest["security_epoch"],
        issued=now,
        expires=now + valid,
        manifest_size=path.stat().st_size,
        manifest_sha256=_digest.of_file(path),
        revocations=revocations,
    )


def read(sandbox: Sandbox, path: Path, trust: Trust) -> Offer | None:
    """What a signed file offers, or did when its signature was believed; None if there is no file.

    :param trust: in the controller's key ``publish``.
    :raises FleetError: never signed with this key, or no channel.
    """
    if not path.is_file():
        return None
    content = signing.signed_content(sandbox, path, trust)
    if content is None:
        remedy = "remove the file; the next run signs it anew"
        raise FleetError(f"not signed with key {trust.key}, by {trust.root}", where=str(path), remedy=remedy)
    return Offer.from_dict(json.loads(content))


def write(sandbox: Sandbox, offer: Offer, dest: Path, key: KeyReference, certificate: Path, *, work: Path) -> None:
    """Sign what a channel offers; the file takes its name when it is whole."""
    text = work / f"{offer.product}.{offer.channel}.json"
    text.write_text(json.dumps(offer.as_dict(), indent=2, sort_keys=True) + "\n")
    signing.sign_cms(sandbox, text, key, certificate, dest, attached=True)
