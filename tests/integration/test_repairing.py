# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is damaged is found and repaired: cryptsetup, e2fsck and sfdisk of the SDK on files in the place of devices."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._command import Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install import repairing, volumes
from ansible_collections.vauban.fleet.plugins.module_utils._install.disks import Disk
from ansible_collections.vauban.fleet.plugins.module_utils._install.release import Release
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")

KEY = b"the recovery key"
SECRET = "name-of-a-secret-directory"
Run = Callable[..., Completed]


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(argv: Sequence[Any], *, stdin: bytes = b"", check: bool = True, **_options: Any) -> Completed:
        words = [str(word) for word in argv]
        if words[0] == "blockdev":  # there is no device
            return Completed(tuple(words), 0, b"", b"")
        binds = [Bind(tmp_path, str(tmp_path), writable=True)]
        return sandbox.run(words, binds=binds, stdin=stdin, check=check)

    for module in (repairing, volumes):
        monkeypatch.setattr(module, "run", call)
    return call


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
    return path


def damage(path: Path, offset: int, size: int = 4096) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * size)


@pytest.fixture
def volume(run: Run, tmp_path: Path) -> Path:
    path = sparse(tmp_path / "volume", 40 << 20)
    fast = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-"]
    run(["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", *fast, path], stdin=KEY)
    return path


@pytest.mark.parametrize(
    ("offsets", "found"),
    [
        ([], {"first": True, "second": True}),
        ([0], {"first": False, "second": True}),
        ([0x4000], {"first": True, "second": False}),
    ],
)
def test_header_is_whole_again(run: Run, volume: Path, offsets: list[int], found: dict[str, bool]) -> None:
    for offset in offsets:
        damage(volume, offset)
    assert repairing.header(volume) == {**found, "tokens": [], "key_slots": ["0"]}
    assert repairing.header(volume) == {"first": True, "second": True, "tokens": [], "key_slots": ["0"]}
    words = ["cryptsetup", "open", "--test-passphrase", "--key-file", "-", volume]
    assert run(words, stdin=KEY, check=False).returncode == 0


def test_header_of_which_nothing_is_left_is_said_to_be_lost(volume: Path) -> None:
    for offset in (0, 0x4000):
        damage(volume, offset)
    with pytest.raises(FleetError, match="the header of the volume cannot be repaired") as caught:
        repairing.header(volume)
    assert "install the host again" in str(caught.value.remedy)


@pytest.fixture
def system(run: Run, tmp_path: Path) -> Path:
    """A file system as it is inside the open volume."""
    tree = tmp_path / "tree" / SECRET
    tree.mkdir(parents=True)
    for name in ("one", "another"):
        (tree / name).write_bytes(b"content " * 1000)
    path = sparse(tmp_path / "system", 20 << 20)
    run(["mkfs.ext4", "-q", "-b", "4096", "-d", tmp_path / "tree", path])
    return path


def test_file_system_that_is_whole_stays_as_it_is(system: Path) -> None:
    before = repairing.file_system(system, thorough=False)
    assert before["corrected"] is False
    assert "files" in before["count"]


def test_what_can_be_repaired_without_loss_is(run: Run, system: Path) -> None:
    """Counts that a power cut has left wrong."""
    run(["debugfs", "-w", "-R", "ssv free_blocks_count 7", system])
    assert repairing.file_system(system, thorough=False)["corrected"] is True
    assert repairing.file_system(system, thorough=False)["corrected"] is False


def test_what_may_lose_files_is_repaired_only_if_that_was_said(run: Run, system: Path) -> None:
    run(["debugfs", "-w", "-R", f"clri /{SECRET}", system])
    with pytest.raises(FleetError, match="faults whose repair may lose files") as caught:
        repairing.file_system(system, thorough=False)
    assert "thorough=true" in str(caught.value.remedy)
    assert SECRET not in str(caught.value)
    done = repairing.file_system(system, thorough=True)
    assert done["corrected"] is True
    assert SECRET not in json.dumps(done), "the service learns no names of files"
    assert repairing.file_system(system, thorough=False)["corrected"] is False


@pytest.fixture
def release(run: Run, tmp_path: Path) -> Release:
    core = tmp_path / "core.image"
    core.write_bytes(bytes(range(256)) * 4096)
    size = core.stat().st_size
    said = run(["veritysetup", "format", f"--hash-offset={size}", core, core]).stdout
    root_hash = said.partition("Root hash:")[2].split()[0]
    run(["sha256sum", core])
    digest = run(["sha256sum", core]).stdout.split()[0]
    entry = {"file": core.name, "size": core.stat().st_size, "sha256": digest}
    return Release(tmp_path, {"core": {**entry, "verity": {"root_hash": root_hash, "hash_offset": size}}})


def test_core_is_written_anew_only_if_it_is_another(release: Release, tmp_path: Path) -> None:
    device = sparse(tmp_path / "core", 4 << 20)
    assert repairing.core(release, device)["written"] is True
    assert repairing.core(release, device)["written"] is False
    damage(device, 8192, 1)
    assert repairing.core(release, device)["written"] is True
    assert repairing.core(release, device)["written"] is False


def disk(path: Path) -> Disk:
    return Disk(path, 64 << 20, "S1", "", "sata", "", False, (), False)


def test_boot_partition_is_found_by_its_type(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse(tmp_path / "disk", 64 << 20)
    with pytest.raises(FleetError):
        repairing.boot_partition(disk(path))
    table = f"label: gpt\nsize=40MiB, type={repairing._ESP_TYPE}\ntype=E6D6D379-F507-44C2-A23C-238F2A3DF928\n"
    run(["sfdisk", path], stdin=table.encode())
    first = sparse(tmp_path / "disk1", 40 << 20)  # as the kernel would show it

    assert repairing.boot_partition(disk(path)) == (first, True), "nothing could be mounted"
    assert repairing.boot_partition(disk(path)) == (first, False)
    damage(first, 32 * 512, 4)  # the first entries of the first of two tables
    assert repairing.boot_partition(disk(path)) == (first, False), "there is another table"
    damage(first, 0, 1 << 20)
    assert repairing.boot_partition(disk(path)) == (first, True), "neither table nor root directory are left"
