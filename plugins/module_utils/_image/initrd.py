# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import run
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import kernel_modules, packages

TREE = Path("/run/tree")
SDK = Path("/")
LIBRARY = "usr/lib/vauban"
_UNITS = "usr/lib/systemd/system"
_NETWORK_CARDS = Path("kernel/drivers/net")
_LINKED = re.compile(r"(?:=> )?(/\S+) \(0x[0-9a-f]+\)")
_USR = ("bin", "lib", "lib64", "sbin")
_DIRECTORIES = ("dev", "etc", "proc", "run", "sys", "sysroot", "tmp", "var", *(f"usr/{name}" for name in _USR))
_MERGED = {**{name: f"usr/{name}" for name in _USR}, "init": "usr/lib/systemd/systemd"}

Taken = dict[Path, set[str]]  # what was copied from the tree and from the SDK, by paths in them


def build(
    contents: Sequence[Mapping[str, Any]],
    overlay: Sequence[str],
    modules: Sequence[str],
    texts: Mapping[str, str],
    compression_level: int,
    library: bool = False,
    cards: Sequence[str] = (),
) -> dict[str, Any]:
    """Build an initrd at /run/out/initrd from the tree at /run/tree. Runs inside the SDK.

    :param contents: lists like ``files/initrd/system.yml``; key ``sdk_files`` names files taken from the SDK.
    :param overlay: directories copied over the result.
    :param modules: kernel modules beside those that ``contents`` name.
    :param texts: path -> content of further files.
    :param compression_level: of zstd(1).
    :param library: take along this library, for the installer.
    :param cards: kernel modules of which those of network cards are taken.
    :returns: ``files``: how many there are; ``packages``: version by name of those that the files come from, of the
        tree (``tree``) and of the SDK (``sdk``).
    :raises FleetError: a listed file, unit or module does not exist.
    """
    root = Path("/tmp/initrd")
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, target in _MERGED.items():
        (root / name).symlink_to(target)
    (root / "etc/initrd-release").symlink_to("../usr/lib/os-release")
    release = kernel_modules.release_of(TREE)
    names: set[str] = set(modules)
    taken: Taken = {TREE: set(), SDK: set()}
    for content in contents:
        _copy_files(TREE, content.get("files", ()), root, taken)
        _copy_files(SDK, content.get("sdk_files", ()), root, taken)
        _copy_units(content.get("units", ()), root, taken)
        names |= set(content.get("modules", ()))
    known = kernel_modules.KernelModules(TREE, release)
    names |= set(known.below(_NETWORK_CARDS, cards))
    kernel_modules.install(known, sorted(names), root)
    taken[TREE].add(str((known.directory / "modules.builtin").relative_to(TREE)))
    for directory in overlay:
        _copy_own(Path(directory), root)
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if library:
        _copy_library(root)
    run(["ldconfig", "-r", str(root)])
    _lock_accounts(root)
    return {
        "files": _pack(root, compression_level),
        "packages": {"tree": packages.owning(TREE, taken[TREE]), "sdk": packages.owning(SDK, taken[SDK])},
    }


def _copy_library(root: Path) -> None:
    """The packages that an installation imports, below :data:`LIBRARY`."""
    source = Path(__file__).parent.parent
    dest = root / LIBRARY / "ansible_collections/vauban/fleet/plugins/module_utils"
    for name in ("_install", "_tpm"):
        _copy_own(source / name, dest / name)
    for path in source.glob("_*.py"):
        _copy_own(path, dest / path.name)


def _copy_own(source: Path, dest: Path) -> None:
    """Copy files of this collection; like git, take no more of a mode than whether the file is executable."""
    if source.is_symlink():
        dest.symlink_to(os.readlink(source))
    elif source.is_dir():
        dest.mkdir(parents=True, exist_ok=True)
        for child in source.iterdir():
            if child.name != "__pycache__":
                _copy_own(child, dest / child.name)
    else:
        shutil.copyfile(source, dest)
        dest.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _lock_accounts(root: Path) -> None:
    """Nobody logs in to an initrd: only numbers and names are of use."""
    lines = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    text = "\n".join(":".join([*fields[:6], "/usr/sbin/nologin"]) for fields in lines)
    (root / "etc/passwd").write_text(text + "\n")


def _copy_files(source: Path, patterns: Iterable[str], root: Path, taken: Taken) -> None:
    missing = []
    for pattern in patterns:
        found = sorted(source.glob(pattern.lstrip("/")))
        if not found:
            missing.append(pattern)
        for path in found:
            _copy(source, path, root, taken)
    if missing:
        raise FleetError(f"no such file for the initrd: {', '.join(missing)}", where="files/initrd")


def _copy(source: Path, path: Path, root: Path, taken: Taken) -> None:
    """Copy a file, what its link points to, and the libraries it is linked with."""
    relative = _merged(path.relative_to(source))
    dest = root / relative
    if dest.is_symlink() or (dest.exists() and not path.is_dir()):
        return
    dest.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        taken[source].add(str(relative))
        target = os.readlink(path)
        dest.symlink_to(target)
        resolved = source / target.lstrip("/") if target.startswith("/") else path.parent / target
        _copy(source, Path(os.path.normpath(resolved)), root, taken)
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if child.name != "__pycache__":
                _copy(source, child, root, taken)
    else:
        taken[source].add(str(relative))
        shutil.copy2(path, dest)
        for library in _libraries(source, path):
            _copy(source, library, root, taken)


def _libraries(source: Path, path: Path) -> list[Path]:
    """What the tree's own dynamic loader would load (ld.so(8) --list)."""
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return []
    command = ["/usr/lib64/ld-linux-x86-64.so.2", "--list", "/" + str(path.relative_to(source))]
    if source != SDK:
        command = ["chroot", str(source), *command]
    listed = run(command, check=False)
    return [source / match[1].lstrip("/") for match in _LINKED.finditer(listed.stdout)]


def _merged(path: Path) -> Path:
    first = path.parts[0]
    return Path(_MERGED[first], *path.parts[1:]) if first in _MERGED and len(path.parts) > 1 else path


def _copy_units(names: Sequence[str], root: Path, taken: Taken) -> None:
    """Copy units with their drop-ins, and those links of their .wants that point to units of the list."""
    units = TREE / _UNITS
    for name in names:
        if not os.path.lexists(units / name):
            raise FleetError(f"no such unit for the initrd: {name}", where="files/initrd")
        _copy(TREE, units / name, root, taken)
        if (units / f"{name}.d").is_dir():
            _copy(TREE, units / f"{name}.d", root, taken)
    chosen = set(names)
    for directory in sorted(units.glob("*.wants")):
        for link in sorted(directory.iterdir()):
            if link.name in chosen and directory.name.removesuffix(".wants") in chosen:
                _copy(TREE, link, root, taken)


def _pack(root: Path, compression_level: int) -> int:
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    names = []
    for directory, subdirectories, files in os.walk(root):
        names += [str((Path(directory) / name).relative_to(root)) for name in [*subdirectories, *files]]
    for name in names:
        os.utime(root / name, (epoch, epoch), follow_symlinks=False)
    listing = "\0".join(sorted(names)) + "\0"
    cpio = ["cpio", "--null", "--create", "--format=newc", "--reproducible", "--owner=+0:+0", "--quiet"]
    archive = run(cpio, stdin=listing.encode(), cwd=root).stdout_bytes
    zstd = ["zstd", "-q", f"-{compression_level}", "--threads=1", "-o", "/run/out/initrd", "-f"]
    run(zstd, stdin=archive)
    return len(names)
