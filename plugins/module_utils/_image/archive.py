# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_directory, replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError, run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

# The one directory at the top of an archive; scripts/import-assets knows it too.
TOP = "vauban.fleet-offline"
# What of the caller's environment tells pip where the index is and how to reach it.
_PIP_SETTINGS = ("HOME", "NETRC", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE", "XDG_CONFIG_HOME")


@dataclass(frozen=True)
class Entry:
    """A file of an archive, by its path below :data:`TOP`."""

    name: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.lstat().st_size


def write_archive(
    dest: Path, entries: Iterable[Entry], *, epoch: int, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write a tar archive (POSIX pax), the same bytes for the same entries; return how many there are.

    :param epoch: time of each file, seconds.
    :param progress: called with (bytes written, bytes in all).
    """
    ordered = sorted(entries, key=lambda entry: entry.name)
    total, done = sum(entry.size for entry in ordered), 0
    with replacing_file(dest) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry in ordered:
            _add(tar, entry, epoch)
            done += entry.size
            if progress is not None:
                progress(done, total)
    return len(ordered)


def collection_files(root: Path) -> list[Path]:
    """The files of this collection: what git tracks in a checkout, what the list of an installed one names.

    :raises FleetError: it is neither.
    """
    if (root / ".git").exists():
        # Whose files they are does not matter: they are only read.
        listed = run(["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=root.resolve()).stdout.split("\0")
        names = [name for name in listed if name]
    elif (root / "FILES.json").is_file():
        files = json.loads((root / "FILES.json").read_text("utf-8"))["files"]
        names = ["FILES.json", "MANIFEST.json", *(item["name"] for item in files if item["ftype"] == "file")]
    else:
        raise FleetError("neither a git checkout nor an installed collection", where=str(root))
    return [root / name for name in sorted(names) if os.path.lexists(root / name)]


def download_wheels(requirements: Iterable[Path], dest: Path) -> None:
    """Fetch the Python packages of requirements files for this Python and machine, each checked against its hash.

    :raises FleetError: pip could not fetch them; its own words are in the message.
    """
    wanted = {name: value for name, value in os.environ.items() if name in _PIP_SETTINGS or _is_pip_setting(name)}
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    words += ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
    files = [str(path) for path in requirements]
    words += [word for path in files for word in ("--requirement", path)]
    with replacing_directory(dest) as temporary:
        try:
            run([*words, "--dest", temporary], env=wanted)
        except CommandError as exc:
            raise FleetError(
                f"pip could not fetch the Python packages:\n{exc.completed.stderr.strip()}",
                where=", ".join(files),
                remedy="check that the index of 'pip config list' can be reached and has them",
            ) from exc


def _is_pip_setting(name: str) -> bool:
    return name.startswith("PIP_") or name.lower().endswith("_proxy")


def _add(tar: tarfile.TarFile, entry: Entry, epoch: int) -> None:
    info = tarfile.TarInfo(f"{TOP}/{entry.name}")
    info.mtime, info.mode = epoch, 0o644
    if isinstance(entry.source, bytes):
        info.size = len(entry.source)
        tar.addfile(info, io.BytesIO(entry.source))
    elif entry.source.is_symlink():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(entry.source), 0o777
        tar.addfile(info)
    else:
        status = entry.source.stat()
        info.size = status.st_size
        # Like git: of a file's mode only this counts.
        info.mode = 0o755 if status.st_mode & 0o100 else 0o644
        with entry.source.open("rb") as stream:
            tar.addfile(info, stream)
