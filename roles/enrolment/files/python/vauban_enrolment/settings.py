# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The settings of the service: one file, read at its start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cryptography import x509
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

PATH = Path("/etc/vauban/enrolment/settings.json")
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Size = Annotated[int, Field(ge=1, le=2**50)]


class _Part(BaseModel):
    # A database's URL may hold a password.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Limits(_Part):
    """What a network of strangers may ask for. The reasons stand in role enrolment."""

    body_bytes: Count = 131_072
    body_seconds: Count = 30
    requests_per_minute: Count = 120
    requests_per_minute_in_all: Count = 12_000
    applications_per_minute: Count = 12
    applications_per_minute_in_all: Count = 600
    addresses: Count = 20_000
    unproven: Count = 2_000
    unproven_per_address: Count = 16
    reports: Count = 2_000
    backup_bytes: Size = 1 << 36
    backup_reserve_bytes: Size = 1 << 30


class Lifetimes(_Part):
    """Seconds after which what waits has ended."""

    challenge: Count = 120
    nonce: Count = 120
    quarantine_silence: Count = 1_800
    quarantine: Count = 604_800
    installation: Count = 14_400
    first_boot: Count = 86_400
    ended: Count = 604_800


class Settings(_Part):
    """What the file says."""

    database: str = Field(default="sqlite:////var/lib/enrolment/enrolment.sqlite", min_length=1)
    backups: Path = Path("/var/lib/enrolment/backups")
    ek_authorities: Path | None = None
    threads: Annotated[int, Field(ge=1, le=64)] = 4
    limits: Limits = Limits()
    lifetimes: Lifetimes = Lifetimes()

    def authorities(self) -> list[x509.Certificate]:
        """The manufacturers' authorities that certificates of EKs are checked against.

        :raises FleetError: names the file.
        """
        if self.ek_authorities is None:
            return []
        try:
            return x509.load_pem_x509_certificates(self.ek_authorities.read_bytes())
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "holds no certificates in PEM"
            raise FleetError(str(reason), where=str(self.ek_authorities), remedy="see ek_authorities") from exc


def read(path: Path) -> Settings:
    """Read the file.

    :raises FleetError: names the file and the key.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise FleetError(f"cannot be read: {exc.strerror}", where=str(path)) from exc
    except (ValueError, RecursionError) as exc:
        raise FleetError(f"not JSON: {exc}", where=str(path)) from exc
    try:
        return Settings.model_validate(data)
    except ValidationError as exc:
        problem = exc.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise FleetError(problem["msg"], where=f"{path}: {key}" if key else str(path)) from None
