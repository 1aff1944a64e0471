# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._boot import epochs
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import (
    ProductKeys,
    require_current,
    require_production,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

# Options of every action that signs.
SIGNING_SPEC: dict[str, Any] = {
    "keys": {"type": "path", "required": True},
    "keys_kind": {"type": "str", "choices": ["development", "production"], "default": "development"},
    "key_uris": {"type": "dict", "default": {}},
    "key_token": {"type": "path"},
    "instrumentation": {"type": "list", "elements": "str", "default": []},
}


class Signer:
    """The keys that a build signs with, and the rules about them.

    :raises FleetError: a production build with development keys or with instrumentation, or the reverse of the first.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.keys = ProductKeys(Path(arguments["keys"]))
        self._uris = arguments["key_uris"]
        known = {"db", "root", "release", "publish", "configuration", epochs.KEY, *epochs.before(self.keys)}
        if unknown := sorted(set(self._uris) - known):
            remedy = f"the keys are: {', '.join(sorted(known))}"
            raise FleetError(f"no such key: {', '.join(unknown)}", where="product_key_uris", remedy=remedy)
        self._token = Path(arguments["key_token"]) if arguments["key_token"] else None
        kind = self.keys.read_marker()["kind"]
        if arguments["keys_kind"] == "production":
            require_production(self.keys)
        if kind == "production" and arguments["instrumentation"]:
            raise FleetError(
                f"production keys do not sign instrumentation ({', '.join(arguments['instrumentation'])})",
                where="product_instrumentation",
                remedy="build without instrumentation, or with product_keys_kind: development and its own keys",
            )
        if kind != arguments["keys_kind"]:
            raise FleetError(
                f"these are {kind} keys, the product wants {arguments['keys_kind']} keys",
                where=f"{self.keys.marker}: kind",
                remedy="set product_keys_kind or product_keys_path",
            )

    def certificate(self, name: str) -> Path:
        """The certificate of a key, which is always a file."""
        return self.keys.directory / f"{name}.crt"

    def reference(self, name: str) -> KeyReference:
        """Where the private key is: its file, or the token that ``key_uris`` names.

        :raises FleetError: the certificate is not valid now.
        """
        require_current(self.keys, (name,), now=dt.datetime.now(dt.UTC))
        uri = self._uris.get(name)
        return KeyReference(uri, self._token) if uri else self.keys.reference(name)

    def pcr_keys(self) -> list[tuple[KeyReference, Path]]:
        """The PCR policy keys, that of the present security epoch first: each private key, and its public half in the
        form that ukify(1) reads with this kind of key.

        :raises FleetError: some are in a token and others are not, which ukify cannot take in one call.
        """
        names = ("pcr", *epochs.before(self.keys))
        found = [(self.reference(name), self.keys.directory / f"{name}.{self._public(name)}") for name in names]
        if len({reference.is_file for reference, _public in found}) > 1:
            raise FleetError(
                "keys pcr of all security epochs have to be in the token, or none",
                where=str(self.keys.directory),
                remedy=f"name each in product_key_uris ({', '.join(names)}), or remove those that no machine needs",
            )
        return found

    def _public(self, name: str) -> str:
        return "crt" if name in self._uris else "pub"
