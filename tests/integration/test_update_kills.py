# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine's update is killed at any moment: what can be started is whole, and the next try completes it.

Both halves of role update_client with a real server; what takes device-mapper is simulated. That the file systems keep
their promises when the power goes takes a machine: e2e/test_update_power_cuts.py.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator

import asking
import hosts
import pytest
from asking import RUN, STATE, USER, Updates
from certificates import P256, Authority, ec_key
from patching import Pair
from simulated import INSTALL, NEW_ENTRY, OFFER, OLD_ENTRY, REMEMBERED, Simulated
from updates import PRODUCT, write_channel

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

SEED = 5
# As the timer and OnSuccess= of update-fetch.service, and ConditionPathExists= of update-install.service.
UPDATE = f"""
runuser -u {USER} -- sh -euc '{RUN}'
[ -e /{OFFER} ] || exit 0
{INSTALL}
"""


class Killed:
    """A machine beside its server, which offers a release as a patch, too, or as a bundle alone."""

    def __init__(self, machine: Simulated, updates: Updates) -> None:
        self.machine, self.host, self.pair, self._updates = machine, machine.host, machine.pair, updates

    def reset(self, way: str) -> None:
        self._updates.reset()
        self.machine.reset()
        self.host("sh", "-euc", f"rm -rf /{OFFER}; chown {USER} {STATE}")
        new, store = self.pair.new, self.host.root / "srv/vauban"
        shutil.copytree(new, store / "releases" / PRODUCT / new.name)
        channel = store / f"update/v1/{PRODUCT}/stable.p7m"
        patches = [self.pair.patch.as_dict()] if way == "patch" else []
        write_channel(channel, self.pair.keys.directory, new, patches=patches)
        if patches:
            (channel.parent / new.name).mkdir()
            shutil.copy(self.pair.file, channel.parent / new.name)

    def update(self, *, within: float | None = None) -> tuple[int, str]:
        """Status, and what the journal would say.

        :param within: seconds after which all processes of the update are killed.
        """
        limit = ["timeout", "--signal=KILL", f"{within:.3f}"] if within is not None else []
        done = self.host.ask(*limit, "sh", "-euc", UPDATE)
        return done.returncode, done.stdout + done.stderr

    def check_what_can_be_started(self) -> bool:
        """Fail unless all that a boot menu would list is whole; return whether the new version is in it."""
        assert self.machine.running_is_untouched()
        listed = {name for name in self.machine.entries() if name.endswith(".efi")}
        assert OLD_ENTRY in listed
        assert listed <= {OLD_ENTRY, NEW_ENTRY, f"{PRODUCT}_0.9.0.efi"}
        if f"{PRODUCT}_0.9.0.efi" in listed:
            assert self.machine.read("dev/fleet/core_0.9.0") == self.machine.before
        if NEW_ENTRY in listed:
            assert self.machine.read(f"efi/EFI/Linux/{NEW_ENTRY}") == (self.pair.new / "uki").read_bytes()
            core = (self.pair.new / "core").read_bytes()
            assert self.machine.read("dev/fleet/core_1.1.0")[: len(core)] == core
        for place in ("systemd/systemd-bootx64.efi", "BOOT/BOOTX64.EFI"):
            loader = self.machine.read(f"efi/EFI/{place}")
            assert loader in (b"", (self.pair.new / "boot_loader").read_bytes())
        return NEW_ENTRY in listed

    def check_what_waits(self) -> None:
        """Fail unless what was left for the installing half is whole, or nothing."""
        offer, new = self.host.root / OFFER, self.pair.new
        if not offer.is_dir():
            return
        origins = {
            "manifest.json": new / "manifest.json",
            "manifest.json.p7s": new / "manifest.json.p7s",
            "boot-loader.efi": new / "boot_loader",
            "bundle.raucb": new / "bundle",
            "patch": self.pair.file,
        }
        for file in offer.iterdir():
            if file.name in origins:
                assert file.read_bytes() == origins[file.name].read_bytes(), file.name


@pytest.fixture(scope="module")
def machine(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    hosts.require()
    directory = tmp_path_factory.mktemp("kills")
    with asking.started(sandbox, Authority.root("Example Root", ec_key(P256)), directory) as (host, keys):
        pair = Pair(sandbox, directory / "releases", ProductKeys(keys))
        yield Killed(Simulated(host, pair), Updates(host, keys, directory / "updates"))


@pytest.mark.parametrize("way", ["patch", "bundle"])
@pytest.mark.parametrize("points", [5, pytest.param(100, marks=pytest.mark.extended)])
def test_what_can_be_started_is_whole_and_the_next_try_completes_it(machine: Killed, way: str, points: int) -> None:
    whole = min(_seconds(machine, way) for _try in range(3))
    chosen = random.Random(SEED)
    cut, halfway = 0, 0
    for number in range(points):
        # One in each part of the time that it takes, so that all of it is met.
        within = whole * (number + chosen.random()) / points
        machine.reset(way)
        began = time.monotonic()
        status, said = machine.update(within=within)
        if status == 0:  # other work has ended since, and the machine is faster
            whole = min(whole, time.monotonic() - began)
        context = f"killed after {within:.3f} of {whole:.3f} s: {said}"
        assert status in (0, -9), context  # timeout(1) kills itself with its group
        cut += status == -9
        installed = machine.check_what_can_be_started()
        halfway += not installed and f"{PRODUCT}_0.9.0.efi" not in machine.machine.entries()
        machine.check_what_waits()
        last = machine.machine.read(f"{REMEMBERED}/last")
        assert last in (b"", b"installed 1.1.0\n"), context
        assert installed or not last, context
        code, said = machine.update()
        assert code == 0, f"{context}; then {said}"
        assert machine.check_what_can_be_started(), f"{context}; then {said}"
        assert machine.machine.entries() == {OLD_ENTRY, NEW_ENTRY}, context
        assert machine.machine.read(f"{REMEMBERED}/last") == b"installed 1.1.0\n", context
        left = {path.name for path in (machine.host.root / STATE[1:]).iterdir()}
        assert not {name for name in left if name.endswith((".part", ".new")) or name == "offer"}, context
    # A test that kills too late proves nothing.
    assert cut > points * 0.5
    assert points < 100 or halfway > points * 0.1, "no kill met the volume or the UKI being written"


def _seconds(machine: Killed, way: str) -> float:
    """How long an update takes that nobody kills."""
    machine.reset(way)
    began = time.monotonic()
    code, said = machine.update()
    took = time.monotonic() - began
    assert code == 0, said
    assert ("made from version 1.0.0 and a patch" in said) is (way == "patch")
    assert machine.check_what_can_be_started()
    return took
