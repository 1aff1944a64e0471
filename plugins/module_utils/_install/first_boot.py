# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What the installed machine needs to prove itself after its first boot (role ``attestation``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.places import Places

_DIRECTORY = "/var/lib/attestation"
_ACCOUNT = "attestation"
# They end up in quotes in a configuration file of curl.
_URL = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
_ID = re.compile(r"[0-9a-f]{32}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,500}")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")


def remove(state: Path, core: Path) -> None:
    """Remove what an earlier installation has left for its first boot."""
    places = Places(state, core)
    for name in ("token", "url", "id", "authority.pem", "resolve"):
        places.remove(f"{_DIRECTORY}/{name}")


def prepare(
    state: Path, core: Path, *, url: str, id: str, token: str, authority: Path, addresses: Sequence[str] = ()
) -> None:
    """Leave on the state volume what the machine attests itself with.

    :param state: the mounted state volume.
    :param core: the mounted core; it has to have role ``attestation``.
    :param url: ``https://NAME[:PORT]`` of the enrolment service.
    :param id: of the enrolment.
    :param token: its bearer token.
    :param authority: certificate (PEM) of the authority that certifies the server.
    :param addresses: of the server, if the machine is not to ask for its name.
    :raises FleetError: the core has no such role, or one of these is not what it should be.
    """
    for name, value, form in (("url", url, _URL), ("id", id, _ID), ("token", token, _TOKEN)):
        if not form.fullmatch(value):
            raise FleetError("the machine could not attest itself with this", where=f"attestation: {name}")
    for address in addresses:
        if not _ADDRESS.fullmatch(address):
            raise FleetError("is no address", where=f"attestation: {address}")
    places = Places(state, core)
    owner = (places.number("passwd", _ACCOUNT), places.number("group", _ACCOUNT))
    parts = urlsplit(url)
    files = {"url": url, "id": id, "authority.pem": authority.read_text("utf-8").rstrip("\n")}
    if addresses:
        listed = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
        files["resolve"] = f"{parts.hostname}:{parts.port or 443}:{listed}"
    # Without a token nothing starts, so it comes last.
    files["token"] = token
    for name, content in files.items():
        places.write(f"{_DIRECTORY}/{name}", f"{content}\n".encode(), mode=0o600, owner=owner)
    places.give(_DIRECTORY, mode=0o700, owner=owner)
