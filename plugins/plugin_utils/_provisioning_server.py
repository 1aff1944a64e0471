# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The provisioning server that an installer knows: who it is, and by whom it is certified."""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

VARIABLE = "product_enrolment"
_NEEDED = ("url", "authority", "addresses")
_KEYS = (*_NEEDED, "secure_boot_keys")
# As _install/installer.py finds them.
SERVER = "etc/vauban/enrolment.json"
AUTHORITY = "etc/vauban/authority.pem"


@dataclass(frozen=True)
class ProvisioningServer:
    """What the signed image of an installer says about its server, so that no network has to be believed.

    :param url: ``https://NAME[:PORT]``.
    :param authority: certificates (PEM) of the authorities that certify it.
    :param addresses: where it is; no name is resolved.
    :param updates: authenticated updates of the variables db, KEK and PK, for firmware in setup mode; maybe none.
    """

    url: str
    name: str
    authority: str
    addresses: tuple[str, ...]
    updates: Mapping[str, bytes]

    def texts(self) -> dict[str, str]:
        """Files of the initrd."""
        lines = ["127.0.0.1 localhost", *(f"{address} {self.name}" for address in self.addresses)]
        updates = {name: base64.b64encode(content).decode() for name, content in self.updates.items()}
        known = {"url": self.url, "addresses": self.addresses, "secure_boot_keys": updates}
        return {
            SERVER: json.dumps(known) + "\n",
            AUTHORITY: self.authority,
            "etc/hosts": "".join(f"{line}\n" for line in lines),
        }


def parse(given: Mapping[str, Any]) -> ProvisioningServer | None:
    """Read variable ``product_enrolment``; an empty one means an installer without network.

    :raises FleetError: names the key and the remedy.
    """
    if not given:
        return None
    for key in (*given, *_NEEDED):
        if key not in _KEYS or key not in given:
            problem = "unknown key" if key not in _KEYS else "missing"
            raise FleetError(problem, where=f"{VARIABLE}: {key}", remedy=f"its keys are {', '.join(_KEYS)}")
    url, name = _url(given["url"])
    updates = _updates(given.get("secure_boot_keys"))
    return ProvisioningServer(url, name, _authority(given["authority"]), _addresses(given["addresses"]), updates)


def _url(text: Any) -> tuple[str, str]:
    try:
        parts = urlsplit(str(text))
        plain = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
        whole = parts.scheme == "https" and parts.hostname is not None and plain and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise FleetError(f"{text!r} is no address of a server", where=f"{VARIABLE}: url", remedy="https://NAME[:PORT]")
    return str(text).rstrip("/"), str(parts.hostname)


def _authority(path: Any) -> str:
    where = f"{VARIABLE}: authority"
    try:
        content = Path(str(path)).read_text("utf-8")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content)
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        remedy = "name a file with the certificate (PEM) of the authority that certifies the server"
        raise FleetError(f"{path}: {exc}", where=where, remedy=remedy) from None
    return content


def _addresses(given: Any) -> tuple[str, ...]:
    where = f"{VARIABLE}: addresses"
    if not isinstance(given, list) or not given:
        raise FleetError("has to be a list of addresses", where=where, remedy="an installer resolves no names")
    try:
        return tuple(str(ipaddress.ip_address(str(address))) for address in given)
    except ValueError as exc:
        raise FleetError(str(exc), where=where) from None


def _updates(directory: Any) -> dict[str, bytes]:
    if not directory:
        return {}
    try:
        return {name: (Path(str(directory)) / f"{name}.auth").read_bytes() for name in ("db", "KEK", "PK")}
    except OSError as exc:
        remedy = "playbook pki makes them; or name another key directory, with db.auth, KEK.auth and PK.auth"
        raise FleetError(str(exc), where=f"{VARIABLE}: secure_boot_keys", remedy=remedy) from None
