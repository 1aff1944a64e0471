# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian archive of one suite, unsigned, with exactly the packages that a bench needs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Package


def write_archive(base: Path, codename: str, packages: Iterable[Package], stores: Sequence[Store]) -> int:
    """Lay out the archive in place of an earlier one; return how many bytes its packages have.

    :param stores: where the packages are; each in one of them.
    """
    shutil.rmtree(base, ignore_errors=True)
    index = base / f"dists/{codename}/main/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    (base / "pool").mkdir()
    stanzas, total = [], 0
    for package in packages:
        known = [store for store in stores if not store.missing([package])]
        # Without the epoch, as in Debian's archive: a colon means something in an address.
        name = f"pool/{package.name}_{package.version.rpartition(':')[2]}_{package.architecture}.deb"
        shutil.copyfile(known[0].path(package.sha256), base / name)
        control = subprocess.run(["dpkg-deb", "--field", base / name], check=True, capture_output=True, text=True)
        place = f"Filename: {name}\nSize: {package.size}\nSHA256: {package.sha256}\n"
        stanzas.append(f"{control.stdout.rstrip()}\n{place}")
        total += package.size
    index.write_text("\n".join(stanzas))
    digest = hashlib.sha256(index.read_bytes()).hexdigest()
    listed = f" {digest} {index.stat().st_size} main/binary-amd64/Packages"
    heading = f"Suite: {codename}\nCodename: {codename}\nArchitectures: amd64\nComponents: main\n"
    (base / f"dists/{codename}/Release").write_text(f"{heading}SHA256:\n{listed}\n")
    return total
