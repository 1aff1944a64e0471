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
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._boot import signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.manifest import validate
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import MANIFEST, SIGNATURE, check_file
from ansible_collections.vauban.fleet.plugins.module_utils._release_store import PARTS
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

FORMAT = 1
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
SUFFIX = ".p7m"  # a signature that holds what it signs (RFC 8551, 3.2.1)
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Offer:
    """What a channel says.

    :param issued: aware; a machine never believes an older one again.
    :param expires: aware; from then on it believes none.
    """

    product: str
    channel: str
    version: str
    security_epoch: int
    issued: dt.datetime
    expires: dt.datetime
    manifest_size: int
    manifest_sha256: str

    def as_dict(self) -> dict[str, Any]:
        """What is signed."""
        return {
            "format": FORMAT,
            "product": self.product,
            "channel": self.channel,
            "version": self.version,
            "security_epoch": self.security_epoch,
            "issued": self.issued.strftime(_TIME),
            "expires": self.expires.strftime(_TIME),
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
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise FleetError(f"this is no channel: {exc}") from exc
        if not known:
            raise FleetError(f"only channels of format {FORMAT} are supported")
        return offer

    def offers(self, other: Offer) -> bool:
        """Whether both offer the same; their times do not count."""
        return (self.version, self.manifest_sha256) == (other.version, other.manifest_sha256)

    def halfway(self, now: dt.datetime) -> bool:
        """Whether it is time to say it anew."""
        return now >= self.issued + (self.expires - self.issued) / 2


def _time(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, _TIME).replace(tzinfo=dt.UTC)


def check_release(sandbox: Sandbox, directory: Path, certificate: Path) -> dict[str, Any]:
    """The manifest of a release that the builder has signed and whose files are all as it says.

    :param certificate: of the builder's key ``release``.
    :raises FleetError: names the file that is missing, changed or not signed.
    """
    manifest, signature = directory / MANIFEST, directory / SIGNATURE
    for path in (manifest, signature):
        if not path.is_file():
            raise FleetError("the file is missing", where=str(path), remedy="name the directory of a finished release")
    signing.verify_cms(sandbox, manifest, signature, certificate)
    data: dict[str, Any] = json.loads(manifest.read_text("utf-8"))
    validate(data)
    for part in PARTS:
        check_file(directory / data[part]["file"], data[part])
    return data


def offer_of(
    manifest: Mapping[str, Any], directory: Path, channel: str, *, now: dt.datetime, valid: dt.timedelta
) -> Offer:
    """What a channel would say of a release.

    :raises FleetError: not a name for a channel.
    """
    if not NAME.fullmatch(channel):
        remedy = "use a-z first, then up to 31 of a-z 0-9 _ -"
        raise FleetError(f"{channel!r} is no name of a channel", where="channel", remedy=remedy)
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
    )


def read(sandbox: Sandbox, path: Path, certificate: Path) -> Offer | None:
    """What a signed file offers; None if there is no file.

    :raises FleetError: not signed by this certificate, or no channel.
    """
    if not path.is_file():
        return None
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", signing.SIGNATURE, "-nointern"]
    command += ["-certfile", signing.CERTIFICATE, "-CAfile", signing.CERTIFICATE, "-no-CApath", "-no-CAstore"]
    binds = [Bind(path, signing.SIGNATURE), Bind(certificate, signing.CERTIFICATE)]
    done = sandbox.run([*command, "-purpose", "codesign"], binds=binds, check=False)
    if done.returncode != 0:
        remedy = "remove the file; the next run signs it anew"
        raise FleetError(f"not signed by {certificate}", where=str(path), remedy=remedy)
    return Offer.from_dict(json.loads(done.stdout))


def write(sandbox: Sandbox, offer: Offer, dest: Path, key: KeyReference, certificate: Path, *, work: Path) -> None:
    """Sign what a channel offers; the file takes its name when it is whole."""
    text = work / f"{offer.product}.{offer.channel}.json"
    text.write_text(json.dumps(offer.as_dict(), indent=2, sort_keys=True) + "\n")
    signing.sign_cms(sandbox, text, key, certificate, dest, attached=True)
