# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The provisioning server that an installer knows: who it is, and by whom it is certified."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

VARIABLE = "product_enrolment"
_KEYS = ("url", "authority", "addresses")
# As _install/installer.py finds them.
SERVER = "etc/vauban/enrolment.json"
AUTHORITY = "etc/vauban/authority.pem"


@dataclass(frozen=True)
class ProvisioningServer:
    """What the signed image of an installer says about its server, so that no network has to be believed.

    :param url: ``https://NAME[:PORT]``.
    :param authority: certificates (PEM) of the authorities that certify it.
    :param addresses: where it is; no name is resolved.
    """

    url: str
    name: str
    authority: str
    addresses: tuple[str, ...]

    def texts(self) -> dict[str, str]:
        """Files of the initrd."""
        lines = ["127.0.0.1 localhost", *(f"{address} {self.name}" for address in self.addresses)]
        return {
            SERVER: json.dumps({"url": self.url, "addresses": self.addresses}) + "\n",
            AUTHORITY: self.authority,
            "etc/hosts": "".join(f"{line}\n" for line in lines),
        }


def parse(given: Mapping[str, Any]) -> ProvisioningServer | None:
    """Read variable ``product_enrolment``; an empty one means an installer without network.

    :raises FleetError: names the key and the remedy.
    """
    if not given:
        return None
    for key in (*given, *_KEYS):
        if key not in _KEYS or key not in given:
            problem = "unknown key" if key not in _KEYS else "missing"
            raise FleetError(problem, where=f"{VARIABLE}: {key}", remedy=f"its keys are {', '.join(_KEYS)}")
    url, name = _url(given["url"])
    return ProvisioningServer(url, name, _authority(given["authority"]), _addresses(given["addresses"]))


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
        content = Path(str(path)).read_bytes()
        x509.load_pem_x509_certificates(content)
    except (OSError, ValueError) as exc:
        remedy = "name a file with the certificate (PEM) of the authority that certifies the server"
        raise FleetError(f"{path}: {exc}", where=where, remedy=remedy) from None
    return content.decode("utf-8", "replace")


def _addresses(given: Any) -> tuple[str, ...]:
    where = f"{VARIABLE}: addresses"
    if not isinstance(given, list) or not given:
        raise FleetError("has to be a list of addresses", where=where, remedy="an installer resolves no names")
    try:
        return tuple(str(ipaddress.ip_address(str(address))) for address in given)
    except ValueError as exc:
        raise FleetError(str(exc), where=where) from None
