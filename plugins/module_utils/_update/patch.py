# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Patches that make a release from one before it, in place of its bundle (program ``update-patch``).

They hold no part of the core's hash tree and parity, nor a compressed byte of the initrd: a machine computes these, and
what comes out must have the hashes of the signed manifest. So a patch is worth no trust, and gets none.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_text
from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import MANIFEST
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

SUFFIX = ".patch"
WINDOW = 256 * 1024 * 1024  # bytes of a source that a patch refers to: memory of both sides. As in update-patch.
INITRD_LEVEL = 6  # of zstd(1), as module initrd packs it
WORTH = 0.7  # of the bundle: a longer patch is none
_VERSION = 1  # of how they are made: another one makes them anew
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Initrd:
    """Where the initrd lies in a UKI.

    :param place: its first byte.
    :param packed: bytes.
    """

    place: int
    packed: int


@dataclass(frozen=True)
class Patch:
    """One file, for machines that run one certain release. Sizes are bytes.

    :param version: of the release that a machine runs.
    :param root_hash: of the core of that release, so that a second build of one version is told from the first.
    :param core: of the first part of the file; ``salt`` and ``uuid`` are those of the hash tree.
    :param initrd: of the second part; the initrd has ``unpacked`` bytes, and compressed ``packed`` from ``place`` on.
    :param rest: of the third part.
    """

    version: str
    root_hash: str
    size: int
    sha256: str
    core: int
    salt: str
    uuid: str
    initrd: int
    unpacked: int
    packed: int
    place: int
    rest: int

    def as_dict(self) -> dict[str, Any]:
        """What is signed."""
        return {
            "from": {"version": self.version, "root_hash": self.root_hash},
            "size": self.size,
            "sha256": self.sha256,
            "core": {"size": self.core, "salt": self.salt, "uuid": self.uuid},
            "initrd": {
                "size": self.initrd,
                "unpacked": self.unpacked,
                "packed": self.packed,
                "place": self.place,
                "level": INITRD_LEVEL,
            },
            "uki": {"size": self.rest},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Patch:
        """The reverse.

        :raises KeyError, TypeError, ValueError: not what :meth:`as_dict` makes.
        """
        made = cls(
            version=str(data["from"]["version"]),
            root_hash=str(data["from"]["root_hash"]),
            size=int(data["size"]),
            sha256=str(data["sha256"]),
            core=int(data["core"]["size"]),
            salt=str(data["core"]["salt"]),
            uuid=str(data["core"]["uuid"]),
            initrd=int(data["initrd"]["size"]),
            unpacked=int(data["initrd"]["unpacked"]),
            packed=int(data["initrd"]["packed"]),
            place=int(data["initrd"]["place"]),
            rest=int(data["uki"]["size"]),
        )
        if not _HEX.fullmatch(made.sha256) or data["initrd"]["level"] != INITRD_LEVEL:
            raise ValueError(f"no such patch: {made}")
        return made

    @property
    def name(self) -> str:
        """Its file: another content has another name, so that who goes on with a download gets the same."""
        return f"{self.sha256}{SUFFIX}"


def find_initrd(image: bytes) -> Initrd:
    """The initrd of a UKI (PE Format, "Section Table"; UAPI.5).

    :raises FleetError: no PE file, or one without an initrd.
    """
    try:
        (header,) = struct.unpack_from("<I", image, 0x3C)
        signature, _machine, count, optional = struct.unpack_from("<4sHH12xH", image, header)
        table = header + 24 + optional
        for number in range(count if signature == b"PE\0\0" else 0):
            name, size, _address, _aligned, place = struct.unpack_from("<8sIIII", image, table + 40 * number)
            if name.rstrip(b"\0") == b".initrd" and place + size <= len(image):
                return Initrd(place, size)
    except struct.error as exc:
        raise FleetError(f"not a UKI: {exc}") from exc
    raise FleetError("not a UKI with an initrd")


def hash_tree(core: Path, offset: int) -> tuple[str, str]:
    """Salt and UUID of a core's hash tree (cryptsetup's wiki, "DMVerity", superblock).

    :param offset: of the superblock.
    :raises FleetError: there is none.
    """
    with core.open("rb") as stream:
        stream.seek(offset)
        block = stream.read(512)
    if len(block) != 512 or not block.startswith(b"verity\0\0"):
        raise FleetError("no hash tree where the manifest says it is", where=str(core))
    (size,) = struct.unpack_from("<H", block, 80)
    return block[88 : 88 + size].hex(), str(uuid.UUID(bytes=block[16:32]))


def known(base: Path, release: Path, dest: Path) -> tuple[bool, Patch | None]:
    """Whether it is known what leads from one release to another, and the patch; None if it is not worth the while.

    :param base: directory of the release that machines run.
    :param release: directory of the release that they are to run.
    :param dest: directory of patches.
    """
    place = _description(base, release, dest)
    if not place.is_file():
        return False, None
    data = json.loads(place.read_text())
    made = Patch.from_dict(data) if data is not None else None
    return (made is None or (dest / made.name).is_file()), made


def make(sandbox: Sandbox, base: Path, release: Path, dest: Path, *, program: Path, work: Path) -> Patch | None:
    """Make what leads from one release to another, and let the program of machines prove that it does.

    :param base: directory of a release that has been checked, as is ``release``.
    :param dest: directory of patches; each lies there under :attr:`Patch.name`, beside a description.
    :param program: ``update-patch`` as machines have it.
    :param work: directory with room for two cores.
    :returns: None if it would spare too little.
    :raises FleetError: what the program makes of it is not the release.
    """
    old, new = (json.loads((directory / MANIFEST).read_text("utf-8")) for directory in (base, release))
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="patch-", dir=work) as directory:
        file, made = _make(sandbox, (base, old), (release, new), Path(directory))
        worth = made.size <= WORTH * new["bundle"]["size"]
        if worth:
            _try(sandbox, (base, old), (release, new), made, file, program, Path(directory))
            shutil.copyfile(file, dest / f"{made.name}.new")
            (dest / f"{made.name}.new").rename(dest / made.name)
    write_text(_description(base, release, dest), json.dumps(made.as_dict() if worth else None) + "\n")
    return made if worth else None


def _description(base: Path, release: Path, dest: Path) -> Path:
    key = _digest.of_data(_VERSION, *(_digest.of_file(directory / MANIFEST) for directory in (base, release)))
    return dest / f"{key[:32]}.json"


_Release = tuple[Path, Mapping[str, Any]]


def _make(sandbox: Sandbox, base: _Release, release: _Release, work: Path) -> tuple[Path, Patch]:
    """Have xdelta3 find the differences."""
    (old, before), (new, after) = base, release
    data = after["core"]["verity"]["hash_offset"]
    image = (new / after["uki"]["file"]).read_bytes()
    initrd = find_initrd(image)
    end = initrd.place + initrd.packed
    (work / "initrd").write_bytes(image[initrd.place : end])
    (work / "rest").write_bytes(image[: initrd.place] + image[end:])
    # -D: no program of another format is started, whatever the first bytes look like; -A=: no names of files.
    encode = f"xdelta3 -D -R -e -9 -S lzma -A= -c -B {WINDOW}"
    script = f"""
        cd /run/work
        zstd -q -d -c initrd > initrd.cpio
        head -c {data} /run/new/core > data
        {encode} -s /run/old/core data > 1
        {encode} -s data initrd.cpio > 2
        {encode} -s /run/old/uki rest > 3
        cat 1 2 3 > patch
    """
    binds = [Bind(work, "/run/work", writable=True), Bind(new / after["core"]["file"], "/run/new/core")]
    binds += [Bind(old / before[part]["file"], f"/run/old/{part}") for part in ("core", "uki")]
    sandbox.run(["sh", "-euc", script], binds=binds)
    salt, identifier = hash_tree(new / after["core"]["file"], data)
    file, sizes = work / "patch", [(work / name).stat().st_size for name in ("1", "2", "3")]
    made = Patch(
        version=before["version"],
        root_hash=before["core"]["verity"]["root_hash"],
        size=file.stat().st_size,
        sha256=_digest.of_file(file),
        core=sizes[0],
        salt=salt,
        uuid=identifier,
        initrd=sizes[1],
        unpacked=(work / "initrd.cpio").stat().st_size,
        packed=initrd.packed,
        place=initrd.place,
        rest=sizes[2],
    )
    for name in ("data", "initrd", "initrd.cpio", "rest", "1", "2", "3"):
        (work / name).unlink()
    return file, made


def _try(
    sandbox: Sandbox, base: _Release, release: _Release, made: Patch, file: Path, program: Path, work: Path
) -> None:
    """Do what a machine does.

    :raises FleetError: the two do not come out.
    """
    (old, before), (new, _after) = base, release
    (work / "patch.json").write_text(json.dumps(made.as_dict()))
    shutil.copyfile(new / "manifest.json", work / "manifest.verified")
    binds = [Bind(work, "/run/work", writable=True), Bind(program, "/run/update-patch"), Bind(file, "/run/patch")]
    binds += [Bind(old / before[part]["file"], f"/run/old/{part}") for part in ("core", "uki")]
    command = ["sh", "/run/update-patch", "/run/patch", "/run/old/core", "/run/old/uki", "new.core", "new.uki"]
    try:
        sandbox.run(command, binds=binds, cwd="/run/work")
    except CommandError as exc:
        said = exc.completed.stderr.strip().rpartition("\n")[2]
        raise FleetError(f"no patch from {made.version}: {said}", where=str(new)) from exc
