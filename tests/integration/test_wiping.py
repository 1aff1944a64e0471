# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is erased opens no more: cryptsetup of the SDK on a file in the place of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import volumes, wiping
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

SIZE = 40 << 20
KEY = b"the recovery key"
DISK = Disk(Path("/dev/sda"), SIZE, "S1", "", "sata", "", False, (), False)


class Machine:
    """Its volume is a file; what needs a kernel with device-mapper does nothing."""

    def __init__(self, sandbox: Sandbox, volume: Path) -> None:
        self.sandbox, self.volume = sandbox, volume

    def cryptsetup(self, *words: str, stdin: bytes = b"", check: bool = True) -> Completed:
        binds = [Bind(self.volume.parent, str(self.volume.parent), writable=True)]
        return self.sandbox.run(["cryptsetup", *words], binds=binds, stdin=stdin, check=check)

    def run(self, argv: Sequence[Any], *, check: bool = True, **_options: Any) -> Completed:
        words = [str(word) for word in argv]
        if words[0] != "cryptsetup":
            return Completed(tuple(words), 0, b"", b"")
        return self.cryptsetup(*words[1:], check=check)

    def opens(self) -> bool:
        words = ["open", "--test-passphrase", "--key-file", "-", str(self.volume)]
        return self.cryptsetup(*words, stdin=KEY, check=False).returncode == 0


@pytest.fixture
def machine(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    volume = tmp_path / "volumes/fleet/state"
    volume.parent.mkdir(parents=True)
    with volume.open("wb") as stream:
        stream.truncate(SIZE)
    made = Machine(sandbox, volume)
    fast = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-"]
    made.cryptsetup("luksFormat", "--batch-mode", "--type", "luks2", *fast, str(volume), stdin=KEY)
    assert made.opens()
    monkeypatch.setattr(wiping, "DEVICES", tmp_path / "volumes")
    for module in (wiping, volumes):
        monkeypatch.setattr(module, "run", made.run)
    monkeypatch.setattr(volumes, "logical_volumes", lambda _disk: {("fleet", "state"), ("fleet", "core_1.0")})
    (volume.parent / "core_1.0").write_bytes(b"no LUKS volume")
    return made


def test_key_opens_nothing_any_more_and_the_header_is_gone(machine: Machine) -> None:
    backup = machine.volume.parent / "header"
    machine.cryptsetup("luksHeaderBackup", "--header-backup-file", str(backup), str(machine.volume))
    assert wiping.destroy_keys(DISK) == ["fleet/state"]
    assert not machine.opens()
    with machine.volume.open("rb") as stream:
        assert not any(stream.read(16 << 20))
    assert machine.volume.stat().st_size == SIZE
    assert (machine.volume.parent / "core_1.0").read_bytes() == b"no LUKS volume"
    assert wiping.destroy_keys(DISK) == [], "once more, as after a power cut"


def test_power_cut_while_the_header_is_overwritten(machine: Machine) -> None:
    """The first copy of the header is gone, and the second one, which cryptsetup would take, is not."""
    wiping.overwrite(machine.volume, 0, 4096)
    assert machine.opens()
    assert wiping.destroy_keys(DISK) == ["fleet/state"]
    assert not machine.opens()


def test_volume_that_cannot_be_overwritten_is_not_called_erased(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(wiping.os, "fsync", fails)
    with pytest.raises(FleetError, match="cannot be overwritten: Input/output error"):
        wiping.destroy_keys(DISK)
