# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.vauban.fleet.plugins.module_utils._command import (
    CLEAN_ENVIRONMENT,
    CommandError,
    Completed,
    run,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

# Where the SDK appears inside a root tree that is being configured; /run is a tmpfs there, so nothing stays.
SDK_IN_TREE = "/run/vauban/sdk"
ANOTHER_OWNER = "it belongs to another user: remove it as that user, or set fleet_build_dir to a directory of your own"
_ETC = Path("/etc")
_SYSCTL = Path("/proc/sys")
_IDS = 65_536  # a tree's files belong to ids up to 65534, nobody and nogroup
_FIRST_ID = 100_000  # where useradd(8) begins to give away subordinate ids
_NAMESPACE_PROGRAMS = re.compile(r"^(unshare|newuidmap|newgidmap|mount|bwrap): ", re.MULTILINE)


@dataclass(frozen=True)
class Bind:
    """A host path shown inside the sandbox; ``dest`` lies below /run, the only place where mount points can be made."""

    source: Path
    dest: str
    writable: bool = False
    device: bool = False


@dataclass(frozen=True)
class Layers:
    """An overlay: read-only ``lower`` trees (topmost first) and, if changes are to be kept, ``upper`` and ``work``."""

    lower: tuple[Path, ...]
    upper: Path | None = None
    work: Path | None = None


def namespace() -> list[str]:
    """The command prefix that gives a program private mounts, and root's rights over subordinate ids (unshare(1))."""
    words = ["unshare", "--mount", "--propagation", "private"]
    return words if os.geteuid() == 0 else [*words, "--user", "--map-root-user", "--map-auto"]


def owner() -> str:
    """Whose files a tree made here would hold. They mean nothing to a user whose ids are mapped in another way."""
    if os.geteuid() == 0:
        return "root"
    return f"user {os.geteuid()}, subordinate ids from {_range('subuid')} and {_range('subgid')}"


def run_with_ids(
    command: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None, log: Path | None = None
) -> Completed:
    """Run a program of the host with private mounts, as root or with root's rights over subordinate ids.

    :raises FleetError: it failed, or this machine does not let the user have such namespaces.
    """
    argv = [*namespace(), "--", *command]
    return _checked(run(argv, env=env, log=log, check=False), check=True, log=log)


def remove_tree(path: Path) -> None:
    """Remove a directory whose files may belong to subordinate ids, which an ordinary user cannot remove directly.

    :raises FleetError: the files belong to neither the user nor their subordinate ids.
    """
    if not os.path.lexists(path):
        return
    try:
        run_with_ids(["rm", "-rf", "--one-file-system", path])
    except CommandError as exc:
        first = exc.completed.stderr.strip().partition("\n")[0]
        raise FleetError(f"cannot be removed: {first}", where=str(path), remedy=ANOTHER_OWNER) from None


def require_namespaces() -> None:
    """Check that this machine gives the user the namespaces that every step runs in.

    :raises FleetError: says what is missing and what to type.
    """
    probe = run([*namespace(), "--", "mount", "-t", "tmpfs", "tmpfs", "/tmp"], check=False)
    if probe.returncode != 0:
        said = probe.stderr.strip().partition("\n")[0]
        where, problem, remedy = _root_refused() if os.geteuid() == 0 else _user_refused()
        raise FleetError(f"{problem} ({said})", where=where, remedy=remedy)


class Sandbox:
    """Runs programs of the SDK, each in namespaces of its own.

    The program sees the SDK read-only, tmpfs on /tmp, /run and /var/tmp, an empty environment, no network, and of the
    host only what ``binds`` names. All mounts live in a private mount namespace and vanish with the program, whatever
    way it ends. As an ordinary user a user namespace with the subordinate ids of /etc/subuid takes the place of root
    (user_namespaces(7), newuidmap(1)).

    :param sdk: the SDK image (a file, mounted by loop device: root only) or its unpacked tree (a directory).
    :param scratch: an existing empty directory; mounts are arranged on a tmpfs over it that no other process sees.
    """

    def __init__(self, sdk: Path, scratch: Path) -> None:
        self.sdk = sdk
        self.scratch = scratch

    def argv(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        binds: Sequence[Bind] = (),
        layers: Mapping[str, Layers] | None = None,
        root: Layers | None = None,
        network: bool = False,
        privileged: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        detached: bool = False,
    ) -> list[str]:
        """The complete command line, for :func:`run` or a long-lived process.

        :param layers: overlays to show, by their path inside the sandbox.
        :param root: enter this tree instead of the SDK, which then appears at :data:`SDK_IN_TREE`.
        :param network: keep the host's network; otherwise only an own loopback interface exists.
        :param privileged: keep root's capabilities inside (root trees are written with many owners).
        :param detached: let the program outlive the one that starts it.
        """
        if not self.sdk.exists():
            raise FleetError("the SDK is not there", where=str(self.sdk), remedy="run 'make build' (tag sdk builds it)")
        mounts = self._mounts(layers or {}, root)
        words = ["bwrap"] if detached else ["bwrap", "--die-with-parent"]
        words += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
        words += [] if network else ["--unshare-net"]
        words += ["--cap-add", "ALL"] if privileged else ["--cap-drop", "ALL", "--cap-add", "CAP_DAC_READ_SEARCH"]
        words += ["--clearenv"]
        for name, value in {**CLEAN_ENVIRONMENT, **(env or {})}.items():
            words += ["--setenv", name, value]
        words += self._root_options(root)
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", "/var/tmp"]
        # bwrap would make the parents of mount points for root alone; commands may run as other users.
        shown = [Bind(self.scratch / "sdk", SDK_IN_TREE)] if root is not None else []
        for parent in sorted({os.path.dirname(bind.dest) for bind in (*shown, *binds)} - {"/"}):
            words += ["--dir", parent]
        for path in sorted(layers or {}):
            words += ["--bind", str(self._overlay(path)), path]
        for bind in (*shown, *binds):
            option = "--dev-bind" if bind.device else "--bind" if bind.writable else "--ro-bind"
            words += [option, str(bind.source), bind.dest]
        words += ["--chdir", cwd, "--", *(os.fspath(word) for word in command)]
        script = "\n".join([*mounts, 'exec "$@"'])
        return [*namespace(), "--", "/bin/sh", "-euc", script, "sandbox", *words]

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        binds: Sequence[Bind] = (),
        layers: Mapping[str, Layers] | None = None,
        root: Layers | None = None,
        network: bool = False,
        privileged: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: bytes | None = None,
        log: Path | None = None,
        check: bool = True,
        timeout: float | None = None,
    ) -> Completed:
        """Run one program to its end; arguments as for :meth:`argv` and :func:`run`."""
        argv = self.argv(
            command,
            binds=binds,
            layers=layers,
            root=root,
            network=network,
            privileged=privileged,
            env=env,
            cwd=cwd,
        )
        return _checked(run(argv, stdin=stdin, log=log, check=False, timeout=timeout), check=check, log=log)

    def _mounts(self, layers: Mapping[str, Layers], root: Layers | None) -> list[str]:
        scratch = str(self.scratch)
        lines = [_shell("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", scratch), _shell("mkdir", f"{scratch}/sdk")]
        if self.sdk.is_file():
            lines.append(_shell("mount", "-o", "loop,ro,nosuid,nodev", str(self.sdk), f"{scratch}/sdk"))
        else:
            lines.append(_shell("mount", "--bind", str(self.sdk), f"{scratch}/sdk"))
        overlays = dict(layers)
        if root is not None:
            overlays["/"] = root
        for path, layer in overlays.items():
            target = str(self._overlay(path))
            lines += [_shell("mkdir", target), _mount_layer(layer, target)]
        return lines

    def _overlay(self, path: str) -> Path:
        return self.scratch / ("overlay" + path.replace("/", "-"))

    def _root_options(self, root: Layers | None) -> list[str]:
        if root is not None:
            return ["--bind", str(self._overlay("/")), "/"]
        return ["--ro-bind", str(self.scratch / "sdk"), "/"]


def _mount_layer(layer: Layers, target: str) -> str:
    if layer.upper is None and len(layer.lower) == 1:  # overlayfs wants two
        return "\n".join(
            (_shell("mount", "--bind", str(layer.lower[0]), target), _shell("mount", "-o", "remount,bind,ro", target))
        )
    for path in (*layer.lower, layer.upper, layer.work):
        if set(str(path)) & set(":,\\"):
            raise FleetError("overlayfs cannot take ':', ',' or '\\' in a path", where=str(path))
    options = [f"lowerdir={':'.join(str(path) for path in layer.lower)}"]
    if layer.upper is not None:
        options += [f"upperdir={layer.upper}", f"workdir={layer.work}"]
    if os.geteuid() != 0:
        options.append("userxattr")  # overlayfs in a user namespace cannot use trusted.* attributes
    return _shell("mount", "-t", "overlay", "-o", ",".join(options), "overlay", target)


def _checked(completed: Completed, *, check: bool, log: Path | None) -> Completed:
    """Report a failure; that of a program which makes the namespaces may be the machine's doing."""
    if completed.returncode != 0:
        if _NAMESPACE_PROGRAMS.search(completed.stderr):
            require_namespaces()
        if check:
            raise CommandError(completed, log=log)
    return completed


def _root_refused() -> tuple[str, str, str]:
    return (
        "this machine",
        "root may not mount here, as in a container without CAP_SYS_ADMIN",
        "build on a machine of its own, give the container that capability, or build as an ordinary user",
    )


def _user_refused() -> tuple[str, str, str]:
    """Where it is decided, why an ordinary user gets no namespaces, and the remedy."""
    user = _user_name()
    if shutil.which("newuidmap", path=CLEAN_ENVIRONMENT["PATH"]) is None:
        return "newuidmap", "the program is not installed", "install package uidmap ('make host' does)"
    for kind in ("subuid", "subgid"):
        if (_range(kind) or (0, 0))[1] < _IDS:
            last = _free_id() + _IDS - 1
            return (
                str(_ETC / kind),
                f"user {user} has no range of {_IDS} subordinate ids",
                f"sudo usermod --add-subuids {_free_id()}-{last} --add-subgids {_free_id()}-{last} {user}",
            )
    for name, forbids, allows in (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("user/max_user_namespaces", "0", "15000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        if (_SYSCTL / name).exists() and (_SYSCTL / name).read_text().strip() == forbids:
            setting = f"{name.replace('/', '.')}={allows}"
            return (
                str(_SYSCTL / name),
                f"this machine allows user {user} no user namespaces",
                f"sudo sysctl {setting} (and put '{setting}' in a file of /etc/sysctl.d to keep it), or build as root",
            )
    return (
        "this machine",
        f"user {user} gets no user namespaces",
        "build as root, or where user_namespaces(7) are not forbidden (a container's seccomp filter may do that)",
    )


def _range(kind: str) -> tuple[int, int] | None:
    """First id and number of ids that ``/etc/subuid`` or ``/etc/subgid`` gives the user, as unshare(1) finds them."""
    names = {_user_name(), str(os.geteuid())}
    return next((found[1:] for found in _ranges(kind) if found[0] in names), None)


def _ranges(kind: str) -> list[tuple[str, int, int]]:
    try:
        lines = (_ETC / kind).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    fields = [line.split(":") for line in lines if line.count(":") == 2]
    return [(name, int(first), int(count)) for name, first, count in fields]


def _free_id() -> int:
    taken = [*_ranges("subuid"), *_ranges("subgid")]
    return max([_FIRST_ID, *(first + count for _name, first, count in taken)])


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _shell(*words: str) -> str:
    return shlex.join(words)
