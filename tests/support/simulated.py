# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine that installs releases without a kernel that has device-mapper.

The programs are the real ones, of role update_client. Volumes are files; LVM's commands are some lines of shell, and so
is RAUC, which could not mount a bundle.
"""

from __future__ import annotations

import random
import shutil

from hosts import Host
from patching import Pair
from updates import PRODUCT, write_channel

from ansible_collections.vauban.fleet.plugins.module_utils._update.patch import Patch

VOLUME = 4 * 1024 * 1024  # bytes: more than a core has
OFFER, REMEMBERED = "var/lib/update/offer", "var/lib/update-install"
OLD_ENTRY, NEW_ENTRY = f"{PRODUCT}_1.0.0.efi", f"{PRODUCT}_1.1.0+3-0.efi"
# lvm(8) as far as update-install asks it: volumes are files in /dev/fleet, the group is full.
LVM = """\
case $1 in
    lvs) cd /dev/fleet; for each in *; do echo "  $each $(stat -c %s "$each")"; done ;;
    vgs) echo 0 ;;
    lvrename) mv "/dev/fleet/$3" "/dev/fleet/$4" ;;
    lvchange) ;;
    *) exit 1 ;;
esac
"""
# rauc(1) in the same way: it writes the slot that does not run, and calls the backend of the boot loader.
RAUC = """\
for bundle; do :; done
case " $* " in
    *' info '*) printf '{"update": {"version": "%s"}}' "$(tar -xOf "$bundle" version)" ;;
    *' service '*) exec sleep 60 ;;
    *' install '*)
        mkdir -p mounts/bundle
        tar -xf "$bundle" -C mounts/bundle uki.efi
        device=$(sed -n '/^.slot.core.1/,$s/^device=//p' system.conf)
        tar -xOf "$bundle" core | dd "of=$device" bs=64k conv=notrunc,fsync status=none
        /bin/sh /usr/lib/vauban/update-boot set-primary "$(tar -xOf "$bundle" version)"
        ;;
esac
"""
TOOLS = {
    "lvm": LVM,
    "rauc": RAUC,
    "busctl": "",
    "blockdev": "",
    "udevadm": "",
}
# In memory, as on a machine: what a patch may take there has an end.
INSTALL = """
export STATE_DIRECTORY=/var/lib/update-install RUNTIME_DIRECTORY=/run/update-install
umount --quiet /run/update-install || true
mkdir -p /run/update-install
mount -t tmpfs -o size=8m none /run/update-install
exec sh /usr/lib/vauban/update-install
"""


class Simulated:
    """A machine that runs the older release, with what update-fetch has left for it."""

    def __init__(self, host: Host, pair: Pair) -> None:
        """:param host: with the programs of role update_client, and keys of the pair (:func:`asking.prepare`)."""
        self.host, self.pair = host, pair
        self.before = random.Random(3).randbytes(VOLUME)  # of the version before, as its volume has it
        for name, script in TOOLS.items():
            host.write(f"/usr/local/bin/{name}", f"#!/bin/sh\n{script}", mode="0755")
        host.write("/run/command_line", "ro systemd.verity_root_data=/dev/fleet/core_1.0.0\n")
        host("mount", "--bind", "/run/command_line", "/proc/cmdline")

    def reset(self) -> None:
        """As after an installation of the older release, which has been called good."""
        script = "rm -rf /dev/fleet /efi /var/lib/update /var/lib/update-install /run/asked"
        self.host("sh", "-euc", f"{script}; mkdir -p /dev/fleet /efi/EFI/Linux /efi/EFI/systemd /efi/EFI/BOOT /{OFFER}")
        (self.host.root / "dev/fleet/core_1.0.0").write_bytes((self.pair.old / "core").read_bytes().ljust(VOLUME, b"o"))
        (self.host.root / "dev/fleet/core_0.9.0").write_bytes(self.before)
        (self.host.root / "efi/EFI/Linux" / OLD_ENTRY).write_bytes((self.pair.old / "uki").read_bytes())
        (self.host.root / f"efi/EFI/Linux/{PRODUCT}_0.9.0.efi").write_bytes(b"the one before")
        self.host.write(f"/{REMEMBERED}/core", f"{self.pair.root_hash(self.pair.old)}\n")

    def offer(self, made: Patch, content: bytes) -> None:
        """What a channel names, and the file that came."""
        offer, new = self.host.root / OFFER, self.pair.new
        channel = self.pair.directory / "stable.p7m"
        write_channel(channel, self.pair.keys.directory, new, patches=[made.as_dict()])
        shutil.move(channel, offer / "channel.p7m")
        for name in ("manifest.json", "manifest.json.p7s"):
            shutil.copy(new / name, offer / name)
        shutil.copy(new / "boot_loader", offer / "boot-loader.efi")
        (offer / "patch").write_bytes(content)

    def install(self) -> tuple[int, str]:
        """Status, and what the journal would say."""
        done = self.host.ask("sh", "-euc", INSTALL)
        return done.returncode, done.stdout + done.stderr

    def entries(self) -> set[str]:
        return {path.name for path in (self.host.root / "efi/EFI/Linux").iterdir()}

    def read(self, path: str) -> bytes:
        file = self.host.root / path
        return file.read_bytes() if file.is_file() else b""

    def running_is_untouched(self) -> bool:
        core, uki = (self.pair.old / name for name in ("core", "uki"))
        same = self.read("dev/fleet/core_1.0.0") == core.read_bytes().ljust(VOLUME, b"o")
        return same and self.read(f"efi/EFI/Linux/{OLD_ENTRY}") == uki.read_bytes()
