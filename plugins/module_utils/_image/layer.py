# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import remove_tree, run_with_ids

LAYER = "/run/layer"
RECORD = "record.jsonl"  # one line for each task that ran over the layer, written by callback origin
_SEEN = "seen.json"  # what was in the layer before the first of them


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


def inodes(upper: Path) -> dict[str, str]:
    """Path of each file and when its inode changed. Some directories are open to the users of the tree only.

    Deletions are no files; overlayfs makes all of a mount links to one inode, which changes with the next mount, too.
    """
    if not upper.is_dir():
        return {}
    listed = run_with_ids(["find", upper, "!", "-type", "d", "!", "-type", "c", "-printf", "/%P\\0%C@\\0"]).stdout_bytes
    words = listed.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return dict(zip(words[::2], words[1::2], strict=True))


def seen_before(layer: Path) -> dict[str, str]:
    """What :func:`inodes` said when the layer was opened."""
    try:
        seen: dict[str, str] = json.loads((layer / _SEEN).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return seen


def empty(layer: Path) -> None:
    """Leave nothing in the layer that a role wrote."""
    for name in ("upper", "work"):
        remove_tree(layer / name)
    for name in (RECORD, _SEEN):
        (layer / name).unlink(missing_ok=True)


def keep(layer: Path, snapshot: Path) -> None:
    """Copy what roles wrote so far, and their record."""
    remove_tree(snapshot)
    snapshot.mkdir(parents=True)
    (layer / "upper").mkdir(exist_ok=True)
    _copy(layer / "upper", snapshot / "upper")
    (snapshot / RECORD).write_bytes((layer / RECORD).read_bytes())


def restore(layer: Path, snapshot: Path) -> None:
    """Make the layer what it was when the snapshot was taken."""
    empty(layer)
    _copy(snapshot / "upper", layer / "upper")
    (layer / RECORD).write_bytes((snapshot / RECORD).read_bytes())
    write_json(layer / _SEEN, inodes(layer / "upper"))


def _copy(source: Path, dest: Path) -> None:
    """Owners, times, deletions (character devices 0/0) and links between files too.

    So are extended attributes, and that they cannot be is an error: overlayfs marks replaced directories with them.
    """
    preserved = "--preserve=mode,ownership,timestamps,links,xattr"
    run_with_ids(["cp", "-dR", preserved, "--reflink=auto", source, dest])


def _attributes(path: Path) -> list[str]:
    """Bookkeeping of overlayfs differs between users (trusted.*, user.*); what it means shows in the entries."""
    return sorted(key for key in os.listxattr(path, follow_symlinks=False) if ".overlay." not in key or "opaque" in key)
