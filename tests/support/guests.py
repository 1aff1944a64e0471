#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Test guests: a root tree and the layers that roles wrote over it, made bootable in seconds.

No Secure Boot, no dm-verity, no state volume: the kernel is started directly (qemu(1), -kernel), an initrd of a few
files mounts the tree read-only, and the writable places are overlays in memory. One network card belongs to the
harness; it lies in a network namespace of its own with an sshd that only test guests have, so that firewall,
addresses and sshd of the system under test are its own.

usage: guests.py --sdk SDK --base TREE [--layer DIRECTORY] --dest DIRECTORY
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build/collections"))

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import replacing_file
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._image.core import make_file_system
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, Sandbox

GUEST = Path(__file__).resolve().parent / "guest"
USER = "tester"
# Of the harness's card; each guest has a network of its own behind it.
MANAGEMENT_MAC = "52:54:00:00:00:01"
COMMAND_LINE = (
    f"console=ttyS0 panic=-1 no_timer_check rdinit=/usr/lib/guest/init guest.mac={MANAGEMENT_MAC}"
    " guest.writable=/var,/home"
)
EPOCH = 1795305600  # of files in images; its value does not matter
# Names in the directory of a guest's image.
ROOT_IMAGE, KERNEL, INITRD, CLIENT_KEY, KNOWN_HOSTS = "root.erofs", "vmlinuz", "initrd", "client_key", "known_hosts"


def make_image(sdk: Path, base: Path, dest: Path, *, layer: Path | None = None) -> bool:
    """Make kernel, initrd, root image and ssh key of a guest, as far as they are not there already.

    :param base: a product's tree, as ``root_tree`` makes it.
    :param layer: of connection ``rootfs``, with what roles changed in it.
    :returns: whether anything was made.
    """
    dest.mkdir(parents=True, exist_ok=True)
    (dest / "mounts").mkdir(exist_ok=True)
    sandbox = Sandbox(sdk.resolve(), dest / "mounts")
    changed = _make_initrd(sandbox, base, dest)
    return _make_root(sandbox, base, dest, layer) or changed


def _make_initrd(sandbox: Sandbox, base: Path, dest: Path) -> bool:
    inputs = {"base": str(base.resolve()), "files": _digest.of_tree(GUEST / "initrd"), "list": _list_digest()}
    stage = Stage(dest / INITRD, inputs, (dest / KERNEL,))
    if stage.why_stale() is None:
        return False
    stage.begin()
    (kernel,) = (base / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, dest / KERNEL)
    with tempfile.TemporaryDirectory(prefix=".initrd.", dir=dest) as out:
        inside.call(
            sandbox,
            "_image.initrd.build",
            {
                "contents": [yaml.safe_load((GUEST / "initrd.yml").read_text())],
                "overlay": ["/run/overlay"],
                "modules": [],
                "texts": {},
                "compression_level": 1,
            },
            binds=[Bind(Path(out), "/run/out", writable=True), Bind(GUEST / "initrd", "/run/overlay")],
            layers={"/run/tree": Layers((base,))},
            epoch=EPOCH,
            log=dest / "initrd.log",
        )
        (Path(out) / "initrd").rename(stage.output)
    stage.finish({})
    return True


def _list_digest() -> str:
    return _digest.of_file(GUEST / "initrd.yml")


def _make_root(sandbox: Sandbox, base: Path, dest: Path, layer: Path | None) -> bool:
    upper = layer / "upper" if layer is not None else None
    if upper is not None and not upper.is_dir():
        raise FleetError("no such layer", where=str(upper), remedy="run 'molecule converge' first")
    content = "none"
    if upper is not None:
        binds = [Bind(upper, "/run/layer")]
        content = inside.call(sandbox, "_image.layer.content", {}, binds=binds, epoch=EPOCH, log=dest / "layer.log")
    inputs = {"base": str(base.resolve()), "layer": content, "harness": _digest.of_tree(GUEST / "root")}
    stage = Stage(dest / ROOT_IMAGE, inputs, (dest / CLIENT_KEY, dest / KNOWN_HOSTS))
    if stage.why_stale() is None:
        return False
    stage.begin()
    with tempfile.TemporaryDirectory(prefix=".harness.", dir=dest) as name:
        harness = Path(name)
        _write_harness(harness, (upper, base), dest)
        lower = (harness, *([upper] if upper is not None else []), base)
        log = dest / "root.log"
        make_file_system(sandbox, Layers(lower), stage.output, root_format="erofs", epoch=EPOCH, log=log)
    stage.finish({})
    return True


def _write_harness(harness: Path, trees: tuple[Path | None, ...], dest: Path) -> None:
    """The topmost layer: the harness's sshd, its keys, and a user without a locked password."""
    harness.chmod(0o755)
    shutil.copytree(GUEST / "root", harness, symlinks=True, dirs_exist_ok=True)
    host, client = new_key(), new_key()
    write(harness / "usr/lib/guest/host_key", host.private, 0o600)
    write(harness / "usr/lib/guest/authorized_keys", client.public + b"\n", 0o644)
    write(dest / CLIENT_KEY, client.private, 0o600)
    write(dest / KNOWN_HOSTS, b"* " + host.public + b"\n", 0o644)
    # root has neither a password that sshd would accept as unlocked nor a shell, and shall keep it that way.
    for name, entry, mode in (
        ("etc/passwd", f"{USER}:x:0:0:test harness:/root:/bin/sh\n", 0o644),
        ("etc/shadow", f"{USER}:*:20000::::::\n", 0o640),
    ):
        (source,) = [tree / name for tree in trees if tree is not None and (tree / name).exists()][:1]
        write(harness / name, source.read_bytes() + entry.encode(), mode)
        os.chown(harness / name, source.stat().st_uid, source.stat().st_gid)


@dataclass(frozen=True)
class Key:
    """An ssh key pair, as OpenSSH writes it to files."""

    private: bytes
    public: bytes


def new_key() -> Key:
    """A key that only test machines know."""
    key = Ed25519PrivateKey.generate()
    encoding = serialization.Encoding
    return Key(
        key.private_bytes(encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()),
        key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
    )


def write(path: Path, content: bytes, mode: int) -> None:
    """Give a file this content and mode."""
    with replacing_file(path, mode=mode) as temporary:
        temporary.write_bytes(content)


def main() -> int:
    """Make what the command line asks for; print whether anything was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("sdk", "base", "dest"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--layer", type=Path)
    arguments = parser.parse_args()
    return told(lambda: make_image(arguments.sdk, arguments.base, arguments.dest, layer=arguments.layer))


def told(make: Callable[[], bool]) -> int:
    """Make an image; print whether anything was made, or what went wrong. Returns the exit status."""
    try:
        changed = make()
    except FleetError as exc:
        print(exc, file=sys.stderr)
        return 1
    print("made" if changed else "unchanged")
    return 0


if __name__ == "__main__":
    sys.exit(main())
