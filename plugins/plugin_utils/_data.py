# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import hardware_profile
from ansible_collections.vauban.fleet.plugins.module_utils._install.hardware import DMI
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION

FILES = COLLECTION / "files"
_COMMON = "common"
_PROFILES = "product_hardware_profiles"


def read(path: Path) -> dict[str, Any]:
    """Read a data file of ours or of a derived product.

    :raises FleetError: names the file and, for a syntax error, the line.
    """
    try:
        data = yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise FleetError("the file does not exist", where=str(path)) from None
    except OSError as exc:
        raise FleetError(f"cannot be read: {exc.strerror}", where=str(path)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # not UTF-8, a date of month 13, a thousand brackets
        raise FleetError(f"not YAML: {exc}", where=str(path)) from exc
    if not isinstance(data, dict):
        raise FleetError("the top level must be a mapping", where=str(path))
    return data


def collection_version() -> str:
    """Version of this collection, from the file that a checkout has or the one that an installed collection has."""
    source, installed = COLLECTION / "galaxy.yml", COLLECTION / "MANIFEST.json"
    if source.is_file():
        return str(read(source)["version"])
    return str(read(installed)["collection_info"]["version"])


def package_set(name: str, directories: Iterable[str]) -> list[str]:
    """The packages of a set; directories of the user come before ours.

    :raises FleetError: no such set, or it lists no packages.
    """
    path = find(name, directories, "package_sets", where="product_package_sets")
    packages = read(path).get("packages")
    if not isinstance(packages, list) or not all(isinstance(package, str) for package in packages):
        raise FleetError("must be a list of package names", where=f"{path}: packages")
    return packages


def hardware(names: Iterable[str], directories: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The hardware profiles ``common`` and ``names``, by name; directories of the user come before ours.

    :raises FleetError: no such profile, one without its three lists, or one that does not say well which machines it
        is for.
    """
    profiles: dict[str, Mapping[str, Any]] = {}
    for name in dict.fromkeys([_COMMON, *names]):
        if not hardware_profile.NAME.fullmatch(name):
            remedy = "use a-z first, then up to 31 of a-z 0-9 _ -"
            raise FleetError(f"{name!r} is no name of a profile", where=_PROFILES, remedy=remedy)
        path = find(name, directories, "hardware", where=_PROFILES)
        profile = read(path)
        for key in ("modules", "firmware", "kernel_arguments"):
            if not isinstance(profile.get(key), list):
                raise FleetError("must be a list", where=f"{path}: {key}")
        _check_dmi(name, profile.get("dmi", []), f"{path}: dmi")
        profiles[name] = profile
    return profiles


def machines(profiles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Which machines hardware profiles from :func:`hardware` are for, as an installer reads it."""
    return {name: profile.get("dmi", []) for name, profile in profiles.items() if name != _COMMON}


def _check_dmi(name: str, alternatives: Any, where: str) -> None:
    """A pattern that is never asked, or never fits, would be found out at the machine only."""
    if not isinstance(alternatives, list):
        raise FleetError("must be a list of alternatives", where=where, remedy='- {sys_vendor: "Example*"}')
    if name == _COMMON and alternatives:
        raise FleetError("this profile is part of every other", where=where, remedy="say it in one of the others")
    for index, each in enumerate(alternatives):
        if not isinstance(each, dict) or not each:
            remedy = 'write - {sys_vendor: "Example*"}'
            raise FleetError("must be patterns by the names of what DMI says", where=f"{where}[{index}]", remedy=remedy)
        for key, pattern in each.items():
            at = f"{where}[{index}].{key}"
            if key not in DMI:
                raise FleetError("unknown key", where=at, remedy=f"choose from {', '.join(DMI)}")
            if not isinstance(pattern, str) or not pattern:
                raise FleetError(f"{pattern!r} is no pattern", where=at, remedy="write a text, numbers in quotes")


def find(name: str, directories: Iterable[str | Path], kind: str, *, where: str | None) -> Path:
    """The data file of this name; directories of the user come before ours.

    :param kind: directory below :data:`FILES` that is searched last.
    :param where: what names the file.
    :raises FleetError: there is none; says where it was looked for, and which there are.
    """
    searched = dict.fromkeys([*map(Path, directories), FILES / kind])
    for directory in searched:
        if (directory / f"{name}.yml").is_file():
            return directory / f"{name}.yml"
    known = sorted({path.stem for directory in searched for path in directory.glob("*.yml")})
    raise FleetError(
        f"no file {name}.yml in {', '.join(str(directory) for directory in searched)}",
        where=where,
        remedy=f"choose from {', '.join(known)}, or add a file",
    )
