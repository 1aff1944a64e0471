# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""strongSwan of a Debian newer than the SDK: what a peer can do that ours cannot do yet.

Its packages come from the mirrors of this machine's own apt sources, and stay in the cache directory for a month. The
release is forky, or the codename that FLEET_NEWER_DEBIAN gives.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from builds import ASSETS, ROOT

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import apt, lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Package

CODENAME = os.environ.get("FLEET_NEWER_DEBIAN", "forky")
# What a product has, and ESP in user space.
PACKAGES = (
    *yaml.safe_load((ROOT / "files/package_sets/ipsec.yml").read_text())["packages"],
    "libcharon-extra-plugins",
)
_LOCK = ASSETS.with_name("newer") / f"{CODENAME}-{_digest.of_data(PACKAGES)[:16]}.lock.json"
_MONTH = 30 * 24 * 3600  # seconds
_NOT_THERE = re.compile("resolv|connect|unreachable|timed out|does not have a Release file", re.IGNORECASE)


def unpack(directory: Path) -> Path:
    """Make a root tree in which these programs run; no script of a package has run there.

    Skips where the archive cannot be reached, and says so.

    :raises FleetError: a signature or a digest is not good, or the release has no such packages.
    """
    store, packages = Store(ASSETS), _packages(Store(ASSETS))
    assert not store.damaged(packages), f"remove {store.root}: a file there has changed"
    directory.mkdir()
    # The links /bin, /lib and /sbin are there before the others, some of which name what lies behind them.
    for package in sorted(packages, key=lambda package: package.name != "base-files"):
        subprocess.run(["dpkg-deb", "--extract", store.path(package.sha256), directory], check=True)
    return directory


def _packages(store: Store) -> tuple[Package, ...]:
    known = lock.read(_LOCK).packages if _LOCK.exists() else ()
    complete = bool(known) and not store.missing(known)
    if complete and time.time() - _LOCK.stat().st_mtime < _MONTH:
        return known
    try:
        mirrors = apt.host_mirrors()
        found = apt.lock({"newer": PACKAGES}, codename=CODENAME, mirrors=mirrors, components=("main",))
        store.fetch(found.packages, mirrors)
    except FleetError as exc:
        if not _NOT_THERE.search(exc.message):
            raise
        if complete:
            return known
        pytest.skip(f"no packages of Debian {CODENAME} (FLEET_NEWER_DEBIAN): {exc.message}")
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    found.write(_LOCK)
    _LOCK.touch()
    return found.packages
