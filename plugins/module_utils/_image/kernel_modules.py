# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import lzma
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError


class KernelModules:
    """The modules of one kernel release, by the names modprobe(8) uses.

    :param tree: root of the tree; the modules lie in its ``usr/lib/modules/<release>``.
    """

    def __init__(self, tree: Path, release: str) -> None:
        self.directory = tree / "usr/lib/modules" / release
        self._index(self.directory / "modules.order")
        self._builtin = {_name(line) for line in _lines(self.directory / "modules.builtin")}

    def closure(self, names: Iterable[str]) -> list[Path]:
        """The files of the modules and of all they depend on, relative to the module directory, sorted.

        Hard dependencies come from modules.dep(5), soft ones, which may be aliases, from modules.softdep.

        :raises FleetError: lists the names this kernel does not have.
        """
        wanted: dict[str, Path] = {}
        unknown = []
        queue = [name.replace("-", "_") for name in names]
        dependencies, soft, aliases = self._dependencies(), self._soft_dependencies(), self._aliases()
        while queue:
            name = queue.pop()
            if name in wanted or name in self._builtin:
                continue
            if name not in self._files:
                unknown.append(name)
                continue
            wanted[name] = self._files[name]
            queue += dependencies.get(name, [])
            for other in soft.get(name, []):
                queue += [module for module in [other, *aliases.get(other, [])] if module in self._files]
        if unknown:
            raise FleetError(
                f"kernel {self.directory.name} has no module named: {', '.join(sorted(unknown))}",
                remedy="correct the list in files/hardware or files/initrd",
            )
        return sorted(wanted.values())

    def below(self, directory: Path, names: Iterable[str]) -> list[str]:
        """Those of the modules that lie below a directory of the kernel's sources."""
        return [name for name in names if directory in self._files.get(name.replace("-", "_"), Path()).parents]

    def _index(self, order: Path) -> None:
        self._files = {_name(line): Path(line) for line in _lines(order)}
        # modules.order names what the kernel built (.o or .ko); the package may hold it compressed.
        for name, path in list(self._files.items()):
            base = path.with_suffix(".ko")
            found = [base.with_name(base.name + suffix) for suffix in ("", ".xz", ".zst")]
            existing = [path for path in found if (self.directory / path).exists()]
            if existing:
                self._files[name] = existing[0]
            else:
                del self._files[name]

    def _dependencies(self) -> dict[str, list[str]]:
        found = {}
        for line in _lines(self.directory / "modules.dep"):
            module, _colon, needed = line.partition(":")
            found[_name(module)] = [_name(path) for path in needed.split()]
        return found

    def _soft_dependencies(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in _lines(self.directory / "modules.softdep"):
            words = line.split()
            if len(words) > 2 and words[0] == "softdep":
                names = [word.replace("-", "_") for word in words[2:] if not word.endswith(":")]
                found.setdefault(words[1].replace("-", "_"), []).extend(names)
        return found

    def _aliases(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in _lines(self.directory / "modules.alias"):
            _word, alias, module = line.split(maxsplit=2)
            found.setdefault(alias.replace("-", "_"), []).append(module.replace("-", "_"))
        return found


def release_of(tree: Path) -> str:
    """The release (uname -r) of the one kernel of a tree.

    :raises FleetError: the tree holds none or several kernels.
    """
    releases = sorted(path.name for path in (tree / "usr/lib/modules").glob("*") if path.is_dir())
    if len(releases) != 1:
        raise FleetError(f"expected one kernel in the tree, found: {', '.join(releases) or 'none'}", where=str(tree))
    return releases[0]


def read_module(path: Path) -> bytes:
    """A module's bytes, uncompressed: deltas between versions stay small, and the signature inside stays valid."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return run(["zstd", "-dcq", str(path)]).stdout_bytes
    return path.read_bytes()


def install(source: KernelModules, names: Iterable[str], tree: Path) -> list[str]:
    """Put the modules, uncompressed, into another tree and index them there; return their names."""
    release = source.directory.name
    dest = tree / "usr/lib/modules" / release
    chosen = source.closure(names)
    for path in chosen:
        target = dest / path.with_name(re.sub(r"\.ko.*$", ".ko", path.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_module(source.directory / path))
        target.chmod(0o644)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        (dest / name).write_bytes((source.directory / name).read_bytes())
    run(["depmod", "--basedir", str(tree), "--moduledir", "/usr/lib/modules", release])
    for name in ("modules.builtin.modinfo", "modules.order"):
        (dest / name).unlink()  # only depmod reads them
    return [_name(os.fspath(path)) for path in chosen]


def _name(path: str) -> str:
    return Path(path).name.split(".", 1)[0].replace("-", "_")


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
