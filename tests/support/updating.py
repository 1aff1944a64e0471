# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine on a segment with a server that it updates itself from."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boot_files
import hosts
from certificates import P256, Authority, ec_key, pem
from hosts import Host
from machines import copy_with_raw_disk
from playing import ansible_playbook
from relay import relay
from sdk import unpacked
from shell import PROMPT, Shell

from ansible_collections.vauban.fleet.plugins.module_utils import _release_store
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._update import channel, patch
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import segment_address
from ansible_collections.vauban.fleet.plugins.module_utils._vm.serial import DEFAULT_FAILURES
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec, SegmentNic

ROOT = Path(__file__).resolve().parents[2]
NAME, SERVER, CLIENT = "updates.example.org", "10.9.0.1/24", "10.9.0.100/24"
FIRMWARE = r"BdsDxe: starting"
# Beside those that the firewall of the image lets through; its network is nobody's yet.
CONNECT = f"nft flush ruleset; ip link set {{card}} up; ip address add {CLIENT} dev {{card}}"
_PATCH = ROOT / "roles/update_client/files/root/usr/lib/vauban/update-patch"
LATE = 1800  # seconds, of an emulated machine that unpacks, hashes and writes


class Server:
    """nginx of role boot_server in a network namespace, on the segment of the machine."""

    def __init__(
        self, host: Host, authority: Authority, segment: tuple[str, int], sandbox: Sandbox, work: Path
    ) -> None:
        self.host, self.authority, self.segment, self._sandbox, self._work = host, authority, segment, sandbox, work

    def offer(self, release: Path, keys: ProductKeys, *, base: Path | None = None) -> str:
        """Publish a release, let channel stable offer it; return its version.

        :param base: another release, from which a patch is to lead to this one.
        """
        root = self.host.root / "srv/vauban"
        manifest = channel.check_release(self._sandbox, release, keys.trust("release"))
        _release_store.Store(root / "releases").publish(_release_store.read(release), release)
        valid = dt.timedelta(days=30)
        now, number = dt.datetime.now(dt.UTC), keys.revocation_list().number
        offer = channel.offer_of(manifest, release, "stable", revocations=number, now=now, valid=valid)
        if base is not None:
            offer = replace(offer, patches=(self._patch(base, release, root / f"update/v1/{offer.product}"),))
        signed = self._work / "stable.p7m"
        channel.write(self._sandbox, offer, signed, keys.reference("publish"), keys.public("publish"), work=self._work)
        dest = root / f"update/v1/{offer.product}" / signed.name
        dest.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(keys.revocations, dest.parent)
        shutil.copy(signed, dest)
        return offer.version

    def _patch(self, base: Path, release: Path, place: Path) -> patch.Patch:
        """What leads from one release to another, on the server."""
        made = patch.make(self._sandbox, base, release, self._work / "patches", program=_PATCH, work=self._work)
        assert made is not None
        dest = place / release.name
        dest.mkdir(parents=True)
        shutil.copy(self._work / "patches" / made.name, dest)
        return made


@contextmanager
def serving(sandbox: Sandbox, directory: Path) -> Iterator[Server]:
    """The server, which has nothing to offer yet."""
    hosts.require()
    tree = unpacked(sandbox.sdk)
    files = directory / "files"
    boot_files.lay_down(files, boot_server_name=NAME, boot_server_enrolment_socket="")
    authority = Authority.root("Example Root", ec_key(P256))
    own = authority.issue(NAME, ec_key(P256))
    group, port = segment_address(hashlib.sha256(str(directory.resolve()).encode()).hexdigest())
    with ExitStack() as stack:
        host = stack.enter_context(hosts.host("updates", sandbox.sdk, (files, tree), directory / "host"))
        stack.enter_context(relay(Path(f"/proc/{host.pid}/ns/net"), "lan", group, port))
        host("ip", "address", "add", SERVER, "dev", "lan")
        host.write("/var/lib/vauban/https/certificate.pem", own.pem.decode())
        host.write("/var/lib/vauban/https/key.pem", pem(own.key).decode(), mode="0600")
        host("mkdir", "-p", "/run/nginx", "/srv/vauban/releases")
        stack.enter_context(host.running("/usr/sbin/nginx", "-g", "user root;", log=directory / "nginx.log"))
        yield Server(host, authority, (group, port), sandbox, directory)


def on_segment(release: Path, server: Server, directory: Path) -> MachineSpec:
    """A copy of the built machine on the server's segment, which starts again when it is told to."""
    directory.mkdir()
    group, port = server.segment
    return replace(copy_with_raw_disk(release, directory), nics=(SegmentNic(group, port),), reboots=True)


def build(version: str, product: str = "gateway", **variables: Any) -> Path:
    """An instrumented release of this version. Made here, unless it is there already."""
    variables = {"product_version": version, "product_instrumentation": ["serial_root_shell"], **variables}
    words = ["playbooks/build.yml", "-i", "inventories/reference", "--limit", product, "--skip-tags", "disk_image"]
    done = ansible_playbook(ROOT, *words, "-e", json.dumps(variables))
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "build" / product / f"{version}+instrumented"


def settle(shell: Shell) -> None:
    """Wait until the machine has started all that it starts."""
    shell("while systemctl list-jobs --no-legend | grep -q .; do sleep 2; done", timeout=LATE)


def ask_for_updates(shell: Shell, server: Server) -> None:
    """Give the machine a network, and the settings that its site would bring."""
    settle(shell)
    card = shell(
        "ls /sys/class/net | grep -v '^lo$' | while read c; do [ -e /sys/class/net/$c/device ] && echo $c; done"
    )
    shell(CONNECT.format(card=card.split()[0]))
    shell("mkdir /run/settings && cp /etc/vauban/update/* /run/settings/")
    for name, text in {
        "url": f"https://{NAME}",
        "resolve": f"{NAME}:443:{SERVER.partition('/')[0]}",
        "authority.pem": server.authority.pem.decode(),
    }.items():
        shell(f"printf '%s\\n' '{text.strip()}' > /run/settings/{name}")
    shell("chmod 755 /run/settings; chmod 644 /run/settings/*; mount --bind /run/settings /etc/vauban/update")


def update(shell: Shell, tries: int = 1) -> str:
    """Let the machine ask, and wait until it has installed what it was offered; return its journal.

    :param tries: how often it asks, until it gets an answer that it believes.
    """
    again = f"for i in $(seq {tries}); do systemctl start update-fetch.service && break; sleep 5; done; true"
    shell(again, timeout=LATE)
    # Started by the first when that has ended well.
    shell("for i in 1 2 3 4 5; do systemctl is-active -q update-install.service && break; sleep 1; done; "
          "while systemctl show -P ActiveState update-install.service | grep -q activating; do sleep 2; done",
          timeout=LATE)  # fmt: skip
    return shell("journalctl --boot --no-pager --output=cat --unit=update-fetch --unit=update-install")


def restart(machine: Machine, *, panics: bool = False) -> Shell:
    """Start again; the shell of whatever came up.

    :param panics: whether a version that fails may be started before.
    """
    machine.serial.send("systemctl reboot\n")
    return started(machine, panics=panics)


def started(machine: Machine, *, panics: bool = False) -> Shell:
    failures = () if panics else DEFAULT_FAILURES
    machine.serial.wait_for(FIRMWARE, timeout=LATE)
    machine.serial.wait_for(PROMPT, timeout=LATE, fail_on=failures)
    return Shell(machine)


def version_of(shell: Shell) -> str:
    return shell(". /usr/lib/os-release; echo $IMAGE_VERSION").strip()


def entries(shell: Shell) -> set[str]:
    return set(shell("ls /efi/EFI/Linux").split())


def start_once(shell: Shell, entry: str) -> None:
    """Let the boot loader start an entry that is not the default (systemd-boot(7), LoaderEntryOneShot)."""
    value = b"\7\0\0\0" + f"{entry}\0".encode("utf-16-le")
    octal = "".join(f"\\{byte:03o}" for byte in value)
    shell(f"printf '{octal}' > /sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
