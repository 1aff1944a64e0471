# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import archive, lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage
from ansible_collections.vauban.fleet.plugins.plugin_utils._progress import Progress
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, StepAction

# The second names the package that brings the collections which ours depends on.
_REQUIREMENTS = [COLLECTION / name for name in ("requirements.txt", "requirements-collections.txt")]
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_README = """\
What a machine without any network needs to build these products with vauban.fleet:
  {sets}
as the archive of Debian was on {date}.

It has to be {machine} with Python {python} and these Debian packages:
  {packages}

In the directory that this file is in:

  cd collection
  make import ARCHIVE=path/to/this/archive.tar
  make build INVENTORY=path/to/your/inventory

assets/ holds Debian packages by their SHA-256, wheels/ the Python packages of collection/requirements.txt
and the one that holds the collections it depends on (requirements-collections.txt), collection/ its own files.
Lock file: {lock}. More: collection/docs/offline.md
"""


class ActionModule(StepAction):
    """Packs everything that a build takes from a network into one archive."""

    SPEC: ClassVar[dict[str, Any]] = {
        "lock_file": {"type": "path", "required": True},
        "package_sets": {"type": "list", "elements": "str", "required": True},
        "store": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
    }

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """Packages and wheels by their digests, the collection by its content."""
        self._lock_file = Path(arguments["lock_file"]).resolve()
        self._locked = lock.read(self._lock_file)
        sets = sorted(arguments["package_sets"])
        self._packages = sorted({package for name in sets for package in self._locked.of_set(name)})
        self._files = archive.collection_files(COLLECTION)
        self._wheels = _digest.of_data([_digest.of_file(path) for path in _REQUIREMENTS], _PYTHON, platform.machine())
        inputs = {
            "packages": _digest.of_data(sets, [package.sha256 for package in self._packages]),
            "lock file": _digest.of_file(self._lock_file),
            "wheels": self._wheels,
            "collection": _digest.of_data(
                [(str(path.relative_to(COLLECTION)), _digest.of_tree(path)) for path in self._files]
            ),
        }
        return Stage(Path(arguments["dest"]), inputs)

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Fetch the wheels, check every package, write the archive beside its name and take it."""
        store = Store(Path(arguments["store"]))
        _check(store, self._packages)
        wheels = stage.output.parent / "wheels" / self._wheels[:16]
        if not wheels.is_dir():
            archive.download_wheels(_REQUIREMENTS, wheels)
        entries = [
            archive.Entry("README", self._readme(arguments).encode()),
            archive.Entry("python-version", f"{_PYTHON}\n".encode()),
        ]
        entries += [archive.Entry(f"wheels/{path.name}", path) for path in wheels.iterdir()]
        entries += [archive.Entry(f"collection/{path.relative_to(COLLECTION)}", path) for path in self._files]
        objects = {package.sha256: store.path(package.sha256) for package in self._packages}
        entries += [archive.Entry(f"assets/{path.relative_to(store.root)}", path) for path in objects.values()]
        if not self._lock_in_collection():
            entries.append(archive.Entry("lock.json", self._lock_file))
        count = archive.write_archive(stage.output, entries, epoch=self._locked.epoch, progress=Progress("packed"))
        size = stage.output.stat().st_size
        return {"files": count, "packages": len(objects), "size": size, "sha256": _digest.of_file(stage.output)}

    def _lock_in_collection(self) -> bool:
        return self._lock_file in {path.resolve() for path in self._files}

    def _readme(self, arguments: Mapping[str, Any]) -> str:
        inside = self._lock_in_collection()
        listed = (COLLECTION / "meta/ee-bindep.txt").read_text("utf-8")
        return _README.format(
            sets=", ".join(sorted(set(arguments["package_sets"]) - {"sdk", "kernel"})),
            date=datetime.fromtimestamp(self._locked.epoch, UTC).date(),
            machine=platform.machine(),
            python=_PYTHON,
            packages=" ".join(re.findall(r"^(\S+) \[[^]]*\] +# ", listed, re.MULTILINE)),
            lock=f"collection/{self._lock_file.relative_to(COLLECTION.resolve())}" if inside else "lock.json",
        )


def _check(store: Store, packages: list[lock.Package]) -> None:
    for problem, found in (("missing", store.missing(packages)), ("damaged", store.damaged(packages))):
        if found:
            labels = ", ".join(package.label for package in found[:5])
            raise FleetError(
                f"{len(found)} of {len(packages)} packages are {problem}: {labels}",
                where=str(store.root),
                remedy="run playbook vauban.fleet.export_assets, which fetches them",
            )
