# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine updates itself from a server on its segment: to a good version, and to one that does not come up."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import hosts
import pytest
import rendering
from certificates import P256, Authority, ec_key, pem
from hosts import Host
from machines import Boot, copy_with_raw_disk, reach, read_manifest
from playing import ansible_playbook
from relay import relay
from shell import PROMPT, Shell

from ansible_collections.vauban.fleet.plugins.module_utils import _release_store
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._update import channel
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.options import segment_address
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import SegmentNic
from ansible_collections.vauban.fleet.plugins.plugin_utils import _boot_server

ROOT = Path(__file__).resolve().parents[2]
NAME, SERVER, CLIENT = "updates.example.org", "10.9.0.1/24", "10.9.0.100/24"
GOOD, BROKEN = "0.2.0", "0.3.0"
FIRMWARE = r"BdsDxe: starting"
# Beside those that the firewall of the image lets through; its network is nobody's yet.
CONNECT = f"nft flush ruleset; ip link set {{card}} up; ip address add {CLIENT} dev {{card}}"
LATE = 1800  # seconds, of an emulated machine that unpacks, hashes and writes


class Server:
    """nginx of role boot_server in a network namespace, on the segment of the machine."""

    def __init__(
        self, host: Host, authority: Authority, segment: tuple[str, int], sandbox: Sandbox, work: Path
    ) -> None:
        self.host, self.authority, self.segment, self._sandbox, self._work = host, authority, segment, sandbox, work

    def offer(self, release: Path, keys: ProductKeys) -> str:
        """Publish a release, let channel stable offer it; return its version."""
        root = self.host.root / "srv/vauban"
        manifest = channel.check_release(self._sandbox, release, keys.public("release"))
        _release_store.Store(root / "releases").publish(_release_store.read(release), release)
        valid = dt.timedelta(days=30)
        offer = channel.offer_of(manifest, release, "stable", now=dt.datetime.now(dt.UTC), valid=valid)
        dest = root / f"update/v1/{offer.product}/stable.p7m"
        channel.write(self._sandbox, offer, dest, keys.reference("publish"), keys.public("publish"), work=self._work)
        return offer.version


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    hosts.require()
    directory = tmp_path_factory.mktemp("server")
    tree = sandbox.sdk if sandbox.sdk.is_dir() else sandbox.sdk.parent / "root"
    if not tree.is_dir():
        pytest.skip(f"no unpacked SDK at {tree}: run 'make build', or set FLEET_SDK")
    files = directory / "files"
    settings = {**rendering.defaults("boot_server"), "boot_server_name": NAME, "boot_server_enrolment_socket": ""}
    asked = {name: settings[f"boot_server_{name}"] for name in _boot_server.Settings.model_fields}
    rendering.lay_down("boot_server", files, __boot_server_plan=_boot_server.plan(asked), **settings)
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


def build(version: str, **variables: Any) -> Path:
    """An instrumented release of this version. Made here, unless it is there already."""
    variables = {"product_version": version, "product_instrumentation": ["serial_root_shell"], **variables}
    words = ["playbooks/build.yml", "-i", "inventories/reference", "--limit", "gateway", "--skip-tags", "disk_image"]
    done = ansible_playbook(ROOT, *words, "-e", json.dumps(variables))
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "build/gateway" / f"{version}+instrumented"


def ask_for_updates(shell: Shell, server: Server) -> None:
    """Give the machine a network, and the settings that its site would bring."""
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


def update(shell: Shell) -> str:
    """Let the machine ask, and wait until it has installed what it was offered; return its journal."""
    shell("systemctl start update-fetch.service", timeout=LATE)
    # Started by the first when that has ended.
    shell("for i in 1 2 3 4 5; do systemctl is-active -q update-install.service && break; sleep 1; done; "
          "while systemctl show -P ActiveState update-install.service | grep -q activating; do sleep 2; done",
          timeout=LATE)  # fmt: skip
    return shell("journalctl --boot --no-pager --output=cat --unit=update-fetch --unit=update-install")


def restart(machine: Machine) -> Shell:
    """Start again; the shell of whatever came up. A version that fails is started more than once."""
    machine.serial.send("systemctl reboot\n")
    return started(machine)


def started(machine: Machine) -> Shell:
    machine.serial.wait_for(FIRMWARE, timeout=LATE)
    machine.serial.wait_for(PROMPT, timeout=LATE)
    return Shell(machine)


def version_of(shell: Shell) -> str:
    return shell(". /usr/lib/os-release; echo $IMAGE_VERSION").strip()


def entries(shell: Shell) -> set[str]:
    return set(shell("ls /efi/EFI/Linux").split())


@pytest.fixture
def machine(instrumented_release: Path, server: Server, boot: Boot, tmp_path: Path) -> Iterator[Machine]:
    """A copy of the built machine, on the segment, which starts again when it is told to."""
    (tmp_path / "machine").mkdir()
    spec = copy_with_raw_disk(instrumented_release, tmp_path / "machine")
    group, port = server.segment
    with boot(replace(spec, nics=(SegmentNic(group, port),), reboots=True)) as running:
        yield running


def test_machine_updates_itself_and_keeps_the_version_before(
    machine: Machine, server: Server, keys: ProductKeys, instrumented_release: Path
) -> None:
    old = read_manifest(instrumented_release)["version"]
    new = server.offer(build(GOOD), keys)
    reach(machine, PROMPT)
    shell = Shell(machine)
    shell("echo kept > /var/lib/marker; touch /efi/EFI/Linux/recovery.efi")
    ask_for_updates(shell, server)
    said = update(shell)
    assert f"installed: {new}; it runs after the next start, {old} stays" in said, said
    assert entries(shell) == {f"gateway_{old}.efi", f"gateway_{new}+3-0.efi", "recovery.efi"}
    shell("rm /efi/EFI/Linux/recovery.efi")  # no UKI that systemd-boot could start
    shell = restart(machine)
    assert version_of(shell) == new
    assert shell("cat /var/lib/marker").strip() == "kept"
    shell("while systemctl list-jobs --no-legend | grep -q .; do sleep 2; done", timeout=LATE)
    assert entries(shell) == {f"gateway_{old}.efi", f"gateway_{new}.efi"}
    said = shell("journalctl --boot --no-pager --output=cat --unit=update-health")
    assert f"version {new} is good" in said
    volumes = shell("lvm lvs --noheadings --options lv_name fleet").split()
    assert {f"core_{old}", f"core_{new}"} <= set(volumes)


def test_version_that_does_not_come_up_is_left_again(
    machine: Machine, server: Server, keys: ProductKeys, instrumented_release: Path
) -> None:
    old = read_manifest(instrumented_release)["version"]
    arguments = ["init=/usr/bin/false"]  # the kernel panics when its first process ends
    broken = server.offer(build(BROKEN, product_kernel_arguments=arguments), keys)
    reach(machine, PROMPT)
    shell = Shell(machine)
    ask_for_updates(shell, server)
    said = update(shell)
    assert f"installed: {broken}" in said, said
    shell = restart(machine)
    assert len(re.findall("Kernel panic", machine.serial.text)) == 3
    assert version_of(shell) == old
    shell("while systemctl list-jobs --no-legend | grep -q .; do sleep 2; done", timeout=LATE)
    assert entries(shell) == {f"gateway_{old}.efi", f"gateway_{broken}+0-3.efi"}
    said = shell("journalctl --boot --no-pager --output=cat --unit=update-health")
    assert f"version {broken} did not start in 3 tries; version {old} runs again" in said
    ask_for_updates(shell, server)
    shell("systemctl start update-fetch.service", timeout=LATE)
    said = shell("journalctl --boot --no-pager --output=cat --unit=update-fetch")
    assert f"version {broken} did not start on this machine, and is not tried again" in said
