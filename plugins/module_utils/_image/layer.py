# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import stat
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils import _digest

LAYER = "/run/layer"


def content() -> str:
    """Digest of an overlay's upper directory as an image would see it. Runs inside the SDK.

    Names, types, modes, owners, link targets, contents and extended attributes count, deletions too (a character
    device 0/0, overlayfs); times do not.
    """
    root = Path(LAYER)
    entries = []
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(directory) / name
            status = path.lstat()
            entry = [str(path.relative_to(root)), status.st_mode, status.st_uid, status.st_gid, status.st_rdev]
            attributes = {key: os.getxattr(path, key, follow_symlinks=False).hex() for key in _attributes(path)}
            if stat.S_ISLNK(status.st_mode):
                entry.append(os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                entry.append(_digest.of_file(path))
            entries.append([*entry, attributes])
    return _digest.of_data(sorted(entries, key=lambda entry: entry[0]))


def _attributes(path: Path) -> list[str]:
    """Bookkeeping of overlayfs differs between users (trusted.*, user.*); what it means shows in the entries."""
    return sorted(key for key in os.listxattr(path, follow_symlinks=False) if ".overlay." not in key or "opaque" in key)
