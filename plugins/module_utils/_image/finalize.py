# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import fnmatch
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import kernel_modules

TREE = Path("/run/tree")
_ALIASES = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def finalize(
    cleanup: Mapping[str, Any],
    explanations: Mapping[str, str],
    roles: Mapping[str, str],
    modules: Sequence[str],
) -> dict[str, Any]:
    """Turn a configured root tree into what the core image holds. Runs inside the SDK on a throw-away overlay.

    :param cleanup: ``files/cleanup.yml``: packages, paths and interpreters whose files leave the image.
    :param explanations: ``files/origin.yml``: shell patterns of generated files and what generates them.
    :param roles: path -> role and task that wrote it.
    :param modules: kernel modules to keep.
    :returns: ``kernel``, ``packages`` (name -> version), ``origin`` (path -> explanation).
    :raises FleetError: a file that nothing explains.
    """
    packages = _packages()
    owners = _owners(packages)
    release = kernel_modules.release_of(TREE)
    shutil.copy(TREE / f"boot/vmlinuz-{release}", "/run/out/vmlinuz")
    _write_var_skeleton(cleanup["var_kept"])
    _keep_modules(release, modules)
    removed = set(cleanup["packages"])
    for path, package in owners.items():
        if package in removed:
            _remove(TREE / path)
    for pattern in cleanup["paths"]:
        for path in TREE.glob(pattern.lstrip("/")):
            _remove(path)
    _remove_interpreted(tuple(cleanup["interpreters"]))
    _remove_dangling_links()
    _normalise(cleanup["empty_directories"])
    kept = {name: version for name, version in packages.items() if name not in removed}
    origin, unexplained = _origin(owners, kept, roles, explanations)
    if unexplained:
        raise FleetError(
            f"{len(unexplained)} files of the image have no known origin:\n  " + "\n  ".join(unexplained[:20]),
            where="files/origin.yml",
            remedy="let a role write them, or add what generates them to files/origin.yml",
        )
    return {"kernel": release, "packages": kept, "origin": origin}


def _packages() -> dict[str, str]:
    found = {}
    for stanza in (TREE / "var/lib/dpkg/status").read_text("utf-8").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if fields:
            found[fields["Package"]] = fields["Version"]
    return found


def _owners(packages: Mapping[str, str]) -> dict[str, str]:
    """Path (relative, /usr-merged) -> package, from dpkg's file lists."""
    owners = {}
    for listing in (TREE / "var/lib/dpkg/info").glob("*.list"):
        package = listing.name.removesuffix(".list").partition(":")[0]
        for line in listing.read_text("utf-8").splitlines():
            first, _, rest = line.lstrip("/").partition("/")
            path = f"{_ALIASES.get(first, first)}/{rest}" if rest else first
            found = TREE / path
            if package in packages and (found.is_symlink() or not found.is_dir()):
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
    target = TREE / "usr/lib/tmpfiles.d/vauban-var.conf"
    target.write_text("# Directories below /var that the packages of this image brought along.\n" + "\n".join(sorted(lines)) + "\n")


def _keep_modules(release: str, names: Sequence[str]) -> None:
    modules = kernel_modules.KernelModules(TREE, release)
    aside = Path("/tmp/modules")
    kernel_modules.install(modules, names, aside)
    shutil.rmtree(modules.directory)
    shutil.copytree(aside / "usr/lib/modules" / release, modules.directory)


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
    for top in ("usr", "etc"):
        for directory, names, files in os.walk(TREE / top):
            for name in [*names, *files]:
                path = Path(directory) / name
                if not path.is_symlink():
                    continue
                target = os.readlink(path)
                absolute = TREE / target.lstrip("/") if target.startswith("/") else path.parent / target
                resolved = Path(os.path.normpath(absolute))
                outside = not resolved.is_relative_to(TREE) or target.startswith(("/proc", "/run", "/dev", "/var", "/state"))
                relative = str(resolved.relative_to(TREE)) if resolved.is_relative_to(TREE) else ""
                if not outside and not relative.startswith(("proc", "run", "dev")) and not _exists(absolute):
                    path.unlink()


def _exists(path: Path) -> bool:
    """Whether a path inside the tree exists, with absolute links read as links inside the tree."""
    for _hop in range(20):
        if not path.is_symlink():
            return path.exists()
        target = os.readlink(path)
        path = TREE / target.lstrip("/") if target.startswith("/") else path.parent / target
    return False


def _normalise(empty_directories: Mapping[str, int]) -> None:
    """No set-id bit, no capability, no world-writable file; mount points exist and are empty."""
    for name, mode in empty_directories.items():
        path = TREE / name.lstrip("/")
        _remove(path)
        path.mkdir(parents=True)
        path.chmod(mode)
    for directory, names, files in os.walk(TREE):
        for name in [*names, *files]:
            path = Path(directory) / name
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                continue
            mode = stat.S_IMODE(status.st_mode)
            strict = mode & 0o1755 if stat.S_ISDIR(mode) else mode & 0o777
            strict &= ~(stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)
            if strict != mode:
                path.chmod(strict)
            if "security.capability" in os.listxattr(path):
                os.removexattr(path, "security.capability")


def _origin(
    owners: Mapping[str, str],
    packages: Mapping[str, str],
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
                origin[text] = f"package {owners[path]}={packages[owners[path]]}"
            elif explanation is not None:
                origin[text] = f"generated: {explanation}"
            else:
                unexplained.append(text)
    return dict(sorted(origin.items())), sorted(unexplained)
