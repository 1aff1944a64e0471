# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Where on the state volume the files of a machine lie, before its own system has ever run."""

from __future__ import annotations

import os
import posixpath
import stat
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.state import CONFIGURATION

_MAXIMUM_LINKS = 40  # as the kernel, path_resolution(7)
_ETC = "etc"
# Of /var only what our roles keep there: the rest is the business of the programs that run.
_OWN = "var/lib"


class Places:
    """The state volume and the core of one machine.

    :param state: the mounted state volume.
    :param core: the mounted core, or a tree like it; nothing in it is changed.
    """

    def __init__(self, state: Path, core: Path) -> None:
        self.state, self.core = state, core

    def locate(self, path: str) -> Path:
        """Where on the state volume that is which the machine finds under a path, links of the core's directories
        followed: ``/etc`` is the host's configuration, ``/var/lib`` is bound from the volume.

        :param path: absolute; what it names itself need not exist, and is not followed.
        :raises FleetError: it is anywhere else, or stands below something that is no directory.
        """
        place = posixpath.join(self.follow(posixpath.dirname(path)), posixpath.basename(path))
        if place.startswith(f"{_ETC}/"):
            return self.state / CONFIGURATION / place
        if place.startswith(f"{_OWN}/"):
            return self.state / place
        raise FleetError("the state volume has no place for this file", where=path)

    def follow(self, path: str) -> str:
        """The directory of the core that a path leads to, without the leading slash; it need not exist.

        :raises FleetError: there is a file on the way, or links lead in a circle.
        """
        steps, reached, links = _steps(path), "", 0
        while steps:
            step = steps.pop(0)
            if step == "..":
                reached = posixpath.dirname(reached)
                continue
            found = self.core / reached / step
            mode = _mode(found)
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAXIMUM_LINKS:
                    raise FleetError("links of the core lead in a circle", where=path)
                target = os.readlink(found)
                steps = [*_steps(target), *steps]
                reached = "" if target.startswith("/") else reached
                continue
            if mode and not stat.S_ISDIR(mode):
                raise FleetError("stands below a file of the core", where=path)
            reached = posixpath.join(reached, step)
        return reached

    def make_parents(self, path: Path) -> None:
        """Make the directories above a path on the state volume, each as :meth:`dress` says.

        :raises FleetError: one of them is something else.
        """
        for parent in reversed(self._missing_parents(path)):
            parent.mkdir()
            self.dress(parent)

    def _missing_parents(self, path: Path) -> list[Path]:
        """All the way up: a volume that was in use may hold links, which would lead out of it.

        :raises FleetError: one of those that are there is no directory.
        """
        missing = []
        for parent in path.parents:
            if parent == self.state:
                break
            mode = _mode(parent)
            if mode and not stat.S_ISDIR(mode):
                raise FleetError("is no directory", where=str(parent))
            if not mode:
                missing.append(parent)
        return missing

    def remove(self, path: str) -> None:
        """Remove a file from the state volume, so that another can be written; what is not there is not missed.

        :param path: under which the machine finds it.
        :raises FleetError: it has no place there, or is a directory.
        """
        dest = self.locate(path)
        self._missing_parents(dest)
        try:
            dest.unlink(missing_ok=True)
        except OSError as exc:
            raise FleetError(f"cannot be removed: {exc.strerror}", where=path) from exc

    def write(self, path: str, content: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
        """Write a file that is not there yet, on the state volume.

        :param path: under which the machine finds it.
        :param owner: numbers of user and group, if they are others than those of who writes.
        :raises FleetError: it cannot be written, or has no place there.
        """
        dest = self.locate(path)
        self.make_parents(dest)
        try:
            descriptor = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                if owner is not None:
                    os.fchown(descriptor, *owner)
                os.fchmod(descriptor, mode)
        except OSError as exc:
            raise FleetError(f"cannot be written: {exc.strerror}", where=path) from exc

    def give(self, path: str, *, mode: int, owner: tuple[int, int]) -> None:
        """Give a directory to an account.

        :param path: under which the machine finds it.
        """
        directory = self.locate(f"{path}/x").parent
        os.chown(directory, *owner)
        directory.chmod(mode)

    def number(self, table: str, name: str) -> int:
        """Of an account (``passwd``) or a ``group``: the core's, not those of the system that runs now.

        :raises FleetError: the core has none of that name.
        """
        for line in (self.core / _ETC / table).read_text("utf-8").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 2:
                return int(fields[2])
        raise FleetError("the core has no such account", where=f"/etc/{table}: {name}")

    def dress(self, directory: Path) -> None:
        """Give a directory on the state volume the mode and the owner of the core's, which it hides.

        What the core does not have belongs to root. What is below /var gets its owner when the machine starts.
        """
        relative = directory.relative_to(self.state)
        known = self.core / relative.relative_to(CONFIGURATION) if relative.parts[0] == CONFIGURATION else None
        try:
            status = known.lstat() if known else None
        except FileNotFoundError:
            status = None
        directory.chmod(stat.S_IMODE(status.st_mode) if status else 0o755)
        own = directory.stat()
        if status and (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
            os.chown(directory, status.st_uid, status.st_gid)

    def kind(self, path: str) -> int:
        """What the core has under a path (``stat.S_IFMT``), its last part not followed; 0 if there is nothing."""
        above = self.follow(posixpath.dirname(path))
        return stat.S_IFMT(_mode(self.core / above / posixpath.basename(path)))


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in ("", ".")]


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0
