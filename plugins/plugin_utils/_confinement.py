# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Confinement profiles: what they may say, and the drop-ins that come of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data
from ansible_collections.vauban.fleet.plugins.plugin_utils._pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    messages,
    model_validator,
)

_KIND = "confinement"
DIRECTORY = _data.FILES / _KIND

Model = TypeVar("Model", bound=BaseModel)

Word = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f%'\"\\]+$")]
Capability = Annotated[str, Field(pattern=r"^CAP_[A-Z0-9_]+$")]
Family = Annotated[str, Field(pattern=r"^(none|AF_[A-Z0-9_]+)$")]
Call = Annotated[str, Field(pattern=r"^~?@?[a-z0-9_-]+$")]
Place = Annotated[str, Field(pattern=r"^[-+]{0,2}/[^\s\x00-\x1f'\"\\]*$")]
Mount = Annotated[str, Field(pattern=r"^-?/[^\s\x00-\x1f'\"\\]*$")]
Octal = Annotated[str, Field(pattern=r"^0?[0-7]{3,4}$")]
Size = Annotated[str, Field(pattern=r"^(infinity|[0-9]+[KMGT]?|[0-9]+%)$")]
Account = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]*$")]
Device = Annotated[str, Field(pattern=r"^(/dev/|char-|block-)\S+ [rwm]+$")]
Namespace = Literal["cgroup", "ipc", "net", "mnt", "pid", "user", "uts"]
UnitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.(service|socket|mount|swap)$")]


class Settings(BaseModel):
    """The directives a profile may use, named as systemd.exec(5) and systemd.resource-control(5) name them.

    None leaves a directive to the unit as its vendor wrote it. A list takes the place of the vendor's.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    User: Account | None = None
    Group: Account | None = None
    SupplementaryGroups: list[Account] | None = None
    CapabilityBoundingSet: list[Capability] | None = None
    AmbientCapabilities: list[Capability] | None = None
    NoNewPrivileges: bool | None = None
    UMask: Octal | None = None
    KeyringMode: Literal["private", "inherit", "shared"] | None = None
    LockPersonality: bool | None = None
    MemoryDenyWriteExecute: bool | None = None
    RemoveIPC: bool | None = None
    RestrictRealtime: bool | None = None
    RestrictSUIDSGID: bool | None = None

    RestrictNamespaces: bool | list[Namespace] | None = None
    PrivateDevices: bool | None = None
    PrivateIPC: bool | None = None
    PrivateMounts: bool | None = None
    PrivateNetwork: bool | None = None
    PrivateTmp: bool | Literal["disconnected"] | None = None
    PrivateUsers: bool | Literal["self", "identity"] | None = None

    ProtectSystem: bool | Literal["full", "strict"] | None = None
    ProtectHome: bool | Literal["read-only", "tmpfs"] | None = None
    ProtectProc: Literal["noaccess", "invisible", "ptraceable", "default"] | None = None
    ProcSubset: Literal["all", "pid"] | None = None
    ProtectClock: bool | None = None
    ProtectControlGroups: bool | Literal["private", "strict"] | None = None
    ProtectHostname: bool | None = None
    ProtectKernelLogs: bool | None = None
    ProtectKernelModules: bool | None = None
    ProtectKernelTunables: bool | None = None
    StateDirectory: list[Word] | None = None
    ReadWritePaths: list[Place] | None = None
    ReadOnlyPaths: list[Place] | None = None
    InaccessiblePaths: list[Place] | None = None
    NoExecPaths: list[Place] | None = None
    ExecPaths: list[Place] | None = None
    TemporaryFileSystem: list[Place] | None = None
    BindPaths: list[Mount] | None = None
    BindReadOnlyPaths: list[Mount] | None = None

    SystemCallArchitectures: Literal["native"] | None = None
    SystemCallFilter: list[Call] | None = None
    SystemCallErrorNumber: Word | None = None
    RestrictAddressFamilies: list[Family] | None = None
    RestrictFileSystems: list[Call] | None = None

    DevicePolicy: Literal["auto", "closed", "strict"] | None = None
    DeviceAllow: list[Device] | None = None
    IPAccounting: bool | None = None
    IPAddressDeny: list[Word] | None = None
    IPAddressAllow: list[Word] | None = None
    SocketBindDeny: list[Word] | None = None
    SocketBindAllow: list[Word] | None = None

    TasksMax: int | Size | None = None
    MemoryHigh: Size | None = None
    MemoryMax: Size | None = None
    MemorySwapMax: Size | None = None
    LimitCORE: int | None = None
    LimitNOFILE: int | None = None
    LimitMEMLOCK: Size | None = None
    OOMScoreAdjust: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    Delegate: bool | None = None

    def lines(self) -> Iterator[str]:
        """The directives as a unit file has them. An empty assignment drops the vendor's list before ours."""
        for name, value in self:
            if isinstance(value, bool):
                yield f"{name}={'yes' if value else 'no'}"
            elif isinstance(value, list):
                yield f"{name}="
                one_a_line = name in ("SystemCallFilter", "DeviceAllow")
                yield from (f"{name}={text}" for text in (value if one_a_line else [" ".join(value)]) if text)
            elif value is not None:
                yield f"{name}={value}"


class Difference(BaseModel):
    """Directives that take the place of others, each with the reason."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    settings: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    threshold: float | None = Field(default=None, gt=0, le=10)

    @model_validator(mode="after")
    def _reasoned(self) -> Difference:
        if missing := self.settings.keys() - self.reasons.keys():
            raise ValueError(f"reasons: none for {', '.join(sorted(missing))}")
        if idle := self.reasons.keys() - self.settings.keys():
            raise ValueError(f"reasons: {', '.join(sorted(idle))} is not in settings")
        return self


class Unit(Difference):
    """A unit that a site confines."""

    name: UnitName
    profile: str


class Profile(BaseModel):
    """One file of files/confinement.

    :param threshold: highest exposure (`systemd-analyze security`) of a unit with this profile.
    :param units: those of the images, and how they differ.
    :param gated: units that their vendor or another role confines, and their highest exposure.
    :param left: units that nothing is taken from, and why.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    description: str
    extends: str | None = None
    threshold: float = Field(gt=0, le=10)
    settings: dict[str, Any]
    reasons: dict[str, str] = {}
    units: dict[UnitName, Difference] = {}
    gated: dict[UnitName, float] = {}
    left: dict[UnitName, str] = {}


@dataclass(frozen=True)
class Dropin:
    """What a unit gets."""

    name: str
    profile: str
    lines: tuple[str, ...]
    threshold: float

    def as_dict(self) -> dict[str, Any]:
        """The element of ``confinement_dropins``."""
        return {
            "name": self.name,
            "profile": self.profile,
            "lines": list(self.lines),
            "threshold": self.threshold,
            "check": exposure_check(self.name, self.threshold),
            "judged": f"{_tenths(self.threshold)} {_instance(self.name)}",
        }


def dropins(units: Iterable[Mapping[str, Any]], directories: Sequence[str | Path] = ()) -> list[Dropin]:
    """The drop-ins of units that a site confines.

    :raises FleetError: a unit or profile is wrong; names the unit and the directive.
    """
    made = [dropin(data, directories, where=f"confinement_units[{number}]") for number, data in enumerate(units)]
    names = [each.name for each in made]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FleetError(f"{', '.join(twice)}: named twice", where="confinement_units")
    return made


def dropin(data: Mapping[str, Any], directories: Sequence[str | Path] = (), *, where: str | None = None) -> Dropin:
    """The drop-in of a unit that a site confines.

    :param directories: with profiles, looked up before those of the collection.
    :param where: what names the unit. An error in a profile has the path of its file instead.
    :raises FleetError: the unit or a profile is wrong; names the directive.
    """
    unit = _checked(Unit, data, where)
    return _dropin(unit.name, unit.profile, unit, tuple(map(Path, directories)), where and f"{where} ({unit.name})")


def image_dropins(directories: Sequence[str | Path] = ()) -> list[Dropin]:
    """The drop-ins that an image has for the units of its packages and roles."""
    places = (*map(Path, directories), DIRECTORY)
    made: dict[str, Dropin] = {}
    for path in (path for place in places for path in sorted(place.glob("*.yml"))):
        for name, difference in _read(path).units.items():
            where = f"{path}: units: {name}"
            if name in made and path.parent == DIRECTORY and directories:
                continue  # the user's file decided
            if name in made:
                raise FleetError(f"is in profile {made[name].profile}, too", where=where)
            made[name] = _dropin(name, path.stem, difference, places, where)
    return sorted(made.values(), key=lambda each: each.name)


def limits(directories: Sequence[str | Path] = ()) -> dict[str, float]:
    """Highest exposure by unit: of the units of an image, and of those that other roles confine."""
    places = (*map(Path, directories), DIRECTORY)
    gated: dict[str, float] = {}
    for path in (path for place in places for path in sorted(place.glob("*.yml"))):
        gated = {**_read(path).gated, **gated}
    return {**gated, **{each.name: each.threshold for each in image_dropins(directories)}}


def check(path: Path) -> None:
    """Read a profile, which nobody may use yet.

    :raises FleetError: it is wrong; names file and directive.
    """
    _read(path)


def known_units() -> frozenset[str]:
    """The units that profiles of the collection name, whatever they say about them."""
    profiles = [_read(path) for path in DIRECTORY.glob("*.yml")]
    return frozenset(name for profile in profiles for name in (*profile.units, *profile.gated, *profile.left))


def exposure_check(unit: str, threshold: float, *options: str) -> list[str]:
    """The command that fails if a unit is more exposed than this."""
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={_tenths(threshold)}"]
    return [*command, *options, _instance(unit)]


def _tenths(threshold: float) -> int:
    """As systemd-analyze(1) counts."""
    return round(threshold * 10)


def _instance(unit: str) -> str:
    """Any instance stands for all of a template."""
    return unit.replace("@.", "@instance.")


def _dropin(name: str, profile: str, difference: Difference, places: tuple[Path, ...], where: str | None) -> Dropin:
    settings, threshold = _resolved(profile, places, where)
    merged = _settings({**settings, **difference.settings}, where)
    return Dropin(name, profile, tuple(merged.lines()), difference.threshold or threshold)


def _resolved(name: str, places: tuple[Path, ...], where: str | None) -> tuple[dict[str, Any], float]:
    """The directives of a profile with those that it extends, and its threshold."""
    settings: dict[str, Any] = {}
    threshold: float | None = None
    seen: list[str] = []
    following: str | None = name
    while following is not None:
        if following in seen:
            raise FleetError(f"extends itself: {' -> '.join([*seen, following])}", where=where)
        seen.append(following)
        path = _data.find(following, places, _KIND, where=where)
        profile = _read(path)
        if profile.extends is not None and (missing := profile.settings.keys() - profile.reasons.keys()):
            raise FleetError(f"none for {', '.join(sorted(missing))}", where=f"{path}: reasons")
        settings = {**profile.settings, **settings}
        threshold = profile.threshold if threshold is None else threshold
        following, where = profile.extends, f"{path}: extends"
    if threshold is None:
        raise AssertionError("every profile has a threshold")
    return settings, threshold


@cache
def _read(path: Path) -> Profile:
    profile = _checked(Profile, _data.read(path), str(path))
    _settings(profile.settings, str(path))
    return profile


def _settings(data: Mapping[str, Any], where: str | None) -> Settings:
    return _checked(Settings, data, where)


def _checked(model: type[Model], data: Mapping[str, Any], where: str | None) -> Model:
    try:
        return model.model_validate(dict(data))
    except ValidationError as exc:
        found = messages(exc, depth=1)
        text = "; ".join(f"{place}: {message}" if place else message for place, message in found.items())
        raise FleetError(text, where=where, remedy="see systemd.exec(5) for the directive and its values") from None
