# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_text
from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Package
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox, run_with_ids

# Documentation reaches neither the SDK nor a product (fact: no man, info, doc or translation is read there).
EXCLUDED_PATHS = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
)
_STORE_IN_SANDBOX = "/run/assets"


@dataclass(frozen=True)
class TreeRequest:
    """What a root tree is made of: locked packages, and some that are only unpacked.

    ``unpacked``, in this order, is for kernels: their maintainer scripts serve boot loaders and initramfs generators
    of a running machine, and their dependencies would bring those in.
    """

    packages: tuple[Package, ...]
    unpacked: tuple[Package, ...]
    epoch: int  # SOURCE_DATE_EPOCH, seconds

    @property
    def digest(self) -> str:
        """Changes when anything that reaches the tree changes."""
        return _digest.of_data(
            "tree-2",
            self.epoch,
            EXCLUDED_PATHS,
            sorted(package.sha256 for package in self.packages),
            sorted(package.sha256 for package in self.unpacked),
        )


def write_index(store: Store, packages: Sequence[Package]) -> str:
    """Write a flat repository index over stored packages; return its path relative to the store.

    The control fields come from the packages themselves (deb-control(5)), so only verified bytes are used.
    """
    name = f"indexes/{_digest.of_data(sorted(package.sha256 for package in packages))}"
    index = store.root / name / "Packages"
    if not index.exists():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            stanzas = list(pool.map(lambda package: _stanza(store, package), sorted(packages)))
        write_text(index, "\n".join(stanzas))
    return name


def _stanza(store: Store, package: Package) -> str:
    path = store.path(package.sha256)
    control = run(["dpkg-deb", "--field", str(path)]).stdout.rstrip("\n")
    filename = path.relative_to(store.root)
    return f"{control}\nFilename: {filename}\nSize: {package.size}\nSHA256: {package.sha256}\n"


def make_tree(request: TreeRequest, store: Store, dest: Path, *, sandbox: Sandbox | None, log: Path) -> None:
    """Install the packages into the directory ``dest`` with mmdebstrap(1), from the store alone.

    :param sandbox: the SDK whose mmdebstrap is used; None uses the host's, which is how the SDK itself is made.
    """
    index = write_index(store, request.packages)
    root, assets = (str(dest), str(store.root)) if sandbox is None else ("/run/tree/root", _STORE_IN_SANDBOX)
    words = [
        "mmdebstrap",
        "--mode=root",
        "--variant=essential",
        "--format=directory",
        "--quiet",
        f"--include={','.join(package.name for package in request.packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        # apt gives directories to its user only if that user may look into the store.
        '--aptopt=APT::Sandbox::User "root"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDED_PATHS),
    ]
    for package in request.unpacked:
        deb = Path(assets) / store.path(package.sha256).relative_to(store.root)
        words += [
            f'--customize-hook=cp {shlex.quote(str(deb))} "$1/unpacked.deb"',
            '--customize-hook=chroot "$1" dpkg --force-depends --unpack /unpacked.deb',
            '--customize-hook=rm "$1/unpacked.deb"',
        ]
    if request.unpacked:
        each = 'for kernel in "$1"/usr/lib/modules/*; do chroot "$1" depmod "${kernel##*/}"; done'
        words.append(f"--customize-hook={each}")
    words.append('--customize-hook=rm "$1/etc/apt/sources.list"')  # it names the store
    words += ["", root, f"deb [trusted=yes] copy:{quote(assets)} {index}/"]
    environment = {"SOURCE_DATE_EPOCH": str(request.epoch)}
    if sandbox is None:
        run_with_ids(words, env=environment, log=log)
    else:
        binds = [Bind(store.root, _STORE_IN_SANDBOX), Bind(dest.parent, "/run/tree", writable=True)]
        sandbox.run(words, binds=binds, privileged=True, env=environment, log=log)
