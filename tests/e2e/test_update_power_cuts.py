# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power is cut while a machine updates itself: whatever was written, a whole version starts, and the update ends."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from machines import Boot, reach, read_manifest
from shell import PROMPT, Shell
from updating import LATE, Server, ask_for_updates, build, entries, on_segment, serving, update, version_of

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec

SAVED = "saved"
pytestmark = pytest.mark.extended
CUTS = 20
CUTS_OF_START = 3  # of the first start of the new version


@dataclass(frozen=True)
class Fetched:
    """A machine that runs, has fetched a release and installed nothing of it; and the same one, when that is done.

    :param spec: goes on where it was left.
    :param installed: is switched off; the new version is the next to start.
    :param seconds: that the whole installation took, once.
    :param starting: seconds that the first start of the new version took, once.
    """

    spec: MachineSpec
    installed: MachineSpec
    old: str
    new: str
    seconds: float
    starting: float


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(sandbox, tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture(scope="module")
def fetched(
    instrumented_release: Path,
    server: Server,
    keys: ProductKeys,
    boot: Boot,
    tmp_path_factory: pytest.TempPathFactory,
) -> Fetched:
    directory = tmp_path_factory.mktemp("fetched")
    new = server.offer(build("0.2.0"), keys)
    spec = on_segment(instrumented_release, server, directory / "machine")
    with boot(spec) as machine:
        reach(machine, PROMPT)
        shell = Shell(machine)
        ask_for_updates(shell, server)
        # What is not there is not started when the first has ended.
        masked = "/run/systemd/system/update-install.service"
        shell(f"mkdir -p /run/systemd/system; ln -s /dev/null {masked}; systemctl daemon-reload")
        shell("systemctl start update-fetch.service", timeout=LATE)
        shell("test -e /var/lib/update/offer; echo written before > /var/lib/marker")
        shell(f"rm {masked}; systemctl daemon-reload; sync")
        machine.save(spec.directory / SAVED)
    spec = replace(spec, restore=spec.directory / SAVED)
    done = _copy(spec, directory / "installed")
    with boot(done) as machine:
        began = time.monotonic()
        assert f"installed: {new}" in _install(Shell(machine))
        seconds = time.monotonic() - began
        machine.serial.send("systemctl poweroff\n")
        machine.wait_exit(LATE)
    done = replace(done, restore=None)
    began = time.monotonic()
    with boot(_copy(done, directory / "started")) as machine:
        reach(machine, PROMPT)
        assert version_of(Shell(machine)) == new
        starting = time.monotonic() - began
    return Fetched(spec, done, read_manifest(instrumented_release)["version"], new, seconds, starting)


def _copy(spec: MachineSpec, directory: Path) -> MachineSpec:
    subprocess.run(["cp", "--recursive", "--sparse=always", "--reflink=auto", spec.directory, directory], check=True)
    uefi = replace(spec.boot, variables=directory / installed.VARIABLES)
    disk = replace(spec.disks[0], path=directory / installed.DISK)
    saved = directory / SAVED if spec.restore else None
    return replace(spec, directory=directory, boot=uefi, disks=(disk,), restore=saved)


def _install(shell: Shell) -> str:
    shell("systemctl start update-install.service; true", timeout=LATE)
    return shell("journalctl --boot --no-pager --output=cat --unit=update-install")


@pytest.mark.parametrize("cut", range(CUTS))
def test_power_cut_leaves_a_whole_version_and_the_update_ends(
    fetched: Fetched, server: Server, boot: Boot, tmp_path: Path, cut: int
) -> None:
    spec = _copy(fetched.spec, tmp_path / "machine")
    with boot(spec) as machine:
        Shell(machine)("systemctl start --no-block update-install.service")
        time.sleep(fetched.seconds * (cut + 0.5) / CUTS)
        # Leaving the block kills QEMU.
    with boot(replace(spec, restore=None)) as machine:
        reach(machine, PROMPT)
        shell = Shell(machine)
        assert shell("cat /var/lib/marker").strip() == "written before"
        running = version_of(shell)
        assert running in (fetched.old, fetched.new)
        kept = {name for name in entries(shell) if name.endswith(".efi")}
        assert f"gateway_{fetched.old}.efi" in kept, "the version that ran is a way back"
        if running == fetched.old:
            ask_for_updates(shell, server)
            said = update(shell)
            assert f"installed: {fetched.new}" in said, said
            assert f"gateway_{fetched.new}+3-0.efi" in entries(shell)


@pytest.mark.parametrize("cut", range(CUTS_OF_START))
def test_power_cut_of_the_first_start_costs_one_of_three_tries(
    fetched: Fetched, boot: Boot, tmp_path: Path, cut: int
) -> None:
    spec = _copy(fetched.installed, tmp_path / "machine")
    with boot(spec):
        time.sleep(fetched.starting * (cut + 0.5) / CUTS_OF_START)
    with boot(spec) as machine:
        reach(machine, PROMPT)
        shell = Shell(machine)
        assert shell("cat /var/lib/marker").strip() == "written before"
        assert version_of(shell) == fetched.new
        kept = entries(shell)
        assert f"gateway_{fetched.old}.efi" in kept, "the version that ran is a way back"
        tries = next(name for name in kept if name.startswith(f"gateway_{fetched.new}"))
        assert tries in (f"gateway_{fetched.new}{each}.efi" for each in ("+2-1", "+1-2", "")), tries
