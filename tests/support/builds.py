# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole builds for tests: of a copy of this checkout, in a place of their own, by whom and wherever a test wants."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._image import lock
from ansible_collections.vauban.fleet.plugins.module_utils._image.assets import Store
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox, remove_tree

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "files/lock/trixie.lock.json"
PRODUCT = "gateway"
SETS = ("sdk", "kernel", PRODUCT)
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
ASSETS = _CACHE / "vauban.fleet/assets"
REFERENCE = {
    "build": ROOT / "build/integration",
    "assets": ASSETS,
    "keys": ROOT / "build/integration/keys",
}
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TIMEOUT = 900  # seconds, for one playbook


@dataclass(frozen=True)
class Place:
    """Where a build happens, and how its commands are run.

    :param root: everything of this build lies below; made by the test.
    :param prefix: command that runs the others, for example another user's.
    :param environment: added to that of all places; an empty value takes a variable away.
    """

    root: Path
    build: Path
    assets: Path
    keys: Path
    python: str = sys.executable
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def below(cls, root: Path, **others: Any) -> Place:
        """A place with all its directories below one."""
        return cls(root, **{"build": root / "build", "assets": root / "assets", "keys": root / "keys", **others})

    @property
    def checkout(self) -> Path:
        """The copy of the collection that is used."""
        return self.root / "collections/ansible_collections/vauban/fleet"

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command as the build is run, with nothing of the caller's environment."""
        environment = {
            "HOME": str(self.root),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(self.root / "collections"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environment,
        }
        assignments = [f"{name}={value}" for name, value in environment.items() if value]
        return subprocess.run(
            [*self.prefix, "env", "--ignore-environment", *assignments, *command],
            cwd=cwd or self.checkout,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def play(self, playbook: str, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection for the product."""
        places = {"fleet_build_dir": self.build, "fleet_assets_dir": self.assets, "fleet_keys_dir": self.keys}
        extra = json.dumps({**{name: str(path) for name, path in places.items()}, **variables})
        words = ["-m", "ansible", "playbook", f"vauban.fleet.{playbook}", "-i", "inventories/reference"]
        limit = ["--limit", PRODUCT, "--skip-tags", "disk_image"]
        return self.run(self.python, *words, *limit, "-e", extra, *options)

    def built(self, **variables: Any) -> Built:
        """Build the product, and say where it is."""
        done = self.play("build", **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return Built(self.build / PRODUCT, done.stdout)


@dataclass(frozen=True)
class Built:
    """A built product."""

    directory: Path
    printed: str

    @property
    def release(self) -> Path:
        """Directory of the signed files."""
        return (self.directory / "current").resolve()

    def reproducible(self) -> dict[str, Path]:
        """Every file that has to be the same in each build: all but signatures, and what holds their digests."""
        work = self.directory / "work" / self.release.name
        found = [*self.release.glob("core.*"), self.release / "origin.json", *self.release.glob("*.cdx.json")]
        found += [work / "vmlinuz", work / "system.initrd", work / "installer.initrd", work / "systemd-bootx64.efi"]
        found += sorted(work.glob("*.unsigned"))
        return {path.name: path for path in found}

    def digests(self) -> dict[str, str]:
        """SHA-256 by name of file."""
        return {name: digest(path) for name, path in self.reproducible().items()}

    def provenance(self) -> dict[str, Any]:
        """The provenance statement, without the digests of signed files.

        Nor that of the collection: a release that nothing had to be made anew for names the one that made it.
        """
        statement: dict[str, Any] = json.loads(next(self.release.glob("*.intoto.json")).read_text())
        del statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]
        for subject in statement["subject"]:
            if subject["name"].endswith((".efi", ".raucb")):  # the second holds the first
                subject["digest"] = "signed"
        return statement


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class User:
    """A user whom a test made.

    :param ids: first and last of their subordinate ids.
    """

    name: str
    home: Path
    ids: tuple[int, int]

    def take(self, directory: Path) -> None:
        """Give the user what lies below, except packages, which are links into the cache."""
        entry = pwd.getpwnam(self.name)
        for path in (directory, *directory.rglob("*")):
            if path.is_symlink() or path.is_dir() or path.stat().st_nlink == 1:
                os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)

    def grant(self, *, add: bool) -> None:
        """Give them their subordinate ids, or take them away."""
        ids, verb = "-".join(map(str, self.ids)), "add" if add else "del"
        subprocess.run(["usermod", f"--{verb}-subuids", ids, f"--{verb}-subgids", ids, self.name], check=True)


@contextmanager
def temporary_user() -> Iterator[User]:
    """A user of the system, who has no files and no processes when the block ends."""
    for entry in pwd.getpwall():
        # One that was killed could not clean up after itself.
        killed = re.fullmatch(r"fleet-test-(\d+)", entry.pw_name)
        if killed and not Path(f"/proc/{killed[1]}").exists():
            subprocess.run(["userdel", "--remove", entry.pw_name], check=True, capture_output=True)
    name = f"fleet-test-{os.getpid()}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    try:
        home = Path(pwd.getpwnam(name).pw_dir)
        granted = [line for line in Path("/etc/subuid").read_text().splitlines() if line.startswith(f"{name}:")]
        if granted:
            first, count = map(int, granted[0].split(":")[1:])
        else:
            first, count = _free_ids(), 65536
        user = User(name, home, (first, first + count - 1))
        if not granted:
            user.grant(add=True)
        yield user
    finally:
        # Its home holds files of subordinate ids; root removes them all the same.
        subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)


def odd_place(user: User) -> Place:
    """A place of this user where everything about the surroundings that must not reach an image is odd.

    There is no network, either. Python's packages may lie where the user cannot look: they are shown at another path.
    """
    outer = 'mount --bind "$1" "$2"; hostname somewhere-else; shift 2; exec "$@"'
    inner = 'umask 077; exec "$@"'
    venv = user.home / "venv"
    venv.mkdir()
    return Place.below(
        user.home,
        python=str(venv / "bin/python"),
        prefix=(
            *("unshare", "--mount", "--uts", "--net", "--propagation", "private", "--"),
            *("/bin/sh", "-euc", outer, "sh", sys.prefix, str(venv)),
            *("runuser", "--user", user.name, "--", "/bin/sh", "-euc", inner, "sh"),
        ),
        environment={"TZ": "Pacific/Kiritimati", "LANGUAGE": "tr"},
    )


def require_tools() -> None:
    """Skip the test on a machine that cannot build."""
    missing = [program for program in ("bwrap", "mmdebstrap", "git") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run 'make host'")


def require_users() -> None:
    """Skip the test where no user with namespaces can be made."""
    require_tools()
    missing = [program for program in ("useradd", "newuidmap", "runuser") if shutil.which(program) is None]
    if os.geteuid() != 0:
        pytest.skip("makes a user: run as root")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run 'make host'")
    probe = ["runuser", "--user", "nobody", "--", "unshare", "--user", "--map-root-user", "true"]
    refused = subprocess.run(probe, capture_output=True, text=True, check=False).stderr
    if refused:
        pytest.skip(f"this machine gives ordinary users no user namespaces: {refused.strip()}")


def share_trees() -> None:
    """Let the reference use the SDK and the trees of `make build`: they are named after what is in them."""
    for name in ("sdk", "trees"):
        (ROOT / "build" / name).mkdir(parents=True, exist_ok=True)
        REFERENCE["build"].mkdir(parents=True, exist_ok=True)
        if not (REFERENCE["build"] / name).is_symlink():
            (REFERENCE["build"] / name).symlink_to(f"../{name}")


def copy_checkout(place: Place, *, private: bool = False) -> None:
    """Give a place a copy of the checkout as it is now, uncommitted files included, with a git index of its own.

    :param private: as if it had been cloned with umask 077.
    """
    shutil.copytree(_snapshot(), place.checkout, symlinks=True, copy_function=_copy_without_time)
    if private:
        for path in (path for path in place.checkout.rglob("*") if not path.is_symlink()):
            path.chmod(path.stat().st_mode & 0o700)
    git = ["git", "-c", "advice.defaultBranchName=false", "-C", str(place.checkout)]
    for command in (["init"], ["add", "--all"]):
        subprocess.run([*git, *command], check=True, capture_output=True)


@cache
def _snapshot() -> Path:
    """A copy that stays the same while tests run, even if somebody goes on working in the checkout."""
    snapshot = Path(tempfile.mkdtemp(prefix="fleet-checkout-"))
    atexit.register(shutil.rmtree, snapshot)
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if os.path.lexists(ROOT / name):
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, snapshot / name, follow_symlinks=False)
    return snapshot


def _copy_without_time(source: str, dest: str) -> str:
    return str(shutil.copy(source, dest, follow_symlinks=False))


def link_assets(place: Place, sets: Sequence[str] = SETS) -> None:
    """Give a place the packages of these sets and nothing else; no file is copied if a link will do."""
    locked, here, there = lock.read(LOCK), Store(ASSETS), Store(place.assets)
    for package in {package for name in sets for package in locked.of_set(name)}:
        dest = there.path(package.sha256)
        dest.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(here.path(package.sha256), dest)
        except OSError:
            shutil.copy(here.path(package.sha256), dest)


def extract(sdk: Path, image: Path, dest: Path) -> Path:
    """Unpack a core image with the SDK's tools."""
    (dest / "mounts").mkdir(parents=True)
    (dest / "out").mkdir()
    binds = [Bind(image, "/run/image"), Bind(dest / "out", "/run/out", writable=True)]
    command = ["fsck.erofs", "--extract=/run/out/tree", "--preserve", "/run/image"]
    Sandbox(sdk.resolve(), dest / "mounts").run(command, binds=binds, privileged=True)
    return dest / "out/tree"


def extract_initrd(sdk: Path, initrd: Path, dest: Path) -> Path:
    """Unpack an initrd with the SDK's tools."""
    (dest / "mounts").mkdir(parents=True)
    (dest / "out").mkdir()
    binds = [Bind(initrd, "/run/initrd"), Bind(dest / "out", "/run/out", writable=True)]
    unpack = "zstd -dcq < /run/initrd | cpio --extract --quiet"
    Sandbox(sdk.resolve(), dest / "mounts").run(
        ["/bin/sh", "-euc", unpack], binds=binds, privileged=True, cwd="/run/out"
    )
    return dest / "out"


def differences(first: Built, second: Built, sdk: Path, scratch: Path) -> str:
    """What differs between two builds, for a person to read; empty if nothing does."""
    one, other = first.reproducible(), second.reproducible()
    lines = [f"only in one build: {name}" for name in sorted(set(one) ^ set(other))]
    for name in sorted(set(one) & set(other)):
        if digest(one[name]) != digest(other[name]):
            lines += [f"{name}:", *_explain(one[name], other[name], sdk, scratch / name)]
    return "\n".join(lines)


def _free_ids() -> int:
    lines = [line.split(":") for line in Path("/etc/subuid").read_text().splitlines() if line.count(":") == 2]
    return max([100_000, *(int(first) + int(count) for _name, first, count in lines)])


def _explain(one: Path, other: Path, sdk: Path, scratch: Path) -> list[str]:
    if diffoscope := shutil.which("diffoscope"):
        command = [diffoscope, "--max-report-size", "20000", one, other]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        return shown.stdout.splitlines()[:200]
    if one.name.startswith("core.erofs"):
        trees = [extract(sdk, path, scratch / str(number)) for number, path in enumerate((one, other))]
        entries = [dict(_entries(tree)) for tree in trees]
        paths = sorted({*entries[0], *entries[1]})
        shown = [path for path in paths if entries[0].get(path) != entries[1].get(path)]
        lines = [f"  {path}: {entries[0].get(path)} | {entries[1].get(path)}" for path in shown[:20]]
        remove_tree(scratch)
        return lines
    first, second = one.read_bytes(), other.read_bytes()
    pairs = enumerate(zip(first, second, strict=False))
    place = next((number for number, (a, b) in pairs if a != b), min(len(first), len(second)))
    return [f"  {len(first)} | {len(second)} bytes, first difference at {place}"]


def _entries(tree: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for path in (tree, *sorted(tree.rglob("*"))):
        status = path.lstat()
        content: str | None = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = digest(path)
        yield str(path.relative_to(tree)), (oct(status.st_mode), status.st_uid, status.st_gid, content)
