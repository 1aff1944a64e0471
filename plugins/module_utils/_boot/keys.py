# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ansible_collections.vauban.fleet.plugins.module_utils._boot.authority import RevocationList, read_list, serial_of
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import (
    Algorithm,
    Certificate,
    read_certificate,
)
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._signatures import PURPOSES, Trust

Kind = Literal["development", "production"]
KINDS: tuple[Kind, ...] = ("development", "production")

# Keys with a certificate, and the algorithm of each. The TPM's signed policy and EDK2's Secure Boot both want RSA.
CERTIFIED: dict[str, Algorithm] = {
    "PK": "rsa",
    "KEK": "rsa",
    "db": "rsa",
    "pcr": "rsa",
    "root": "p256",
    "release": "p256",
    "publish": "p256",
    "configuration": "p256",
}
# Keys whose certificate the root issues, for a short time; a machine knows the root alone.
ROOT = "root"
ISSUED = tuple(PURPOSES)
LIST, TRUSTED, REVOKED = "root.crl", "root.pem", "revoked"
ESCROW = "escrow"
NAMES = (*CERTIFIED, ESCROW)
# Secure Boot variables and the key that signs an update of each.
UPDATE_SIGNER = {"PK": "PK", "KEK": "PK", "db": "KEK"}
# What adds to the variable of what firmware refuses, by the same key as updates of db.
FORBIDDEN_LIST, FORBIDDEN_UPDATE = "dbx.esl", "dbx.auth"
RSA_BITS = 2048
DB_BITS = (2048, 3072, 4096)
MAX_DAYS = 36500
MARKER = "keys.json"
OWNER_FILE = "owner_guid"
LEAVE_USER_MODE = "noPK.auth"
PRODUCT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
FINGERPRINT = re.compile(r"[0-9a-f]{16,64}")
RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")


@dataclass(frozen=True)
class KeyRequest:
    """The keys a product is to have.

    :param name: the product: lower case letters, digits, ``_`` and ``-``, at most 32.
    :param days: validity of certificates that are made now and issued by nobody.
    :param signing_days: validity of those that the root issues now.
    :param db_bits: RSA bits of a ``db`` key that is made now.
    :param security_epoch: that of the key ``pcr``. A higher one than that of the directory makes a new key.
    :param held_elsewhere: keys whose private half is offline or in a token: never made, and not to be found here.
    :param root: where the key of the root is, if it is in a token that is at hand.
    :param renew: keys that get another certificate from the root, if its key is here.
    :param revoke: SHA-256 fingerprints, or how they begin, of certificates that the root takes back.
    :param forbidden: programs that firmware is to refuse (:mod:`forbidden`); KEK signs the list.
    """

    name: str
    kind: Kind = "development"
    days: int = 3650
    signing_days: int = 365
    db_bits: int = RSA_BITS
    security_epoch: int = 1
    held_elsewhere: frozenset[str] = field(default_factory=frozenset)
    root: KeyReference | None = None
    renew: frozenset[str] = field(default_factory=frozenset)
    revoke: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()

    @property
    def root_at_hand(self) -> bool:
        """Whether the root can sign now."""
        return self.root is not None or ROOT not in self.held_elsewhere

    def check(self) -> None:
        """Refuse values that no key can be made from.

        :raises FleetError: naming the value.
        """
        if not PRODUCT_NAME.fullmatch(self.name):
            raise FleetError(f"{self.name!r} is no product name", remedy="use a-z first, then up to 31 of a-z 0-9 _ -")
        if self.kind not in KINDS:
            raise FleetError(f"{self.kind!r} is no kind of keys", remedy=f"choose one of: {', '.join(KINDS)}")
        for days in (self.days, self.signing_days):
            if not 1 <= days <= MAX_DAYS:
                raise FleetError(f"certificates cannot be valid for {days} days", remedy=f"choose 1 to {MAX_DAYS}")
        if self.db_bits not in DB_BITS:
            raise FleetError(f"db cannot have {self.db_bits} bits", remedy="choose 2048, 3072 or 4096")
        if self.security_epoch < 1:
            raise FleetError(f"{self.security_epoch} is no security epoch", remedy="choose 1 or more")
        unknown = sorted(self.held_elsewhere - set(NAMES))
        if unknown:
            raise FleetError(f"no such key: {', '.join(unknown)}", remedy=f"the keys are: {', '.join(NAMES)}")
        if self.root is not None and ROOT not in self.held_elsewhere:
            raise FleetError(
                "the key root is said to be in a token, and to be made here",
                where="product_key_uris: root",
                remedy="add root to product_keys_held_elsewhere, or take it out of product_key_uris",
            )
        if wrong := [each for each in self.revoke if not FINGERPRINT.fullmatch(each)]:
            raise FleetError(
                f"{wrong[0]!r} is no fingerprint of a certificate",
                where="product_keys_revoke",
                remedy="name the SHA-256 of the certificate as keys.json has it, or its first 16 digits or more",
            )


@dataclass(frozen=True)
class ProductKeys:
    """The key directory of one product; reading it needs neither the SDK nor any private key."""

    directory: Path

    @property
    def marker(self) -> Path:
        return self.directory / MARKER

    def private(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def public(self, name: str) -> Path:
        """What stands for the key in public: its certificate, or the age recipient of the escrow."""
        return self.directory / f"{name}.{'pub' if name == ESCROW else 'crt'}"

    def check_private(self, name: str, request: KeyRequest) -> None:
        """Refuse a private key that is here and should not be, and one that is missing while its public half is here.

        :raises FleetError: so it is.
        """
        private, public = self.private(name), self.public(name)
        if name in request.held_elsewhere:
            if private.exists():
                raise FleetError(
                    "this private key is said to be held elsewhere but is still here",
                    where=str(private),
                    remedy=f"move it away, or take {name} out of held_elsewhere",
                )
        elif not private.exists() and public.exists():
            raise FleetError(
                f"the private key is missing but {public.name} exists",
                where=str(private),
                remedy=f"bring the key back, or name {name} in held_elsewhere if it is kept offline or in a token",
            )

    def reference(self, name: str) -> KeyReference:
        """The key in this directory, for signing."""
        return KeyReference(str(self.private(name).absolute()))

    def certificate(self, name: str) -> Certificate:
        """:raises FleetError: missing or unreadable."""
        return read_certificate(self.public(name))

    def certificates(self) -> dict[str, Certificate]:
        """The certificates that are there."""
        return {name: self.certificate(name) for name in CERTIFIED if self.public(name).exists()}

    @property
    def revocations(self) -> Path:
        """The root's list of revoked certificates."""
        return self.directory / LIST

    @property
    def revoked(self) -> Path:
        """Where certificates lie that count no more."""
        return self.directory / REVOKED

    def revocation_list(self) -> RevocationList:
        """:raises FleetError: missing, unreadable, or not of this root."""
        return read_list(self.revocations, self.certificate(ROOT))

    def trust(self, name: str) -> Trust:
        """What is believed of signatures with a key below the root."""
        return Trust(self.directory / TRUSTED, name)

    def owner(self) -> uuid.UUID:
        """The GUID that owns this product's entries in Secure Boot variables.

        :raises FleetError: missing or no GUID.
        """
        path = self.directory / OWNER_FILE
        try:
            return uuid.UUID(path.read_text("utf-8").strip())
        except FileNotFoundError as exc:
            raise FleetError("the owner GUID is not there", where=str(path), remedy="run playbook pki again") from exc
        except ValueError as exc:
            raise FleetError("this is no GUID", where=str(path)) from exc

    def recipient(self) -> str:
        """The age recipient that recovery keys are encrypted to.

        :raises FleetError: missing or no X25519 recipient.
        """
        path = self.public(ESCROW)
        if not path.exists():
            raise FleetError("the escrow recipient is not there", where=str(path))
        text = path.read_text("utf-8").strip()
        if not RECIPIENT.fullmatch(text):
            raise FleetError("this is no age X25519 recipient (age1...)", where=str(path))
        return text

    def read_marker(self) -> dict[str, Any]:
        """What was written down when the keys were made.

        :raises FleetError: missing or unreadable.
        """
        try:
            value = json.loads(self.marker.read_text("utf-8"))
        except FileNotFoundError as exc:
            raise FleetError(
                "nothing says what kind of keys these are", where=str(self.marker), remedy="run playbook pki again"
            ) from exc
        except ValueError as exc:
            raise FleetError("this is not JSON", where=str(self.marker)) from exc
        if not isinstance(value, dict) or value.get("kind") not in KINDS:
            raise FleetError("no kind of keys is named", where=f"{self.marker}: kind")
        return value


def require_production(keys: ProductKeys) -> None:
    """Refuse development keys; the certificates decide even if the marker was edited.

    :raises FleetError: naming the file that gives them away.
    """
    remedy = "make production keys in another directory: playbook pki with product_keys_kind=production"
    if keys.read_marker()["kind"] != "production":
        raise FleetError("these are development keys", where=f"{keys.marker}: kind", remedy=remedy)
    # Who builds need not have the certificates that only the controller signs with.
    present = {**{name: keys.certificate(name) for name in CERTIFIED if name not in ISSUED}, **keys.certificates()}
    for certificate in present.values():
        if certificate.development:
            raise FleetError(
                f"this is a development certificate: {certificate.subject}", where=str(certificate.path), remedy=remedy
            )


def due(keys: ProductKeys, *, now: dt.datetime, within_days: int) -> frozenset[str]:
    """Keys below the root that should get another certificate now: in the last third of its time, if that is less."""
    found = []
    for name, certificate in keys.certificates().items():
        window = min(dt.timedelta(days=within_days), (certificate.not_after - certificate.not_before) / 3)
        if name in ISSUED and now >= certificate.not_after - window:
            found.append(name)
    return frozenset(found)


def expiring(keys: ProductKeys, *, now: dt.datetime, within_days: int) -> tuple[Certificate, ...]:
    """The certificates that have expired or will within ``within_days``, the most urgent first."""
    limit = now + dt.timedelta(days=within_days)
    due = [certificate for certificate in keys.certificates().values() if certificate.not_after <= limit]
    return tuple(sorted(due, key=lambda certificate: certificate.not_after))


def require_current(keys: ProductKeys, names: Iterable[str], *, now: dt.datetime) -> None:
    """Refuse certificates that are not valid at ``now``, or that the root has revoked.

    :raises FleetError: naming the file and the date.
    """
    for name in names:
        certificate = keys.certificate(name)
        anew = f"run playbook pki where root.key is, and bring {name}.crt from there"
        if name in ISSUED and keys.revocations.exists() and serial_of(certificate) in keys.revocation_list().serials:
            raise FleetError(
                "the certificate was revoked", where=str(certificate.path), remedy=f"{anew}, for another key"
            )
        if now >= certificate.not_after:
            raise FleetError(
                f"the certificate expired on {certificate.not_after:%Y-%m-%d}",
                where=str(certificate.path),
                remedy=anew if name in ISSUED else "see docs/keys.md, section 'When a certificate expires'",
            )
        if now < certificate.not_before:
            raise FleetError(
                f"the certificate is valid only from {certificate.not_before:%Y-%m-%d %H:%M} UTC",
                where=str(certificate.path),
                remedy="check the clock of this machine",
            )
