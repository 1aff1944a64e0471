# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""What machines and admins send and get. Everything that strangers send has a length, a depth and a form."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

ID_PATTERN = r"^[0-9a-f]{32}$"
HOST_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
RELEASE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$"
IKE = "1.3.6.1.5.5.7.3.17"  # RFC 4945
_DEPTH = 6
_ITEMS = 256
_TEXT = 4096


def _decode(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("has to be base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64") from None


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _clean(value: str) -> str:
    """Nothing that moves a cursor or ends a line: hardware says odd things, and admins read them."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)


def _bounded(value: Any, depth: int = 0) -> Any:
    if depth > _DEPTH:
        raise ValueError("is nested too deeply")
    if isinstance(value, str):
        if len(value) > _TEXT:
            raise ValueError("holds a text that is too long")
        return _clean(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        if not math.isfinite(value) or abs(value) >= 2**63:
            raise ValueError("holds a number that is too large")
        return value
    if len(value) > _ITEMS:
        raise ValueError("holds too many parts")
    if isinstance(value, list):
        return [_bounded(each, depth + 1) for each in value]
    return {_bounded(key, depth): _bounded(each, depth + 1) for key, each in value.items()}


def _register(value: str) -> str:
    if not value.isascii() or not value.isdigit() or str(int(value)) != value or int(value) > 23:
        raise ValueError("is no register of a PC (0 to 23)")
    return value


def _binary_schema(maximum: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "contentEncoding": "base64", "maxLength": (maximum + 2) // 3 * 4})


_BINARY = (BeforeValidator(_decode), PlainSerializer(_encode))
Key = Annotated[bytes, Field(min_length=1, max_length=2048), *_BINARY, _binary_schema(2048)]
Certificate = Annotated[bytes, Field(min_length=1, max_length=8192), *_BINARY, _binary_schema(8192)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, StringConstraints(max_length=300), AfterValidator(_clean)]
Json = Annotated[dict[str, Any], AfterValidator(_bounded)]
Mac = Annotated[str, StringConstraints(pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$", to_lower=True)]
HostName = Annotated[str, StringConstraints(pattern=HOST_PATTERN)]
ReleaseName = Annotated[str, StringConstraints(pattern=RELEASE_PATTERN)]
PartName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Registers = Annotated[
    dict[Annotated[str, AfterValidator(_register)], Sha256], Field(min_length=1, max_length=24)
]  # of the SHA-256 bank
Recipient = Annotated[str, StringConstraints(pattern=r"^age1[02-9a-z]{10,500}$")]
Class = Literal["tpm", "software_tpm", "no_tpm"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


# -- machines


class ReleaseOf(_Document):
    """The release that the installer belongs to."""

    product: ReleaseName
    version: ReleaseName
    manifest_sha256: Sha256


class Interface(_Document):
    """A network interface."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_clean)]
    mac: Mac


class Hardware(_Document):
    """What the machine says of itself. Hints, and no proof of anything."""

    dmi: Annotated[dict[str, Line], Field(max_length=64)] = Field(
        default_factory=dict,
        description="As the files in /sys/class/dmi/id are named; product_serial is the serial number.",
    )
    disks: Annotated[list[Json], Field(max_length=64)] = Field(default_factory=list)
    interfaces: Annotated[list[Interface], Field(max_length=64)] = Field(default_factory=list)
    tpm_version: Literal["1.2", "2.0"] | None = None
    hardware_profile: PartName | None = Field(default=None, description="Of its release, as DMI says.")


class Tpm(_Document):
    """The keys of a TPM."""

    ek_public: Key = Field(description="TPM2B_PUBLIC")
    ek_certificate: Certificate | None = Field(default=None, description="X.509 in DER")
    ak_public: Key = Field(description="TPM2B_PUBLIC")


class Application(_Document):
    """What a machine begins with."""

    release: ReleaseOf
    hardware: Hardware
    tpm: Tpm | None


class ChallengeOut(_Document):
    """What the TPM has to answer."""

    credential_blob: Key
    secret: Key
    nonce: Key
    pcrs: list[int] = Field(description="The registers to quote, of the SHA-256 bank.")


class Status(_Document):
    """Where an enrolment is."""

    id: str
    state: str
    host: str | None
    challenge: ChallengeOut | None = None


class Accepted(_Document):
    """The beginning of an enrolment."""

    id: str
    token: str
    state: str
    challenge: ChallengeOut | None = None


class QuoteIn(_Document):
    """What the TPM says of its registers."""

    quote: Key = Field(description="TPMS_ATTEST")
    signature: Key = Field(description="TPMT_SIGNATURE")
    pcrs: Registers

    def registers(self) -> dict[int, str]:
        """By number."""
        return {int(number): value for number, value in self.pcrs.items()}


class Proof(QuoteIn):
    """The answer to a challenge."""

    credential: Key


class StateOnly(_Document):
    """Where the enrolment has come to."""

    state: str


class Wanted(_Document):
    """A certificate that the site gives the host."""

    name: PartName
    subject: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    dns: Annotated[list[HostName], Field(min_length=1, max_length=16)]
    usages: Annotated[list[str], Field(min_length=1, max_length=4)] = Field(
        default_factory=lambda: [IKE], description="Extended key usages, as dotted numbers."
    )


class Configuration(_Document):
    """Where the host's configuration is, and what it has to be."""

    sha256: Sha256
    url: Annotated[str, StringConstraints(pattern=r"^https://[\x21-\x7e]{1,2000}$")]


class EscrowTo(_Document):
    """To whom the recovery key is encrypted."""

    recipients: Annotated[list[Recipient], Field(min_length=1, max_length=16)]
    threshold: int = Field(default=1, description="How many of them it takes to open it.")


class Installation(_Document):
    """What the host is to become."""

    host: str
    machine_class: Class = Field(serialization_alias="class")
    release: ReleaseOf
    disk: dict[str, Any]
    sizes: dict[str, int]
    hardware_profile: str | None = Field(description="In place of the one that DMI says.")
    escrow: EscrowTo
    configuration: Configuration | None
    certificates: list[Wanted]


class DiskOf(_Document):
    """A whole disk, as lsblk(8) names it."""

    path: Line
    serial: Line
    wwn: Line
    size: Annotated[int, Field(ge=0, lt=2**63)]


class WipeOut(_Document):
    """The order to erase a disk."""

    host: str
    disk: dict[str, Any] = Field(description="The rule that says which it is.")
    begun: DiskOf | None = Field(description="Which it was when its machine began before; nothing on it may say so.")


class RepairOut(_Document):
    """The order to repair a disk."""

    host: str
    disk: dict[str, Any] = Field(description="The rule that says which it is.")
    thorough: bool = Field(description="Whether files may be lost by it.")


class BackupOut(_Document):
    """The order to send what is on a disk."""

    host: str
    disk: dict[str, Any] = Field(description="The rule that says which it is.")
    recipients: list[Recipient] = Field(description="The machine believes those that come with the key of its disk.")
    largest: int = Field(description="Bytes that are taken, at most.")
    piece: int = Field(description="The same, of one piece.")


class BackupSent(_Document):
    """What was sent, in all."""

    size: Annotated[int, Field(ge=1, lt=2**63)]
    sha256: Sha256


class UnlockIn(QuoteIn):
    """Asks for the recovery key of a disk.

    The quote signs `00 01` and the SHA-256 of the recipient, so nobody can put another recipient in its place.
    """

    recipient: Recipient = Field(description="Made by the installer, in memory, for this one answer.")


class UnlockOut(_Document):
    """The recovery key, encrypted twice: to what only this TPM can release, and then to the recipient."""

    credential_blob: Key
    secret: Key
    recovery_key: Annotated[str, StringConstraints(max_length=16_384)] = Field(description="age, armoured")


class ShareOf(_Document):
    """An officer's share of the identity that opens a recovery key."""

    recipient: Recipient
    share: Annotated[str, StringConstraints(max_length=4096)] = Field(description="age, armoured")
    sha256: Sha256 = Field(description="Of the share itself, by which it is known again.")


class Shared(_Document):
    """What it takes several officers to open a recovery key with."""

    set: Annotated[str, StringConstraints(pattern=ID_PATTERN)] = Field(description="Names this sharing.")
    threshold: Annotated[int, Field(ge=2, le=16)]
    shares: Annotated[list[ShareOf], Field(min_length=2, max_length=16)]


class EscrowIn(_Document):
    """A recovery key, encrypted on the machine."""

    recovery_key: Annotated[str, StringConstraints(max_length=16_384)] = Field(description="age, armoured")
    shared: Shared | None = Field(default=None, description="If no recipient opens it alone.")
    recipients: Annotated[list[Recipient], Field(max_length=16)]
    tokens: Annotated[list[PartName], Field(max_length=16)]
    key_slots: Annotated[list[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}$")]], Field(max_length=32)] = (
        Field(description="Of the LUKS2 header, as it will stay.")
    )


class Receipt(_Document):
    """That the body is kept: its SHA-256 is over exactly the bytes that were sent."""

    id: str
    sha256: Sha256
    time: str


class BackupReceipt(Receipt):
    """That the backup is kept: size and SHA-256 are those of the file, as it was read again."""

    size: int


class BackupReceiptOut(_Document):
    """The answer to the end of a backup."""

    receipt: BackupReceipt


class ReceiptOut(_Document):
    """The answer to an escrow."""

    receipt: Receipt


class Report(_Document):
    """What the machine does. The first begins the installation; phases `written` and `failed` end it.

    A machine that is to repair its disk says with phase `repaired` that it is done, one that is to send its data with
    `backed_up`.
    A machine that is to erase its disk says with phase `wipe` which disk, and with `wiped` that it is done.
    """

    phase: PartName
    percent: Annotated[int, Field(ge=0, le=100)]
    line: Line
    evidence: Json = Field(default_factory=dict)


class WrittenEvidence(BaseModel):
    """What a report of phase `written` has to hold, among others."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    receipt: Sha256
    manifest_sha256: Sha256
    tokens: list[str]
    key_slots: list[str]


class WipeBegun(BaseModel):
    """What a report of phase `wipe` has to hold, among others."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    disk: DiskOf


class WipedEvidence(WipeBegun):
    """What a report of phase `wiped` has to hold, among others: what was done, and what could not be."""

    volumes: list[str] = Field(description="Whose key slots are gone, and whose headers are overwritten.")
    discarded: bool
    boot_entries: list[str]
    tpm: dict[str, Any]


class RepairedEvidence(BaseModel):
    """What a report of phase `repaired` has to hold, among others: what was found, and what was done."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    manifest_sha256: Sha256
    header: dict[str, Any]
    file_system: dict[str, Any]
    core: dict[str, Any]
    boot: dict[str, Any]


class BackedUpEvidence(BaseModel):
    """What a report of phase `backed_up` has to hold, among others."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    receipt: Sha256
    manifest_sha256: Sha256
    file_system: dict[str, Any]


class NonceOut(_Document):
    """What the quote of the first boot has to sign."""

    nonce: Key
    pcrs: list[int]


class Attestation(_Document):
    """The first boot from the disk. Machines without TPM send nothing but the nonce."""

    nonce: Key
    quote: Key | None = None
    signature: Key | None = None
    pcrs: Registers | None = None

    def given(self) -> QuoteIn | None:
        """The quote, if it is one."""
        if self.quote is None or self.signature is None or self.pcrs is None:
            return None
        return QuoteIn.model_construct(quote=self.quote, signature=self.signature, pcrs=self.pcrs)


# -- admins


class Expectation(_Document):
    """What is known of a host's machine before it comes, and what it gets."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, populate_by_name=True)

    product: ReleaseName
    version: ReleaseName
    machine_class: Class = Field(alias="class")
    admit: Literal["listed", "serial", "approval"] = Field(
        description="By a listed EK; by the serial number and a certificate of the EK; or by an admin who looked."
    )
    ek_sha256: Sha256 | None = Field(default=None, description="Of the EK as SubjectPublicKeyInfo (DER).")
    ek_certificate: bool = Field(
        default=False, description="Whether its certificate has to be of a known manufacturer."
    )
    serial: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    macs: Annotated[list[Mac], Field(max_length=32)] = Field(default_factory=list)
    disk: Annotated[Json, Field(min_length=1)]
    sizes: Annotated[dict[PartName, Annotated[int, Field(ge=1, lt=2**63)]], Field(max_length=16)] = Field(
        default_factory=dict
    )
    hardware_profile: PartName | None = Field(default=None, description="In place of the one that DMI says.")
    recipients: Annotated[list[Recipient], Field(min_length=1, max_length=16)]
    threshold: int = Field(
        default=1, ge=1, le=16, description="How many of the recipients it takes to open a recovery key."
    )
    configuration: Configuration | None = None
    certificates: Annotated[list[Wanted], Field(max_length=8)] = Field(default_factory=list)
    reinstall: bool = False
    keep: bool = Field(
        default=False, description="Whether another board or TPM has the disk of the host, which keeps what is on it."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.machine_class == "no_tpm" and (self.ek_sha256 or self.ek_certificate or self.admit != "approval"):
            raise ValueError("class no_tpm: only an approval admits it")
        if self.keep and (self.machine_class == "no_tpm" or self.reinstall):
            raise ValueError("keep: not without a TPM, and not together with reinstall")
        if self.machine_class == "software_tpm" and self.admit == "serial":
            raise ValueError("class software_tpm: a listed EK or an approval admits it")
        if self.admit == "listed" and self.ek_sha256 is None:
            raise ValueError("admit listed: ek_sha256 is missing")
        if self.admit == "serial" and (self.serial is None or not self.ek_certificate):
            raise ValueError("admit serial: needs serial, and ek_certificate")
        if self.admit != "listed" and self.ek_sha256 is not None:
            raise ValueError("ek_sha256: only with admit listed")
        if self.threshold > len(self.recipients):
            raise ValueError("threshold: there are fewer recipients")
        for name, values in (
            ("recipients", self.recipients),
            ("macs", self.macs),
            ("certificates", [each.name for each in self.certificates]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: the same twice")
        return self


class Predicted(_Document):
    """What a release measures: in the installer, and after the first boot from the disk."""

    installer: Registers
    installed: Registers


class ReleaseContent(_Document):
    """A release that may be installed."""

    manifest_sha256: Sha256
    pcrs: Predicted


class Approval(_Document):
    """Which host the machine is."""

    host: HostName


class Refusal(_Document):
    """Why. The machine is not told."""

    reason: Annotated[Line, Field(min_length=1)]


class OrderIn(Refusal):
    """That a machine is to do something, soon."""

    seconds: Annotated[int, Field(ge=60, le=7 * 24 * 3600)] = Field(description="How long the order counts.")


class BackupIn(OrderIn):
    """That a machine is to send what is on its disk."""

    recipients: Annotated[list[Recipient], Field(min_length=1, max_length=16)] = Field(
        description="Who can open it, each alone."
    )

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.recipients)) != len(self.recipients):
            raise ValueError("recipients: the same twice")
        return self


class RepairIn(OrderIn):
    """That a disk is to be repaired."""

    thorough: bool = Field(default=False, description="Whether files may be lost by it.")
