# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power is cut while a machine updates itself: whatever was written, a whole version starts, and the update ends."""

from __future__ import annotations

import shutil
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

pytestmark = pytest.mark.extended
CUTS = 20


@dataclass(frozen=True)
class Fetched:
    """A machine, switched off, that has fetched a release and installed nothing of it.

    :param seconds: that the whole installation took, once.
    """

    spec: MachineSpec
    old: str
    new: str
    seconds: float


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
        shell("mkdir -p /run/systemd/system; ln -s /dev/null /run/systemd/system/update-install.service")
        shell("systemctl daemon-reload; systemctl start update-fetch.service", timeout=LATE)
        shell("test -e /var/lib/update/offer; echo written before > /var/lib/marker; sync")
        machine.serial.send("systemctl poweroff\n")
        machine.wait_exit(LATE)
    known = Fetched(spec, read_manifest(instrumented_release)["version"], new, 0)
    with boot(_copy(known, directory / "measured")) as machine:
        reach(machine, PROMPT)
        began = time.monotonic()
        assert f"installed: {new}" in _install(Shell(machine))
        return replace(known, seconds=time.monotonic() - began)


def _copy(fetched: Fetched, directory: Path) -> MachineSpec:
    shutil.copytree(fetched.spec.directory, directory)
    uefi = replace(fetched.spec.boot, variables=directory / installed.VARIABLES)
    disk = replace(fetched.spec.disks[0], path=directory / installed.DISK)
    return replace(fetched.spec, directory=directory, boot=uefi, disks=(disk,))


def _install(shell: Shell) -> str:
    shell("systemctl start update-install.service; true", timeout=LATE)
    return shell("journalctl --boot --no-pager --output=cat --unit=update-install")


@pytest.mark.parametrize("cut", range(CUTS))
def test_power_cut_leaves_a_whole_version_and_the_update_ends(
    fetched: Fetched, server: Server, boot: Boot, tmp_path: Path, cut: int
) -> None:
    spec = _copy(fetched, tmp_path / "machine")
    with boot(spec) as machine:
        reach(machine, PROMPT)
        Shell(machine)("systemctl start --no-block update-install.service")
        time.sleep(fetched.seconds * (cut + 0.5) / CUTS)
        # Leaving the block kills QEMU.
    with boot(spec) as machine:
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
