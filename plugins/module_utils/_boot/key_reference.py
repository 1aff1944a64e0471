# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind

TOKEN_IN_SANDBOX = "/run/token"
KEYS_IN_SANDBOX = "/run/keys"


@dataclass(frozen=True)
class KeyReference:
    """Where a private key is: in a PEM file, or in a PKCS#11 token that never gives it out.

    :param location: path of the file, or a ``pkcs11:`` URI (RFC 7512) without a PIN.
    :param token: for a URI, the directory with ``openssl.cnf`` (names the module and the PIN file), ``pin`` and, for
        SoftHSM, ``softhsm2.conf`` and ``tokens/``; ``files/pkcs11`` holds the two settings files.
    """

    location: str
    token: Path | None = None

    @property
    def is_file(self) -> bool:
        return not self.location.startswith("pkcs11:")

    @property
    def argument(self) -> str:
        """The key as a program in the sandbox names it: a path there, or the URI."""
        return KEYS_IN_SANDBOX + self.location if self.is_file else self.location

    def check(self) -> None:
        """Refuse what cannot or must not be used, before a program is started with it.

        :raises FleetError: relative or missing path, a file that others may read, a PIN in the URI, a URI without an
            object, an incomplete token directory.
        """
        if self.is_file:
            if not self.location.startswith("/"):
                raise FleetError("a key file is named by its absolute path", where=self.location)
            require_private(Path(self.location))
            return
        if re.search(r"[?&]pin-(value|source)=", self.location):
            raise FleetError(
                "the URI of a key must not say the PIN or where it is",
                where=self.location.split("?")[0],
                remedy="write the PIN to the file 'pin' of the token directory",
            )
        if not re.search(r"[:;](object|id)=[^;?]", self.location):
            raise FleetError("the URI names no key", where=self.location, remedy="add 'object=LABEL' or 'id=%01'")
        if self.token is None:
            raise FleetError("a key in a token needs the token's directory", where=self.location)
        if not (self.token / "openssl.cnf").is_file():
            raise FleetError(
                "the token directory has no openssl.cnf",
                where=str(self.token),
                remedy="copy the files of files/pkcs11 there and name your module in openssl.cnf",
            )
        require_private(self.token / "pin")

    def binds(self) -> tuple[Bind, ...]:
        """What of the host the signing program must see, read-only: this key alone, or the token directory."""
        if self.token is None:
            return (Bind(Path(self.location), self.argument),)
        return (Bind(self.token, TOKEN_IN_SANDBOX),)

    def environment(self) -> Mapping[str, str]:
        """Variables that make OpenSSL load the pkcs11 provider, and SoftHSM find its tokens; none for a file."""
        if self.token is None:
            return {}
        return {
            "OPENSSL_CONF": f"{TOKEN_IN_SANDBOX}/openssl.cnf",
            "SOFTHSM2_CONF": f"{TOKEN_IN_SANDBOX}/softhsm2.conf",
        }

    def openssl_arguments(self) -> Sequence[str]:
        """For the ``openssl`` programs that take ``-inkey`` (cms)."""
        return ["-inkey", self.argument]

    def systemd_arguments(self) -> Sequence[str]:
        """For systemd-sbsign(1) and systemd-measure(1)."""
        source = "file" if self.is_file else "provider:pkcs11"
        return [f"--private-key={self.argument}", f"--private-key-source={source}"]

    def ukify_pcr_arguments(self, public: str) -> Sequence[str]:
        """For the signed PCR policy of ukify(1), in a call that leaves Secure Boot to :func:`sign_pe`.

        ukify has one provider for all keys of a call, so keys of both kinds cannot meet in one.

        :param public: path in the sandbox of ``pcr.pub``, or of ``pcr.crt`` when the key is in a token: with a provider
            ukify 257 reads the public half from a certificate only.
        """
        arguments = [f"--pcr-private-key={self.argument}", f"--pcr-public-key={public}"]
        return arguments if self.is_file else [*arguments, "--signtool=systemd-sbsign", "--signing-provider=pkcs11"]


def require_private(path: Path) -> None:
    """Refuse a secret that is missing or that group or others can reach.

    :param path: a file or a directory.
    :raises FleetError: with the command that repairs it.
    """
    if not path.exists():
        raise FleetError("the file is not there", where=str(path))
    if path.stat().st_mode & 0o077:
        mode = "700" if path.is_dir() else "600"
        raise FleetError(
            "others than its owner can read this secret",
            where=str(path),
            remedy=f"chmod {mode} {path}, and replace the key if somebody else has an account here",
        )
