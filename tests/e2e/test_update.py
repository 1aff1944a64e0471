# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine updates itself from a server on its segment: to a good version, and to one that does not come up."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import Boot, reach, reach_failure, read_manifest
from shell import PROMPT, Shell
from updating import (
    FIRMWARE,
    LATE,
    Server,
    ask_for_updates,
    build,
    entries,
    on_segment,
    restart,
    serving,
    settle,
    start_once,
    started,
    update,
    version_of,
)

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine

GOOD, BROKEN = "0.2.0", "0.3.0"
# As if two of its three tries were used up: that the boot loader counts is shown with a kernel that panics.
LAST_TRY = "mv /efi/EFI/Linux/gateway_{version}+3-0.efi /efi/EFI/Linux/gateway_{version}+1-2.efi; sync -f /efi/EFI"

NO_COPIES = "--config 'backup { backup=0 archive=0 }'"  # of LVM's metadata, for which there is no place


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(sandbox, tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def machine(instrumented_release: Path, server: Server, boot: Boot, tmp_path: Path) -> Iterator[Machine]:
    with boot(on_segment(instrumented_release, server, tmp_path / "machine")) as running:
        yield running


@pytest.mark.parametrize("way", ["bundle", pytest.param("patch", marks=pytest.mark.extended)])
def test_machine_updates_itself_moves_to_the_new_epoch_and_keeps_the_version_before(
    machine: Machine, server: Server, keys: ProductKeys, instrumented_release: Path, tmp_path: Path, way: str
) -> None:
    """An emulated machine takes three minutes longer for a patch."""
    old = read_manifest(instrumented_release)["version"]
    new_keys = shutil.copytree(keys.directory, tmp_path / "keys" / keys.directory.name)
    built = build(GOOD, product_keys_path=str(new_keys), product_security_epoch=2)
    new = server.offer(built, keys, base=instrumented_release if way == "patch" else None)
    reach(machine, PROMPT)
    shell = Shell(machine)
    shell("echo kept > /var/lib/marker; touch /efi/EFI/Linux/recovery.efi")
    ask_for_updates(shell, server)
    said = update(shell)
    patched = re.search(f"made from version {re.escape(old)} and a patch of [0-9]+ bytes", said)
    assert (patched is not None) is (way == "patch"), said
    assert f"installed: {new}; it runs after the next start, {old} stays" in said, said
    assert entries(shell) == {f"gateway_{old}.efi", f"gateway_{new}+3-0.efi", "recovery.efi"}
    shell("rm /efi/EFI/Linux/recovery.efi")  # no UKI that systemd-boot could start
    shell = restart(machine)
    assert version_of(shell) == new
    assert shell("cat /var/lib/marker").strip() == "kept"
    settle(shell)
    assert entries(shell) == {f"gateway_{old}.efi", f"gateway_{new}.efi"}
    said = shell("journalctl --boot --no-pager --output=cat --unit=update-health")
    assert f"version {new} is good" in said
    volumes = shell("lvm lvs --noheadings --options lv_name fleet").split()
    assert {f"core_{old}", f"core_{new}"} <= set(volumes)
    said = shell("journalctl --boot --no-pager --output=cat --unit=update-policy")
    assert "the state volume opens for security epoch 2 alone" in said
    # The version before is validly signed and still there, but the TPM gives it nothing any more.
    start_once(shell, f"gateway_{old}.efi")
    machine.serial.send("systemctl reboot\n")
    machine.serial.wait_for(FIRMWARE, timeout=LATE)
    assert re.search("Failed to unseal secret using TPM2", reach_failure(machine))
    shell = started(machine)
    assert version_of(shell) == new
    assert shell("cat /var/lib/marker").strip() == "kept"


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
    shell = restart(machine, panics=True)
    assert len(re.findall("Kernel panic", machine.serial.text)) == 3
    assert version_of(shell) == old
    settle(shell)
    assert entries(shell) == {f"gateway_{old}.efi", f"gateway_{broken}+0-3.efi"}
    said = shell("journalctl --boot --no-pager --output=cat --unit=update-health")
    assert f"version {broken} did not start in 3 tries; version {old} runs again" in said
    ask_for_updates(shell, server)
    shell("systemctl start update-fetch.service; true", timeout=LATE)
    said = shell("journalctl --boot --no-pager --output=cat --unit=update-fetch")
    assert f"version {broken} did not start on this machine, and is not tried again" in said


@pytest.mark.extended  # a machine waits five minutes each time
@pytest.mark.parametrize(
    ("version", "variables", "said"),
    [
        pytest.param(
            "0.4.0",
            {"update_client_health": ["missing.service"]},
            "is not good, and the machine starts again: missing.service does not run",
            id="health check fails",
        ),
        pytest.param(
            "0.5.0",
            {"product_kernel_arguments": ["systemd.unit=basic.target"]},
            "is not good, and the machine starts again: multi-user.target has not been reached",
            id="ends before its default target",
        ),
        pytest.param(
            "0.6.0",
            {
                "product_kernel_arguments": ["systemd.mount-extra=/dev/missing:/mnt:ext4:x-systemd.device-timeout=0"],
                "update_client_deadline": "5min",
            },
            None,
            id="waits for ever",
        ),
    ],
)
def test_version_that_runs_and_is_not_called_good_is_left_again(
    machine: Machine,
    server: Server,
    keys: ProductKeys,
    instrumented_release: Path,
    version: str,
    variables: dict[str, Any],
    said: str | None,
) -> None:
    old = read_manifest(instrumented_release)["version"]
    broken = server.offer(build(version, **variables), keys)
    reach(machine, PROMPT)
    shell = Shell(machine)
    ask_for_updates(shell, server)
    assert f"installed: {broken}" in update(shell)
    shell(LAST_TRY.format(version=broken))
    machine.serial.send("systemctl reboot\n")
    machine.serial.wait_for(FIRMWARE, timeout=LATE)  # of the new version, which leaves by itself
    shell = started(machine)
    assert version_of(shell) == old
    settle(shell)
    assert entries(shell) == {f"gateway_{old}.efi", f"gateway_{broken}+0-3.efi"}
    if said is not None:
        assert f"version {broken} {said}" in shell("journalctl --boot=-1 --no-pager --output=cat --unit=update-health")
    found = shell("journalctl --boot --no-pager --output=cat --unit=update-health")
    assert f"version {broken} did not start in 3 tries; version {old} runs again" in found


@pytest.mark.extended  # integration/test_update_patch.py tries the same without a machine
def test_machine_that_is_full_refuses_and_takes_it_when_there_is_room(
    machine: Machine, server: Server, keys: ProductKeys, instrumented_release: Path
) -> None:
    old = read_manifest(instrumented_release)["version"]
    new = server.offer(build(GOOD), keys)
    reach(machine, PROMPT)
    shell = Shell(machine)
    ask_for_updates(shell, server)
    before = "ls -l /efi/EFI/Linux; lvm lvs --noheadings --options lv_name,lv_size,lv_uuid fleet"
    for fill, clear, line in (
        ("! cat /dev/zero > /efi/filler 2> /dev/null", "rm /efi/filler", "bytes, the EFI system partition room for "),
        (
            f"lvm lvcreate {NO_COPIES} --yes --zero n --extents 100%FREE --name filler fleet",
            f"lvm lvremove {NO_COPIES} --yes fleet/filler",
            "bytes, volume group fleet has 0 left",
        ),
    ):
        shell(f"{fill}; sync")
        found = shell(before)
        said = update(shell)
        assert line in said, said
        assert "installed: " not in said
        assert shell(before) == found
        shell(clear)
    assert f"installed: {new}; it runs after the next start, {old} stays" in update(shell)
