# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases that are small and have what patches are made of: hash tree, parity and an initrd."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from updates import write_release

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._image import core
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._update import patch

PROGRAM = Path(__file__).resolve().parents[2] / "roles/update_client/files/root/usr/lib/vauban/update-patch"
POLICY_KEY = hashlib.sha256(b"").hexdigest()
_FILES = [random.Random(number).randbytes(200_000) for number in range(12)]


@dataclass(frozen=True)
class Contents:
    """What is in a release.

    :param files: of the core; the first four are in the initrd, too.
    """

    kernel: bytes
    files: tuple[bytes, ...]


OLD = Contents(random.Random("kernel").randbytes(300_000), tuple(_FILES[:10]))
# One file is another, one has grown, and what follows lies elsewhere.
NEW = Contents(OLD.kernel, (_FILES[10], _FILES[1] + bytes(5000), *_FILES[2:9], _FILES[11]))


def write(sandbox: Sandbox, directory: Path, keys: Path, version: str, contents: Contents) -> Path:
    """A release that can be patched, with what stands for a bundle: an archive of core and UKI (:mod:`simulated`)."""
    work = directory.parent / f".{directory.name}"
    work.mkdir(parents=True)
    image = work / "core"
    image.write_bytes(b"".join(contents.files))
    verity = core.add_verity(sandbox, image, salt_seed=version, log=work / "log")
    (work / "initrd").write_bytes(b"".join(b"070701 %d" % len(file) + file for file in contents.files[:4]))
    binds = [Bind(work, "/run/work", writable=True)]
    sandbox.run(["sh", "-c", "zstd -q -c -6 --threads=1 < /run/work/initrd > /run/work/packed"], binds=binds)
    made = {"core": image.read_bytes(), "uki": uki(contents.kernel, (work / "packed").read_bytes(), version)}
    made["bundle"] = _archive({"version": version.encode(), "core": made["core"], "uki.efi": made["uki"]})
    changes: dict[str, Any] = {
        name: {"file": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in made.items()
    }
    changes["core"]["verity"] = verity.as_dict()
    # Of a policy key that is empty, as a machine without one computes it.
    changes["uki"] |= {"signer": "MIIB", "authenticode_sha256": "a" * 64, "policy_keys": [POLICY_KEY]}
    write_release(directory, keys, version, **changes)
    for name, content in made.items():
        (directory / name).write_bytes(content)
    return directory


def _archive(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def uki(kernel: bytes, initrd: bytes, version: str) -> bytes:
    """A PE file as far as its section table (PE Format), with something behind the initrd."""
    sections = {b".osrel": version.encode(), b".linux": kernel, b".initrd": initrd, b".pcrsig": version.encode() * 9}
    place, table, body = 0x40 + 24 + 40 * len(sections), b"", b""
    for name, content in sections.items():
        table += struct.pack("<8sIIII16x", name, len(content), 0, len(content), place + len(body))
        body += content
    header = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    return header + struct.pack("<4sHH12xHH", b"PE\0\0", 0x8664, len(sections), 0, 0) + table + body


class Pair:
    """Two releases, and what leads from the first to the second."""

    def __init__(self, sandbox: Sandbox, directory: Path, keys: ProductKeys) -> None:
        self.sandbox, self.directory, self.keys = sandbox, directory, keys
        self.old = write(sandbox, directory / "1.0.0", keys.directory, "1.0.0", OLD)
        self.new = write(sandbox, directory / "1.1.0", keys.directory, "1.1.0", NEW)
        made = patch.make(sandbox, self.old, self.new, directory / "patches", program=PROGRAM, work=directory)
        assert made is not None
        self.patch = made

    @property
    def file(self) -> Path:
        return self.directory / "patches" / self.patch.name

    def root_hash(self, release: Path) -> str:
        return str(json.loads((release / "manifest.json").read_text())["core"]["verity"]["root_hash"])
