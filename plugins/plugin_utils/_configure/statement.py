# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What a controller says of a host's configuration, signed with the key ``configuration`` of the host's product."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._boot import signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys, require_current
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

FORMAT = 1
KEY = "configuration"


@dataclass(frozen=True)
class Configuration:
    """The packed configuration of a host."""

    content: bytes
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Configuration:
        """From an archive (``_site/archive.py``)."""
        content = path.read_bytes()
        return cls(content, hashlib.sha256(content).hexdigest())

    def lines(self) -> set[str]:
        """What is in it, as ``configuration-tree`` of role configuration_client says it: ``VALUE  PATH``."""
        found: set[str] = set()
        for member, content in _members(self.content):
            if member.issym():
                found.add(f"link:{member.linkname}  {member.name}")
                continue
            found.add(f"{hashlib.sha256(content).hexdigest()}  {member.name}")
            if member.mode & 0o111:
                found.add(f"executable  {member.name}")
        return found

    def texts(self) -> dict[str, str]:
        """The files and links, for people."""
        return {
            member.name: f"-> {member.linkname}\n" if member.issym() else content.decode("utf-8", "replace")
            for member, content in _members(self.content)
        }


def _members(packed: bytes) -> Iterable[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as stream:
        for member in stream:
            source = stream.extractfile(member) if member.isfile() else None
            yield member, source.read() if source is not None else b""


def next_number(now: dt.datetime, had: Iterable[int]) -> int:
    """The number of the next configuration of a host: the time, to be read by people, or more if the host had that.

    :param now: aware.
    :param had: numbers that the host tells of.
    """
    return max([int(now.astimezone(dt.UTC).strftime("%Y%m%d%H%M%S")), *(number + 1 for number in had)])


class Author:
    """Signs for the hosts of one product.

    :ivar crl: the root's list of revoked certificates.
    :ivar crl_number: its number.

    :param keys: the product's key directory; of it the private key of :data:`KEY` is needed unless ``key`` says where
        that is, and its certificate.
    :param key: URI (RFC 7512) and directory of the token that has the private key.
    :raises FleetError: the certificate is not there, or not valid now.
    """

    def __init__(
        self, product: str, keys: Path, sandbox: Sandbox, *, key: tuple[str, Path | None] | None = None
    ) -> None:
        self.product, self._sandbox = product, sandbox
        own = ProductKeys(keys)
        self._certificate = own.public(KEY)
        if not self._certificate.exists():
            raise FleetError(
                f"there is no key '{KEY}' of product {product}",
                where=str(self._certificate),
                remedy="run playbook pki again, or bring the certificate from the directory that has root.key",
            )
        require_current(own, (KEY,), now=dt.datetime.now(dt.UTC))
        self.crl_number, self.crl = own.revocation_list().number, own.revocations.read_bytes()
        self._key = KeyReference(*key) if key else own.reference(KEY)

    def sign(self, host: str, number: int, configuration: Configuration, *, now: dt.datetime, work: Path) -> bytes:
        """What the host will believe.

        :param now: aware.
        :param work: directory for files.
        """
        said: dict[str, Any] = {
            "format": FORMAT,
            "product": self.product,
            "host": host,
            "number": number,
            "revocations": self.crl_number,
            "issued": now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "archive": {"size": len(configuration.content), "sha256": configuration.sha256},
        }
        text, signed = work / f"{host}.json", work / f"{host}.p7m"
        text.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")
        signing.sign_cms(self._sandbox, text, self._key, self._certificate, signed, attached=True)
        return signed.read_bytes()
