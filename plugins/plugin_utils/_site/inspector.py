# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Has what was rendered judged inside the SDK, each distinct file once, and remembers what was found in order."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json
from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import digest_of
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind
from ansible_collections.vauban.fleet.plugins.module_utils._site import inspection
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.load import LoadedSite
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.problems import Problem
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.render import Tree
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.store import TREES
from ansible_collections.vauban.fleet.plugins.plugin_utils._site.views.confinement import Confinement
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, sandbox_at

# Which program judges a file, by shell patterns of its path.
_KINDS = (
    ("etc/nftables.d/*.nft", "nftables"),
    ("etc/swanctl/conf.d/connections.conf", "strongswan"),
    ("etc/vauban/admin_access/*.conf", "sshd"),
    ("etc/chrony/chrony.conf", "chrony"),
    ("etc/chrony/instances/*.conf", "chrony"),
    ("etc/vauban/logging/*.conf", "rsyslog"),
    ("etc/keepalived/keepalived.conf", "keepalived"),
    ("etc/systemd/network/*", "networkd"),
)
_UNITS = "etc/systemd/system/"
_DROPIN = "50-confinement.conf"
_MEMORY = ".checked.json"


class Inspector:
    """Judges trees.

    :param directory: that of the site's output.
    :param judges: what :func:`judges` says.
    """

    def __init__(self, site: LoadedSite, directory: Path, sdk: Path, roles: Path, judges: str) -> None:
        self._site = site
        self._confinement = Confinement(site.plan)
        self._directory = directory
        self._sdk = sdk
        self._roles = roles
        self._users = sorted(frozenset[str]().union(*site.plan.users.values()))
        # A verdict holds as long as what judges stays the same.
        self._judges = _digest.of_data(judges, self._users)
        self._jobs: dict[str, dict[str, str]] = {}
        self._hosts: dict[str, list[str]] = {}
        self._kind_of: dict[str, str | None] = {}
        self._confined: dict[str, int] = {}  # by path of a drop-in

    def add(self, host: str, name: str, tree: Tree) -> None:
        """Have a tree judged, which lies in the store under ``name``.

        Whatever a host has as the first of many is judged for all; the others only remember its digest.
        """
        units = []
        for path, content in tree.files.items():
            if path.startswith(_UNITS):
                units.append(f"{path} {content.digest}")
                continue
            if path not in self._kind_of:
                self._kind_of[path] = next((kind for pattern, kind in _KINDS if fnmatch.fnmatch(path, pattern)), None)
            kind = self._kind_of[path]
            if kind is not None:
                self._add(kind, content.digest, f"{name}/{path}", host)
        if units:
            self._add("units", _digest.of_data(units), name, host)
        for index in self._confinement.of(host):
            unit = self._site.plan.site.confinement[index].unit
            directory = f"{_UNITS}{unit}.d/"
            path = f"{name}/{directory}{_DROPIN}"
            self._confined[path] = index
            # Its other drop-ins count, too, and so does the limit.
            whole = [found for found in units if found.startswith(directory)]
            self._add("exposure", _digest.of_data(index, self._command(path), whole), path, host)

    def verdicts(self, log: Path) -> Iterator[tuple[str, list[str], str]]:
        """Run the programs; what they found, as path of a file, the hosts that have it, and what was said.

        :raises FleetError: a program cannot run.
        """
        known = self._known()
        jobs = {
            kind: {digest: path for digest, path in files.items() if f"{kind} {digest}" not in known}
            for kind, files in self._jobs.items()
        }
        said: Mapping[str, str] = {}
        if any(jobs.values()):
            said = inside.call(
                sandbox_at(str(self._sdk), self._directory / ".work"),
                "_site.inspection.inspect",
                {
                    "jobs": {kind: list(files.values()) for kind, files in jobs.items()},
                    "users": self._users,
                    "commands": {path: self._command(path) for path in jobs.get("exposure", {}).values()},
                },
                binds=[Bind(self._directory / TREES, inspection.SITE), Bind(self._roles, inspection.ROLES)],
                epoch=0,
                log=log,
            )
        good = []
        for kind, files in self._jobs.items():
            for digest, path in files.items():
                key = f"{kind} {digest}"
                if path in said:
                    where = f"\n{self._cause(path)}" if kind == "exposure" else ""
                    yield path.partition("/")[2] or _UNITS.rstrip("/"), self._hosts[key], said[path] + where
                else:
                    good.append(key)
        write_json(self._directory / _MEMORY, {"judges": self._judges, "good": sorted({*good, *known})})

    def draw(self, graph: str, log: Path) -> str:
        """An SVG element of a graph in the language of dot(1).

        :raises FleetError: dot cannot run.
        """
        sandbox = sandbox_at(str(self._sdk), self._directory / ".work")
        drawn = sandbox.run(["dot", "-Tsvg"], stdin=graph.encode(), log=log).stdout
        return drawn[drawn.index("<svg") :]

    def count(self) -> int:
        """How many distinct files are judged."""
        return sum(len(files) for files in self._jobs.values())

    def _command(self, path: str) -> list[str]:
        (dropin,) = self._confinement.dropins([self._confined[path]])
        return list(dropin["check"])

    def _cause(self, path: str) -> str:
        """Where the site says what a unit that is too exposed may do."""
        index = self._confined[path]
        (dropin,) = self._confinement.dropins([index])
        what = f"{dropin['name']} may be exposed to {dropin['threshold']:g} at most"
        remedy = "take back what loosens the profile, or set threshold and say why in a comment"
        (line,) = self._site.source.lines([Problem(("confinement", index, "settings"), what, remedy)])
        return line

    def _add(self, kind: str, digest: str, path: str, host: str) -> None:
        self._jobs.setdefault(kind, {}).setdefault(digest, path)
        self._hosts.setdefault(f"{kind} {digest}", []).append(host)

    def _known(self) -> set[str]:
        try:
            memory = json.loads((self._directory / _MEMORY).read_text("utf-8"))
        except (OSError, ValueError):
            return set()
        if not isinstance(memory, dict) or memory.get("judges") != self._judges:
            return set()
        return {key for key in memory.get("good", ()) if isinstance(key, str)}


def judges(sdk: Path, roles: Path) -> str:
    """Digest of the programs that judge, and of what roles put into images, which the rendered files refer to."""
    images = sorted(roles.glob("*/files/root"))
    return _digest.of_data(digest_of(sdk), _digest.of_tree(COLLECTION / "plugins/module_utils/_site", *images))


def by_file(verdicts: Iterable[tuple[str, list[str], str]]) -> list[str]:
    """Verdicts as lines for people."""
    lines = []
    for path, hosts, said in sorted(verdicts):
        more = f" and {len(hosts) - 1} more" if len(hosts) > 1 else ""
        first, *rest = said.replace(f"{inspection.SITE}/", "").splitlines()
        lines += [f"{hosts[0]}{more}: /{path}: {first}", *(f"    {line}" for line in rest)]
    return lines
