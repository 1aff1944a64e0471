# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Lock, Package, Release

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")
_SOURCE_FIELD = re.compile(r"^(Package|Version|Source): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Suite:
    """One suite of one archive, as an apt source names it (sources.list(5))."""

    name: str
    archive: str


def suites(codename: str) -> tuple[Suite, ...]:
    """The suites a stable Debian release is served from: base, security, stable updates."""
    return (
        Suite(codename, "debian"),
        Suite(f"{codename}-security", "security"),
        Suite(f"{codename}-updates", "debian"),
    )


def host_mirrors() -> dict[str, str]:
    """The mirrors of the machine's own apt sources: ``{"debian": URL, "security": URL}``.

    :raises FleetError: apt knows no Debian source, or has not fetched its indexes yet.
    """
    listing = run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"])
    mirrors: dict[str, str] = {}
    for line in listing.stdout.splitlines():
        origin, label, uri = line.split("|", 2)
        if origin == "Debian":
            mirrors.setdefault("security" if label == "Debian-Security" else "debian", uri.rstrip("/"))
    if missing := {"debian", "security"} - set(mirrors):
        raise FleetError(
            f"apt on this machine knows no mirror for: {', '.join(sorted(missing))}",
            where="fleet_mirrors",
            remedy="run 'apt-get update', or set fleet_mirrors (debian, security) in the inventory",
        )
    return mirrors


class Resolver:
    """apt with a configuration of its own: the suites of one release, an empty dpkg status, nothing of the host.

    :param mirrors: URL of each archive (keys ``debian`` and ``security``).
    :param components: archive areas (Debian Policy 2.2), for example ``main``.
    :param keyring: OpenPGP keys that must have signed the Release files.
    """

    def __init__(
        self,
        directory: Path,
        codename: str,
        mirrors: Mapping[str, str],
        *,
        architecture: str = "amd64",
        components: Sequence[str] = ("main",),
        keyring: Path = KEYRING,
    ) -> None:
        self.directory = directory
        self.architecture = architecture
        self.suites = suites(codename)
        self.mirrors = {archive: url.rstrip("/") for archive, url in mirrors.items()}
        if missing := {suite.archive for suite in self.suites} - set(mirrors):
            raise FleetError(
                f"no mirror for: {', '.join(sorted(missing))}",
                where="fleet_mirrors",
                remedy="give the URL of both: debian and security",
            )
        if not keyring.is_file():
            raise FleetError("no such keyring", where=str(keyring), remedy="install debian-archive-keyring")
        for path in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "lists/partial", "cache/archives/partial"):
            (directory / path).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        stanzas = [
            f"Types: deb\nURIs: {self.mirrors[suite.archive]}\nSuites: {suite.name}\n"
            f"Components: {' '.join(components)}\nSigned-By: {keyring}\n"
            for suite in self.suites
        ]
        (directory / "sources.sources").write_text("\n".join(stanzas))

    def update(self) -> tuple[Release, ...]:
        """Fetch the indexes, letting apt check signatures, and return the Release files they came from.

        :raises FleetError: a mirror does not answer or a signature is not good.
        """
        try:
            run(self._apt("apt-get", "update", "--error-on=any"))
        except CommandError as exc:
            raise FleetError(
                f"apt could not fetch the package indexes:\n{exc.completed.stderr.strip()}",
                where="fleet_mirrors",
                remedy="check that the mirrors serve the suites "
                + ", ".join(suite.name for suite in self.suites)
                + "; a snapshot mirror's URL works too",
            ) from exc
        found = [self._release(path) for path in sorted((self.directory / "lists").glob("*_InRelease"))]
        if len(found) != len(self.suites):
            raise FleetError(f"expected {len(self.suites)} Release files, found {len(found)}", where="fleet_mirrors")
        return tuple(found)

    def resolve(self, packages: Sequence[str]) -> dict[str, Package]:
        """What installing ``packages`` on an empty system takes, essential packages included; by name.

        :raises FleetError: a package does not exist or conflicts; apt's own words are in the message.
        """
        try:
            listing = run(self._apt("apt-get", "install", "--print-uris", "-qq", "?essential", *packages))
        except CommandError as exc:
            raise FleetError(
                f"apt cannot resolve the package set:\n{exc.completed.stderr.strip()}",
                where="packages",
                remedy="correct the name in files/package_sets or in product_packages",
            ) from exc
        found = [self._package(match) for match in _URI_LINE.finditer(listing.stdout)]
        sources = self._sources([package.label for package in found])
        return {p.name: Package(**{**p.__dict__, "source": sources[p.name]}) for p in found}

    def _apt(self, program: str, *arguments: str) -> list[str]:
        here = self.directory
        return [
            program,
            "-o", f"Dir::Etc={here}/etc/apt",
            "-o", f"Dir::Etc::sourcelist={here}/sources.sources",
            "-o", "Dir::Etc::sourceparts=-",
            "-o", f"Dir::State::status={here}/status",
            "-o", f"Dir::State::lists={here}/lists",
            "-o", f"Dir::Cache={here}/cache",
            "-o", f"APT::Architecture={self.architecture}",
            "-o", f"APT::Architectures::={self.architecture}",
            "-o", "APT::Install-Recommends=false",
            "-o", "APT::Sandbox::User=",
            "-o", "Acquire::Languages=none",
            "-o", "Acquire::ForceHash=SHA256",  # apt before 2.9 prints MD5 otherwise
            "-o", "Debug::NoLocking=true",
            *arguments,
        ]  # fmt: skip

    def _release(self, path: Path) -> Release:
        text = path.read_text("utf-8")
        wanted = {}
        for key in ("Codename", "Date"):
            match = re.search(rf"^{key}: (.+)$", text, re.MULTILINE)
            if match is None:
                raise FleetError(f"a Release file without {key}", where=str(path))
            wanted[key] = match.group(1).strip()
        suite = next((suite for suite in self.suites if suite.name == wanted["Codename"]), None)
        if suite is None:
            raise FleetError(f"unexpected codename {wanted['Codename']}", where=str(path))
        date = parsedate_to_datetime(wanted["Date"]).astimezone(UTC)
        return Release(suite.name, suite.archive, date.isoformat(), hashlib.sha256(path.read_bytes()).hexdigest())

    def _package(self, match: re.Match[str]) -> Package:
        uri = match["uri"]
        archive = next((name for name, url in self.mirrors.items() if uri.startswith(url + "/")), None)
        if archive is None:
            raise FleetError(f"apt names a file outside the mirrors: {uri}", where="fleet_mirrors")
        name, version, architecture = match["file"].removesuffix(".deb").split("_")
        return Package(
            name=name,
            version=version.replace("%3a", ":"),
            architecture=architecture,
            source="",
            archive=archive,
            path=unquote(uri.removeprefix(self.mirrors[archive] + "/")),
            size=int(match["size"]),
            sha256=match["sha256"],
            sets=(),
        )

    def _sources(self, labels: Sequence[str]) -> dict[str, str]:
        """Source package and version of each binary package (deb822 field Source, which is absent when equal)."""
        shown = run(self._apt("apt-cache", "show", *labels)).stdout
        found = {}
        for stanza in shown.split("\n\n"):
            fields: dict[str, str] = dict(_SOURCE_FIELD.findall(stanza))
            if fields:
                source, _space, version = fields.get("Source", fields["Package"]).partition(" ")
                found[fields["Package"]] = f"{source}={version.strip('()') or fields['Version']}"
        return found


def lock(
    package_sets: Mapping[str, Sequence[str]],
    *,
    codename: str,
    mirrors: Mapping[str, str],
    components: Sequence[str],
    architecture: str = "amd64",
    keyring: Path = KEYRING,
) -> Lock:
    """Resolve every package set against the archive as it is now."""
    with tempfile.TemporaryDirectory(prefix="fleet-apt-") as directory:
        os.chmod(directory, 0o755)
        resolver = Resolver(
            Path(directory), codename, mirrors, architecture=architecture, components=components, keyring=keyring
        )
        releases = resolver.update()
        merged: dict[tuple[str, str], Package] = {}
        for name in sorted(package_sets):
            for package in resolver.resolve(package_sets[name]).values():
                known = merged.get((package.name, package.architecture), package)
                merged[package.name, package.architecture] = Package(**{**known.__dict__, "sets": (*known.sets, name)})
    return Lock(architecture, tuple(sorted(releases)), tuple(sorted(merged.values())))
