# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import fnmatch
import os
import posixpath
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import kernel_modules, packages

TREE = Path("/run/tree")
# Filled on a running machine: what links point to there is not in the image.
_MOUNTED = ("/dev/", "/proc/", "/run/", "/state/", "/var/")
_MAXIMUM_STEPS = 200


def finalize(
    cleanup: Mapping[str, Any],
    explanations: Mapping[str, str],
    roles: Mapping[str, str],
    modules: Sequence[str],
    firmware: Sequence[str],
) -> dict[str, Any]:
    """Turn a configured root tree into what the core image holds. Runs inside the SDK on a throw-away overlay.

    :param cleanup: ``files/cleanup.yml``: packages, paths and interpreters whose files leave the image, and
        files that leave it unless a role wrote them.
    :param explanations: ``files/origin.yml``: shell patterns of generated files and what generates them.
    :param roles: path -> role and task that wrote it.
    :param modules: kernel modules to keep.
    :param firmware: shell patterns, below /usr/lib/firmware, of the files to keep there.
    :returns: ``kernel``, ``packages`` (name -> version), ``origin`` (path -> explanation).
    :raises FleetError: a file that nothing explains.
    """
    installed = packages.installed(TREE)
    owners = _owners(installed)
    release = kernel_modules.release_of(TREE)
    shutil.copy(TREE / f"boot/vmlinuz-{release}", "/run/out/vmlinuz")
    _write_var_skeleton(cleanup["var_kept"])
    _keep_modules(release, modules)
    _keep_firmware(firmware)
    removed = set(cleanup["packages"])
    for path, package in owners.items():
        if package in removed:
            _remove(TREE / path)
    for pattern in cleanup["paths"]:
        for found in TREE.glob(pattern.lstrip("/")):
            _remove(found)
    for text in set(cleanup["unless_written"]) - roles.keys():
        _remove(TREE / text.lstrip("/"))
    _remove_interpreted(tuple(cleanup["interpreters"]))
    _remove_dangling_links()
    _normalise(cleanup["empty_directories"])
    kept = {name: version for name, version in installed.items() if name not in removed}
    origin, unexplained = _origin(owners, kept, roles, explanations)
    if unexplained:
        raise FleetError(
            f"{len(unexplained)} files of the image have no known origin:\n  " + "\n  ".join(unexplained[:20]),
            where="files/origin.yml",
            remedy="let a role write them, or add what generates them to files/origin.yml",
        )
    return {"kernel": release, "packages": kept, "origin": origin}


def _owners(installed: Mapping[str, str]) -> dict[str, str]:
    """Path (relative, /usr-merged) -> package, of all but directories."""
    owners = {}
    for path, package in packages.listed(TREE):
        found = TREE / path
        if package in installed and (found.is_symlink() or not found.is_dir()):
            owners[path] = package
    return owners


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _write_var_skeleton(kept: Sequence[str]) -> None:
    """/var is state, empty on a new machine: let systemd-tmpfiles make the directories that packages expect there."""
    lines = []
    for directory, names, _files in os.walk(TREE / "var"):
        for name in list(names):
            path = Path(directory) / name
            text = "/" + str(path.relative_to(TREE))
            if path.is_symlink() or not any(fnmatch.fnmatch(text, pattern) for pattern in kept):
                names.remove(name)
                continue
            status = path.stat()
            lines.append(f"d {text} {stat.S_IMODE(status.st_mode):04o} {status.st_uid} {status.st_gid} -")
    heading = "# Directories below /var that the packages of this image brought along."
    (TREE / "usr/lib/tmpfiles.d/vauban-var.conf").write_text("\n".join([heading, *sorted(lines)]) + "\n")


def _keep_modules(release: str, names: Sequence[str]) -> None:
    modules = kernel_modules.KernelModules(TREE, release)
    aside = Path("/tmp/modules")
    kernel_modules.install(modules, names, aside)
    shutil.rmtree(modules.directory)
    shutil.copytree(aside / "usr/lib/modules" / release, modules.directory)


def _keep_firmware(patterns: Sequence[str]) -> None:
    """Firmware packages are large; only what a hardware profile names stays, with what its links point to.

    :raises FleetError: a pattern that matches nothing.
    """
    root = TREE / "usr/lib/firmware"
    kept: set[Path] = set()
    for pattern in patterns:
        matching = list(root.glob(pattern))
        if not matching:
            raise FleetError(
                f"no firmware file matches {pattern!r}",
                where="files/hardware",
                remedy="correct the hardware profile, or add the firmware's package set to product_package_sets",
            )
        kept |= {*matching, *(path.resolve() for path in matching)}
    for directory, _names, files in os.walk(root, topdown=False):
        for name in files:
            if Path(directory) / name not in kept:
                (Path(directory) / name).unlink()
        if not os.listdir(directory):
            os.rmdir(directory)


def _remove_interpreted(interpreters: tuple[str, ...]) -> None:
    """Scripts of interpreters that leave the image are dead weight; remove them too."""
    for directory, _names, files in os.walk(TREE / "usr"):
        for name in files:
            path = Path(directory) / name
            if path.is_symlink() or not path.stat().st_mode & 0o111:
                continue
            with path.open("rb") as stream:
                first = stream.readline(80)
            if first.startswith(b"#!") and any(word.encode() in first for word in interpreters):
                path.unlink()


def _remove_dangling_links() -> None:
    """A link stays if its target exists, or lies where something is mounted on a running machine."""
    for top in ("usr", "etc"):
        for directory, names, files in os.walk(TREE / top):
            for path in (Path(directory) / name for name in [*names, *files]):
                if path.is_symlink() and not f"{_target(path)}/".startswith(_MOUNTED) and not _exists(path):
                    path.unlink()


def _target(link: Path) -> str:
    """What a link of the tree points to, as the running machine sees it."""
    place = "/" / link.parent.relative_to(TREE)
    return posixpath.normpath(place / os.readlink(link))


def _exists(path: Path) -> bool:
    """Whether a path of the tree exists, its links followed as the running machine follows them."""
    reached = TREE
    steps = list(path.relative_to(TREE).parts)
    for _step in range(_MAXIMUM_STEPS):
        if not steps:
            return os.path.lexists(reached)
        name = steps.pop(0)
        if name == "..":
            reached = reached.parent if reached != TREE else TREE
        elif (reached / name).is_symlink():
            target = Path(os.readlink(reached / name))
            steps = [*(target.parts[1:] if target.is_absolute() else target.parts), *steps]
            reached = TREE if target.is_absolute() else reached
        else:
            reached = reached / name
    return False  # links in a circle


def _normalise(empty_directories: Mapping[str, str]) -> None:
    """No set-id bit, no capability, nothing world-writable; mount points exist and are empty."""
    for name, octal in empty_directories.items():
        path = TREE / name.lstrip("/")
        _remove(path)
        path.mkdir(parents=True)
        path.chmod(int(octal, 8))
    for directory, names, files in os.walk(TREE):
        for path in (Path(directory) / name for name in [*names, *files]):
            if path.is_symlink():
                continue
            mode = stat.S_IMODE(path.lstat().st_mode)
            strict = mode & ~(stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)
            if strict != mode:
                path.chmod(strict)
            if "security.capability" in os.listxattr(path):
                os.removexattr(path, "security.capability")


def _origin(
    owners: Mapping[str, str],
    kept: Mapping[str, str],
    roles: Mapping[str, str],
    explanations: Mapping[str, str],
) -> tuple[dict[str, str], list[str]]:
    origin: dict[str, str] = {}
    unexplained = []
    for directory, names, files in os.walk(TREE):
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        for name in [*files, *links]:
            path = str((Path(directory) / name).relative_to(TREE))
            text = f"/{path}"
            explanation = next((why for pattern, why in explanations.items() if fnmatch.fnmatch(text, pattern)), None)
            if text in roles:
                origin[text] = roles[text]
            elif path in owners:
                origin[text] = f"package {owners[path]}={kept[owners[path]]}"
            elif explanation is not None:
                origin[text] = f"generated: {explanation}"
            else:
                unexplained.append(text)
    return dict(sorted(origin.items())), sorted(unexplained)
