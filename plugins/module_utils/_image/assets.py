# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.lock import Package

PARALLEL_DOWNLOADS = 6
_BATCH = 12  # files per apt-helper process: connections are reused, progress stays visible
_APT_HELPER = "/usr/lib/apt/apt-helper"
_UNREACHABLE = re.compile(r"resolving|resolve|connect|unreachable|timed out", re.IGNORECASE)
OFFLINE = "a machine without a network imports an archive of playbook export_assets (docs/offline.md)"


class Store:
    """Content-addressed files: ``objects/<first two digits>/<sha256>``. What is there was verified when it came."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where the object lies or would lie."""
        return self.root / "objects" / sha256[:2] / sha256

    def missing(self, packages: Iterable[Package]) -> list[Package]:
        """The packages whose file is absent or has another size."""
        return [package for package in packages if not self._present(package)]

    def damaged(self, packages: Iterable[Package]) -> list[Package]:
        """The packages whose file is present but does not have the locked SHA-256."""
        present = [package for package in packages if self._present(package)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = pool.map(lambda package: _digest.of_file(self.path(package.sha256)), present)
            return [package for package, digest in zip(present, digests, strict=True) if digest != package.sha256]

    def add(self, source: Path, sha256: str) -> None:
        """Move a file into the store.

        :raises FleetError: its content is not what the lock file names.
        """
        found = _digest.of_file(source)
        if found != sha256:
            raise FleetError(f"SHA-256 is {found}, the lock file says {sha256}", where=source.name)
        dest = self.path(sha256)
        dest.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(0o444)
        source.rename(dest)

    def fetch(
        self,
        packages: Sequence[Package],
        mirrors: Mapping[str, str],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Package]:
        """Download what is missing, in parallel, with apt's own downloader (it honours apt's proxies and credentials).

        :param progress: called with (bytes there, bytes in all).
        :returns: the packages that were downloaded.
        :raises FleetError: lists every file that could not be had, with the remedy. What arrived stays.
        """
        wanted = self.missing(packages)
        if not wanted:
            return []
        total = sum(package.size for package in wanted)
        done = 0
        failed: list[str] = []
        self.root.mkdir(parents=True, exist_ok=True)
        incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=self.root))
        try:
            largest_first = sorted(wanted, key=lambda package: package.size, reverse=True)
            stride = max(1, len(largest_first) // _BATCH + 1)
            batches = [largest_first[start::stride] for start in range(stride)]
            with ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool:
                for errors, size in pool.map(lambda batch: self._download(batch, mirrors, incoming), batches):
                    failed += errors
                    done += size
                    if progress is not None:
                        progress(done, total)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        if failed:
            raise FleetError(
                f"{len(failed)} of {len(wanted)} locked packages could not be fetched:\n  " + "\n  ".join(failed[:10]),
                where="lock file",
                remedy=f"check the network and fleet_mirrors; {OFFLINE}"
                if all(_UNREACHABLE.search(error) for error in failed)
                else "if the archive has moved on, run the playbook 'lock' again, "
                "or set fleet_mirrors to a snapshot mirror's URL",
            )
        return wanted

    def _download(self, batch: Sequence[Package], mirrors: Mapping[str, str], incoming: Path) -> tuple[list[str], int]:
        words = [_APT_HELPER, "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3", "download-file"]
        for package in batch:
            url = f"{_mirror(mirrors, package.archive)}/{package.path}"
            words += [url, str(incoming / package.sha256), f"SHA256:{package.sha256}"]
        completed = run(words, check=False)
        errors, size = [], 0
        for package in batch:
            arrived = incoming / package.sha256
            try:
                if not arrived.is_file():
                    raise FleetError("did not arrive", where=package.label)
                self.add(arrived, package.sha256)
                size += package.size
            except FleetError as exc:
                errors.append(f"{package.label}: {exc.message}{_reason(completed.stderr, package)}")
        return errors, size

    def _present(self, package: Package) -> bool:
        try:
            return self.path(package.sha256).stat().st_size == package.size
        except FileNotFoundError:
            return False


def _mirror(mirrors: Mapping[str, str], archive: str) -> str:
    if archive not in mirrors:
        raise FleetError(f"no mirror for archive {archive!r}", where="fleet_mirrors", remedy="add its URL")
    url = mirrors[archive].rstrip("/")
    # apt's method "file" would leave links into the mirror, "copy" leaves files (apt-transports(1)).
    return f"copy:{url.removeprefix('file:')}" if url.startswith("file:") else url


def _reason(stderr: str, package: Package) -> str:
    name = Path(package.path).name
    lines = [line.strip() for line in unquote(stderr).splitlines() if name in line]
    return f" ({lines[-1]})" if lines else ""
