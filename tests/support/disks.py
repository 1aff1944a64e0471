# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine's raw disk, read and damaged from outside: no loop device, no device-mapper, no privilege."""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

SECTOR = 512
BLOCK = 4096
_CHUNK = 1024 * 1024
# LVM's checksum is a CRC-32 that starts with this value and is not inverted (lib/misc/crc.c).
_LVM_CRC_START = 0xF597A6CF
_HEADER_SIZE = 512  # of the metadata area; the text is a ring behind it
_LOCATION = 40  # of the text, in that header


@dataclass(frozen=True)
class Extent:
    """A range of bytes on a disk."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


def partitions(disk: Path) -> list[Extent]:
    """The partitions of a GPT (UEFI specification, 5.3), in the order of the table."""
    with disk.open("rb") as stream:
        stream.seek(SECTOR)
        first, number, size = struct.unpack_from("<QII", stream.read(SECTOR), 72)
        stream.seek(first * SECTOR)
        table = stream.read(number * size)
    entries = [struct.unpack_from("<16s16sQQ", table, index * size) for index in range(number)]
    return [Extent(begin * SECTOR, (end + 1 - begin) * SECTOR) for kind, _id, begin, end in entries if any(kind)]


def volumes(disk: Path) -> dict[str, Extent]:
    """The linear logical volumes of the physical volume on the second partition, by name."""
    physical = partitions(disk)[1].offset
    with disk.open("rb") as stream:
        text = _Metadata(stream.fileno(), physical).text
    extent = int(_field(text, "extent_size")) * SECTOR
    start = physical + int(_field(text, "pe_start")) * SECTOR
    listed = text[text.index("\nlogical_volumes {") :]
    found = {}
    for name, body in re.findall(r"\n(\S+) \{\nid = (.*?\n\})\n\}", listed, re.DOTALL):
        place = re.search(r'"pv0", (\d+)', body)
        assert place is not None, f"volume {name} is not linear"
        found[name] = Extent(start + int(place[1]) * extent, int(_field(body, "extent_count")) * extent)
    return found


def rename_volume(disk: Path, old: str, new: str) -> None:
    """Give a logical volume another name of the same length, so that nobody finds it."""
    assert len(old) == len(new)
    with disk.open("r+b") as stream:
        metadata = _Metadata(stream.fileno(), partitions(disk)[1].offset)
        changed = metadata.text.replace(f"\n{old} {{", f"\n{new} {{")
        assert changed != metadata.text
        metadata.write(changed)


def flip(path: Path, offset: int) -> None:
    """Change one byte."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 0xFF]))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put other bytes there."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def cut_out(disk: Path, place: Extent, dest: Path) -> None:
    """Write the bytes of that place to a file, zeros as holes."""
    with disk.open("rb") as source, dest.open("wb") as out:
        source.seek(place.offset)
        for _block in range(0, place.size, _CHUNK):
            data = source.read(min(_CHUNK, place.end - source.tell()))
            if any(data):
                out.write(data)
            else:
                out.seek(len(data), os.SEEK_CUR)
        out.truncate(place.size)


def longest_change(before: Path, after: Path, within: Extent) -> Extent:
    """The longest run of blocks that differ between two disks."""
    with before.open("rb") as one, after.open("rb") as other:
        one.seek(within.offset)
        other.seek(within.offset)
        places = range(within.offset, within.end, BLOCK)
        changed = [(one.read(BLOCK) != other.read(BLOCK), place) for place in places]
    runs = [[place for _changed, place in run] for key, run in groupby(changed, key=lambda each: each[0]) if key]
    longest = max(runs, key=len, default=[])
    assert longest, "the disks do not differ there"
    return Extent(longest[0], len(longest) * BLOCK)


class _Metadata:
    """The text form of LVM's metadata, in the first metadata area of a physical volume (lvm(8), vgcfgbackup(8))."""

    def __init__(self, disk: int, physical: int) -> None:
        self._disk = disk
        self._area = self._find(physical)
        header = os.pread(disk, _HEADER_SIZE, self._area.offset)
        self._place, size = struct.unpack_from("<QQ", header, _LOCATION)
        ring = os.pread(disk, self._area.size, self._area.offset)
        rest = max(0, self._place + size - self._area.size)
        content = ring[self._place : self._place + size - rest] + ring[_HEADER_SIZE : _HEADER_SIZE + rest]
        self.text = content.rstrip(b"\0").decode("ascii")
        self._size = size

    def write(self, text: str) -> None:
        content = text.encode("ascii").ljust(self._size, b"\0")
        assert len(content) == self._size
        assert self._place + self._size <= self._area.size, "the text wraps around"
        header = bytearray(os.pread(self._disk, _HEADER_SIZE, self._area.offset))
        struct.pack_into("<I", header, _LOCATION + 16, _lvm_crc(content))
        struct.pack_into("<I", header, 0, _lvm_crc(bytes(header[4:])))
        os.pwrite(self._disk, content, self._area.offset + self._place)
        os.pwrite(self._disk, header, self._area.offset)

    def _find(self, physical: int) -> Extent:
        head = os.pread(self._disk, 4 * SECTOR, physical)
        label = head.index(b"LABELONE")
        position = label + struct.unpack_from("<I", head, label + 20)[0] + 40  # behind UUID and size
        lists: list[list[Extent]] = [[]]
        while len(lists) < 3:  # data areas, then metadata areas, each closed by zeros
            offset, size = struct.unpack_from("<QQ", head, position)
            position += 16
            if offset:
                lists[-1].append(Extent(physical + offset, size))
            else:
                lists.append([])
        return lists[1][0]


def _field(text: str, name: str) -> str:
    found = re.search(rf"\b{name} = (\d+)", text)
    assert found is not None, f"no {name} in LVM's metadata"
    return found[1]


def _lvm_crc(data: bytes) -> int:
    return zlib.crc32(data, _LVM_CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
