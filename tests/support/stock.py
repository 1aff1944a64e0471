#!/usr/bin/env python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stock Debian 13, installed from this machine's own apt mirrors: what roles find on a machine that is not ours.

usage: stock.py --sdk SDK --dest DIRECTORY [--package NAME...]

Writes root.raw (ext4), vmlinuz, initrd, client_key and known_hosts, unless they are there for the same packages.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build/collections"))

from guests import CLIENT_KEY, INITRD, KERNEL, KNOWN_HOSTS, new_key, told, write

from ansible_collections.vauban.fleet.plugins.module_utils._image import apt
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox, remove_tree, run_with_ids

CODENAME = "trixie"
ROOT_IMAGE = "root.raw"
SIZE = "6G"  # sparse; a provisioning server has releases of several products
# Beside what is essential: an init, a kernel, and what Ansible needs to configure it.
PACKAGES = ("dbus", "iproute2", "linux-image-cloud-amd64", "openssh-server", "python3", "systemd-sysv", "udev")
FILES = {
    "etc/fstab": "/dev/vda / ext4 rw,discard 0 1\n",
    "etc/hostname": "stock\n",
    "etc/systemd/network/90-dhcp.network": "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\n",
}


def bootstrap(tree: Path, *, variant: str, packages: Sequence[str]) -> None:
    """Install Debian into a directory that is not there yet (mmdebstrap(1))."""
    mirrors, sources = apt.host_mirrors(), tree.with_name(f"{tree.name}.list")
    lines = [f"deb [signed-by={apt.KEYRING}] {mirrors[s.archive]} {s.name} main\n" for s in apt.suites(CODENAME)]
    sources.write_text("".join(lines))
    options = ["--mode=root", f"--variant={variant}", "--format=directory", f"--include={','.join(packages)}"]
    run_with_ids(["mmdebstrap", "--quiet", *options, "", str(tree), str(sources)])


def lay_down(tree: Path, files: dict[str, str]) -> None:
    """Write files into the tree."""
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)


def make_image(sdk: Path, dest: Path, packages: Sequence[str]) -> bool:
    """Make the image, unless it is there; return whether it was made.

    :param packages: beside what every machine has.
    """
    packages = (*PACKAGES, *packages)
    inputs = {"packages": " ".join(packages), "files": repr(sorted(FILES.items())), "size": SIZE}
    others = [dest / name for name in (KERNEL, INITRD, CLIENT_KEY, KNOWN_HOSTS)]
    stage = Stage(dest / ROOT_IMAGE, inputs, others)
    if stage.why_stale() is None:
        return False
    (dest / "mounts").mkdir(parents=True, exist_ok=True)
    stage.begin()
    tree, sandbox = dest / "tree", Sandbox(sdk.resolve(), dest / "mounts")
    remove_tree(tree)
    bootstrap(tree, variant="apt", packages=packages)
    lay_down(tree, FILES)
    for name, source in ((KERNEL, "vmlinuz"), (INITRD, "initrd.img")):
        shutil.copyfile((tree / source).resolve(), dest / name)
    host, client = new_key(), new_key()
    for path in (tree / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    write(tree / "etc/ssh/ssh_host_ed25519_key", host.private, 0o600)
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    write(tree / "root/.ssh/authorized_keys", client.public + b"\n", 0o600)
    write(dest / CLIENT_KEY, client.private, 0o600)
    write(dest / KNOWN_HOSTS, b"* " + host.public + b"\n", 0o644)
    links = tree / "etc/systemd/system/multi-user.target.wants"
    links.mkdir(parents=True, exist_ok=True)
    (links / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")
    binds = [Bind(tree, "/run/tree"), Bind(dest, "/run/out", writable=True)]
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", "/run/tree", f"/run/out/{ROOT_IMAGE}", SIZE]
    sandbox.run(command, binds=binds, privileged=True)
    remove_tree(tree)
    stage.finish({})
    return True


def main() -> int:
    """Make the image that the command line asks for; print whether anything was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("sdk", "dest"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--package", action="append", default=[])
    arguments = parser.parse_args()
    return told(lambda: make_image(arguments.sdk, arguments.dest, arguments.package))


if __name__ == "__main__":
    sys.exit(main())
