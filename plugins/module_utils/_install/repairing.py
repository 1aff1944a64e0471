# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Repairs the disk of a host: the header of its state volume, the file system in it, the core, and what starts it.

No key and no token is made or taken away. Whenever power is cut, it can be done again from the beginning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import volumes
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import Release

DEVICES = Path("/dev")
MAPPER = "state"
_ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
# LUKS2 keeps its header twice; the second copy begins where the first ends (LUKS2 On-Disk Format, 2.1).
_FIRST, _SECOND = b"LUKS\xba\xbe", b"SKUL\xba\xbe"
_OFFSETS = tuple(0x4000 << step for step in range(9))
# e2fsck(8): the first two bits say that something was corrected, the next that something was left.
_CORRECTED, _LEFT = 3, 4
_COUNT = re.compile(r"\d+/\d+ files \([^)]*\), \d+/\d+ blocks")


def find(rule: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[Disk, Path, Path]:
    """The disk that the site's rule matches, if this release was installed on it; its core and its state.

    :raises FleetError: no disk is it, or nobody can say which, or it has another release.
    """
    remedy = "let the server offer the release that is on it; without a volume group, install it again"
    return volumes.of_release(rule, manifest, remedy=remedy)


def header(device: Path) -> dict[str, Any]:
    """Bring both copies of a volume's LUKS2 header to what the good one says.

    :returns: evidence: whether each copy was there (``first``, ``second``), and tokens and key slots.
    :raises FleetError: no copy is good.
    """
    before = _copies(device)
    done = run(["cryptsetup", "repair", "--batch-mode", device], check=False)
    after = _copies(device)
    if done.returncode != 0 or not all(after.values()):
        said = done.stderr.strip() or "no copy of it is good"
        remedy = "the data cannot be opened any more: install the host again"
        raise FleetError(f"the header of the volume cannot be repaired: {said}", where=str(device), remedy=remedy)
    read = json.loads(run(["cryptsetup", "luksDump", "--dump-json-metadata", device]).stdout)
    tokens = sorted(token["type"] for token in read["tokens"].values())
    return {**before, "tokens": tokens, "key_slots": sorted(read["keyslots"])}


def _copies(device: Path) -> dict[str, bool]:
    with device.open("rb") as stream:
        first = stream.read(len(_FIRST)) == _FIRST
        second = any(_read(stream, offset) == _SECOND for offset in _OFFSETS)
    return {"first": first, "second": second}


def _read(stream: Any, offset: int) -> bytes:
    stream.seek(offset)
    return bytes(stream.read(len(_SECOND)))


@contextmanager
def unlocked(device: Path, recovery: bytes) -> Iterator[Path]:
    """The volume, open and not mounted.

    :param recovery: its recovery key.
    :raises FleetError: the recovery key is not this volume's.
    """
    words = ["cryptsetup", "open", "--disable-external-tokens", "--key-file", "-", str(device), MAPPER]
    if run(words, stdin=recovery, check=False).returncode != 0:
        remedy = "name the one of this disk: provision_recover_escrow"
        raise FleetError("the recovery key does not open the volume", where=str(device), remedy=remedy)
    try:
        yield DEVICES / "mapper" / MAPPER
    finally:
        run(["cryptsetup", "close", MAPPER])


def file_system(device: Path, *, thorough: bool) -> dict[str, Any]:
    """Repair an ext4 file system (e2fsck(8)).

    :param thorough: also where that may lose files: what is damaged goes to ``lost+found``, or goes.
    :returns: evidence: whether something was corrected, and e2fsck's count of files and blocks. What else it says may
        name files, and stays here.
    :raises FleetError: faults are left.
    """
    done = run(["e2fsck", "-f", "-y" if thorough else "-p", device], check=False)
    if done.returncode & ~_CORRECTED:
        if done.returncode & ~_CORRECTED == _LEFT and not thorough:
            remedy = "copy what you can (recover gives you the key), then -e thorough=true, which may lose files"
            raise FleetError("the file system has faults whose repair may lose files", where=str(device), remedy=remedy)
        raise FleetError(f"e2fsck ended with status {done.returncode}", where=str(device))
    counted = _COUNT.search(done.stdout)
    return {"corrected": bool(done.returncode & _CORRECTED), "count": counted[0] if counted else ""}


def core(release: Release, device: Path) -> dict[str, Any]:
    """Write the core anew if it is not what the manifest says.

    :returns: evidence: whether it was ``written``.
    """
    try:
        return {**volumes.check_core(release.manifest, device), "written": False}
    except FleetError:
        return {**volumes.write_core(release, device), "written": True}


def boot_partition(disk: Disk) -> tuple[Path, bool]:
    """The disk's EFI system partition, with a file system that fsck.vfat(8) has nothing to say of; whether that is new.

    What it cannot mend is no loss: all that has to be there is in the release.

    :raises FleetError: there is none.
    """
    table = json.loads(run(["sfdisk", "--json", disk.path]).stdout)["partitiontable"]
    found = [Path(each["node"]) for each in table["partitions"] if each["type"].lower() == _ESP_TYPE]
    if not found:
        raise FleetError("there is no EFI system partition", where=str(disk), remedy="install the host again")
    run(["fsck.vfat", "-a", found[0]], check=False)  # 1 if it has mended something, and if it cannot
    new = run(["fsck.vfat", "-n", found[0]], check=False).returncode != 0
    if new:
        run(["mkfs.vfat", "-F", "32", "-n", "ESP", found[0]])
    return found[0], new


def summary(found: Mapping[str, Any]) -> str:
    """What was done, in a line.

    :param found: evidence of each part.
    """
    done = [f"{name} copy of the header" for name in ("first", "second") if not found["header"][name]]
    done += ["file system"] if found["file_system"]["corrected"] else []
    done += ["core"] if found["core"]["written"] else []
    done += ["EFI system partition"] if found["boot"]["new_file_system"] else []
    return f"repaired: {', '.join(done)}; boot files are placed anew" if done else "whole; boot files are placed anew"
