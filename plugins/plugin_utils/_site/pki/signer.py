# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The keys of a site's authorities."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.pki import files

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError:  # certificates.CRYPTOGRAPHY_ERROR says so
    pass

MIN_PASSPHRASE = 12  # characters; PKCS#8 makes each guess slow, but not slow enough for a word


@dataclass(frozen=True)
class Signer:
    """What an authority signs with.

    :param authority: its certificate, if it has one.
    :param variable: where the passphrase comes from.
    """

    authority: Path
    key: Path
    passphrase: str | None
    variable: str

    def load(self) -> ec.EllipticCurvePrivateKey:
        """The key, if it is there, can be opened, and fits an authority that lasts.

        :raises FleetError: it cannot be used.
        """
        loaded = self._open()
        if self.authority.exists():
            if not self._is_of_authority(loaded):
                raise FleetError(
                    f"it is not the key of {self.authority}",
                    where=str(self.key),
                    remedy="bring key and certificate that belong together",
                )
            ends = files.read_certificate(self.authority).not_valid_after_utc
            if ends <= datetime.now(UTC):
                raise FleetError(
                    f"ended on {ends:%Y-%m-%d}, and signs nothing any more",
                    where=str(self.authority),
                    remedy="bring the key of the root and renew: -e site_pki_verb=renew",
                )
        return loaded

    def check_new(self) -> None:
        """Whether a key can be made for an authority that is not there, or in place of one that is revoked.

        One that is there already was made by a run that was interrupted.

        :raises FleetError: it would not be protected, or is that of the authority that is revoked.
        """
        if self.key.exists():
            if self._is_of_authority(self._open()):
                raise FleetError(
                    f"it is the key of {self.authority}, which is revoked",
                    where=str(self.key),
                    remedy="remove it and its copies, so that another is made",
                )
        elif len(self.passphrase or "") < MIN_PASSPHRASE:
            raise FleetError(
                f"{self.variable} has fewer than {MIN_PASSPHRASE} characters",
                where=str(self.key),
                remedy=f"put a longer {self.variable} into a file of ansible-vault, and name it: -e @FILE",
            )

    def _is_of_authority(self, key: ec.EllipticCurvePrivateKey) -> bool:
        if not self.authority.exists():
            return False
        certificate = files.read_certificate(self.authority)
        return files.fingerprint(certificate.public_key()) == files.fingerprint(key.public_key())

    def _open(self) -> ec.EllipticCurvePrivateKey:
        name = self.authority.stem
        if not self.key.exists():
            raise FleetError(
                f"the key of the {name} authority is not here",
                where=str(self.key),
                remedy=f"bring it there from its medium, or say where it is: -e site_pki_{name}_key=FILE",
            )
        if not self.passphrase:
            raise FleetError(
                f"{self.variable} is not set, and the key of the {name} authority is encrypted",
                where=str(self.key),
                remedy=f"put {self.variable} into a file of ansible-vault, and name it: -e @FILE",
            )
        if self.key.stat().st_mode & 0o077:
            raise FleetError("others may read it", where=str(self.key), remedy=f"chmod 600 {self.key}")
        try:
            loaded = serialization.load_pem_private_key(self.key.read_bytes(), self.passphrase.encode())
        except TypeError:
            remedy = f"encrypt it: openssl pkcs8 -topk8 -in {self.key} -out NEW, and let NEW take its place"
            raise FleetError("it is not encrypted", where=str(self.key), remedy=remedy) from None
        except ValueError:
            remedy = f"set {self.variable} to the passphrase that the key was made with"
            raise FleetError(f"{self.variable} does not open it", where=str(self.key), remedy=remedy) from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            remedy = "bring the authority's own key"
            raise FleetError("it is no key on an elliptic curve", where=str(self.key), remedy=remedy)
        return loaded
