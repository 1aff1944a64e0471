# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine makes the next version from the one that runs and a patch, or takes the bundle.

With the real tools, but for those that take device-mapper (simulated).
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asking
import hosts
import patching
import pytest
import rendering
from patching import Pair
from sdk import SDK, unpacked
from simulated import NEW_ENTRY, OFFER, OLD_ENTRY, REMEMBERED, VOLUME, Simulated
from updates import PRODUCT

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._update import patch
from ansible_collections.vauban.fleet.plugins.module_utils._update.patch import Patch

LISTED = b"start revocations.service\n"


@pytest.fixture(scope="module")
def pair(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp("pair")
    return Pair(sandbox, directory, asking.product_keys(sandbox, directory))


def test_patch_holds_what_has_changed_and_nothing_that_follows_from_it(pair: Pair) -> None:
    """Two files of 200 000 bytes that do not compress; hash tree, parity and initrd come to more than another."""
    assert 400_000 < pair.patch.size < 420_000
    assert pair.patch.size == pair.file.stat().st_size == pair.patch.core + pair.patch.initrd + pair.patch.rest
    assert _digest.of_file(pair.file) == pair.patch.sha256


def test_the_same_patch_is_made_again_and_what_is_known_is_not(pair: Pair, tmp_path: Path) -> None:
    again = patch.make(pair.sandbox, pair.old, pair.new, tmp_path / "again", program=patching.PROGRAM, work=tmp_path)
    assert again == pair.patch
    assert patch.known(pair.old, pair.new, tmp_path / "again") == (True, pair.patch)
    assert patch.known(pair.new, pair.old, tmp_path / "again") == (False, None)
    (tmp_path / "again" / pair.patch.name).unlink()
    assert patch.known(pair.old, pair.new, tmp_path / "again") == (False, pair.patch)
    assert Patch.from_dict(json.loads(json.dumps(pair.patch.as_dict()))) == pair.patch


def test_patch_that_spares_too_little_is_none(pair: Pair, tmp_path: Path) -> None:
    seeded = random.Random(1)
    other = patching.Contents(seeded.randbytes(2_500_000), tuple(seeded.randbytes(200_000) for _file in range(10)))
    release = patching.write(pair.sandbox, tmp_path / "2.0.0", pair.keys.directory, "2.0.0", other)
    made = patch.make(pair.sandbox, pair.old, release, tmp_path / "patches", program=patching.PROGRAM, work=tmp_path)
    assert made is None
    assert patch.known(pair.old, release, tmp_path / "patches") == (True, None)
    assert not list((tmp_path / "patches").glob("*.patch"))


def test_patch_whose_initrd_was_packed_in_another_way_is_not_offered(pair: Pair, tmp_path: Path) -> None:
    release = shutil.copytree(pair.new, tmp_path / "1.1.0")
    image = (release / "uki").read_bytes()
    found = patch.find_initrd(image)
    script = "zstd -q -d -c < /run/work/uki.initrd | zstd -q -c -19 > /run/work/repacked"
    (tmp_path / "uki.initrd").write_bytes(image[found.place : found.place + found.packed])
    pair.sandbox.run(["sh", "-c", script], binds=[Bind(tmp_path, "/run/work", writable=True)])
    changed = patching.uki(patching.NEW.kernel, (tmp_path / "repacked").read_bytes(), "1.1.0")
    (release / "uki").write_bytes(changed)
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["uki"] |= {"size": len(changed), "sha256": _digest.of_file(release / "uki")}
    (release / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FleetError, match="the patch does not give the UKI of the manifest"):
        patch.make(pair.sandbox, pair.old, release, tmp_path / "patches", program=patching.PROGRAM, work=tmp_path)
    assert not list((tmp_path / "patches").glob("*.patch"))


@pytest.fixture
def devices(pair: Pair, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Block devices as volumes are: larger than a core, the second with something else on it."""
    hosts.require()
    (tmp_path / "old").write_bytes((pair.old / "core").read_bytes().ljust(VOLUME, b"o"))
    (tmp_path / "new").write_bytes(random.Random(2).randbytes(VOLUME))
    made: list[Path] = []
    try:
        for name in ("old", "new"):
            done = subprocess.run(
                ["losetup", "--find", "--show", tmp_path / name], check=True, capture_output=True, text=True
            )
            made.append(Path(done.stdout.strip()))
        yield made[0], made[1]
    finally:
        for device in made:
            subprocess.run(["losetup", "--detach", device], check=True)


def test_patch_gives_the_release_on_block_devices(pair: Pair, devices: tuple[Path, Path], tmp_path: Path) -> None:
    """Which xdelta3 cannot seek in, and on which veritysetup leaves gaps."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(pair.new / "manifest.json", work / "manifest.verified")
    (work / "patch.json").write_text(json.dumps(pair.patch.as_dict()))
    binds = [
        Bind(work, "/run/work", writable=True),
        Bind(patching.PROGRAM, "/run/program"),
        Bind(pair.file, "/run/patch"),
    ]
    binds += [Bind(device, f"/run/{name}", device=True) for name, device in zip(("old", "new"), devices, strict=True)]
    binds += [Bind(pair.old / "uki", "/run/uki")]
    command = ["sh", "/run/program", "/run/patch", "/run/old", "/run/uki", "/run/new", "made.efi"]
    pair.sandbox.run(command, binds=binds, cwd="/run/work", privileged=True)
    core = (pair.new / "core").read_bytes()
    assert devices[1].read_bytes()[: len(core)] == core
    assert (work / "made.efi").read_bytes() == (pair.new / "uki").read_bytes()


@pytest.fixture(scope="module")
def simulated(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    hosts.require()
    directory = tmp_path_factory.mktemp("machine")
    tree = unpacked()
    rendering.lay_down("signatures", directory / "files")
    rendering.lay_down("update_client", directory / "files")
    with hosts.host("machine", SDK.resolve(), (directory / "files", tree), directory / "machine") as made:
        asking.prepare(made, pair.keys)
        yield Simulated(made, pair)


@pytest.fixture
def machine(simulated: Simulated) -> Simulated:
    simulated.reset()
    return simulated


def test_machine_installs_what_a_patch_makes(machine: Simulated) -> None:
    machine.offer(machine.pair.patch, machine.pair.file.read_bytes())
    code, said = machine.install()
    assert code == 0, said
    assert f"made from version 1.0.0 and a patch of {machine.pair.patch.size} bytes: 1.1.0\n" in said
    assert "installed: 1.1.0; it runs after the next start, 1.0.0 stays" in said
    core = (machine.pair.new / "core").read_bytes()
    assert machine.read("dev/fleet/core_1.1.0")[: len(core)] == core
    assert machine.read(f"efi/EFI/Linux/{NEW_ENTRY}") == (machine.pair.new / "uki").read_bytes()
    assert machine.entries() == {OLD_ENTRY, NEW_ENTRY}
    assert machine.running_is_untouched()
    assert machine.read(f"{REMEMBERED}/last") == b"installed 1.1.0\n"
    assert machine.read("run/asked") == LISTED


def _of(made: Patch, content: bytes, **changes: int | str) -> tuple[Patch, bytes]:
    """A patch that is signed, whatever it holds."""
    return replace(made, size=len(content), sha256=hashlib.sha256(content).hexdigest(), **changes), content  # type: ignore[arg-type]


def _encoded(sandbox: Sandbox, source: bytes, target: bytes, work: Path) -> bytes:
    (work / "source").write_bytes(source)
    (work / "target").write_bytes(target)
    command = ["xdelta3", "-e", "-9", "-S", "lzma", "-A=", "-f", "-s", "source", "target", "patch"]
    sandbox.run(command, binds=[Bind(work, "/run/work", writable=True)], cwd="/run/work")
    return (work / "patch").read_bytes()


def _endless(pair: Pair, work: Path, part: str) -> tuple[Patch, bytes]:
    """Some hundred bytes that become 300 MB, in place of one of the three parts."""
    bomb = _encoded(pair.sandbox, b"", bytes(300_000_000), work)
    assert len(bomb) < 200_000
    content, made = pair.file.read_bytes(), pair.patch
    parts = [content[: made.core], content[made.core : made.core + made.initrd], content[made.core + made.initrd :]]
    names = ["core", "initrd", "rest"]
    parts[names.index(part)] = bomb
    changes: dict[str, int | str] = {part: len(bomb)}
    if part == "initrd":
        changes["unpacked"] = 300_000_000
    return _of(made, b"".join(parts), **changes)


@pytest.mark.parametrize("part", ["core", "initrd", "rest"])
def test_patch_that_becomes_endless_ends_where_the_manifest_says(machine: Simulated, tmp_path: Path, part: str) -> None:
    made, content = _endless(machine.pair, tmp_path, part)
    machine.offer(made, content)
    code, said = machine.install()
    assert code == 0, said
    assert f"the patch does not give the {'core' if part == 'core' else 'UKI'} of the manifest" in said
    _bundle_follows(machine, made, said)
    assert len(machine.read("dev/fleet/core_1.1.0")) == VOLUME


def _bundle_follows(machine: Simulated, made: Patch, said: str) -> None:
    assert "the patch does not make version 1.1.0 of 1.0.0, and the bundle follows" in said
    assert machine.read("run/asked") == LISTED + b"--no-block start update-fetch.service\n"
    assert machine.read(f"{REMEMBERED}/unpatched").decode() == f"{made.sha256}\n"
    assert not machine.read(f"{REMEMBERED}/last")  # no failure of the version
    assert not (machine.host.root / OFFER).exists()
    assert NEW_ENTRY not in machine.entries()
    assert machine.running_is_untouched()


@pytest.mark.parametrize("place", [10, 300_000, -100])
def test_patch_that_was_altered_on_its_way_is_not_read(machine: Simulated, place: int) -> None:
    content = bytearray(machine.pair.file.read_bytes())
    content[place] ^= 1
    machine.offer(machine.pair.patch, bytes(content))
    code, said = machine.install()
    assert code == 0, said
    assert "does not give" not in said
    _bundle_follows(machine, machine.pair.patch, said)
    # Before anything was touched: the way back of before is still there.
    assert machine.entries() == {OLD_ENTRY, f"{PRODUCT}_0.9.0.efi"}


@pytest.mark.parametrize("place", [10, 300_000, -100])
def test_patch_that_is_signed_and_wrong_changes_nothing_that_runs(machine: Simulated, place: int) -> None:
    content = bytearray(machine.pair.file.read_bytes())
    content[place] ^= 1
    made = _of(machine.pair.patch, bytes(content))[0]
    machine.offer(made, bytes(content))
    code, said = machine.install()
    assert code == 0, said
    _bundle_follows(machine, made, said)


@pytest.mark.parametrize("what", ["core", "uki"])
def test_volume_or_uki_that_is_not_what_it_was_is_noticed(machine: Simulated, what: str) -> None:
    """Both are as the machine says they are, but for some bytes on the disk."""
    path = "dev/fleet/core_1.0.0" if what == "core" else f"efi/EFI/Linux/{OLD_ENTRY}"
    file = machine.host.root / path
    content = bytearray(file.read_bytes())
    content[250_000:250_010] = bytes(10)
    file.write_bytes(bytes(content))
    machine.offer(machine.pair.patch, machine.pair.file.read_bytes())
    code, said = machine.install()
    assert code == 0, said
    assert f"the patch does not give the {'core' if what == 'core' else 'UKI'} of the manifest" in said
    assert machine.read("run/asked") == LISTED + b"--no-block start update-fetch.service\n"
    assert NEW_ENTRY not in machine.entries()


def test_patch_from_another_release_is_not_tried(machine: Simulated) -> None:
    made = replace(machine.pair.patch, root_hash="b" * 64)
    machine.offer(made, machine.pair.file.read_bytes())
    code, said = machine.install()
    assert code == 0, said
    assert "the patch is for another version than the one that runs, and the bundle follows" in said
    assert machine.entries() == {OLD_ENTRY, f"{PRODUCT}_0.9.0.efi"}
    assert not machine.read(f"{REMEMBERED}/unpatched")


def test_patch_that_failed_is_not_tried_again(machine: Simulated) -> None:
    machine.host.write(f"/{REMEMBERED}/unpatched", f"{machine.pair.patch.sha256}\n")
    machine.offer(machine.pair.patch, machine.pair.file.read_bytes())
    code, said = machine.install()
    assert code == 0, said
    assert "and the bundle follows" in said
    assert machine.entries() == {OLD_ENTRY, f"{PRODUCT}_0.9.0.efi"}


@pytest.mark.parametrize(
    ("fill", "line"),
    [
        pytest.param(
            "mkdir /run/kept; mv /efi/EFI /run/kept; mount -t tmpfs -o size=1280k none /efi; mv /run/kept/EFI /efi",
            "bytes, the EFI system partition room for ",
            id="EFI system partition",
        ),
        pytest.param("rm /dev/fleet/core_0.9.0", "bytes, volume group fleet has 0 left", id="volume group"),
        pytest.param("truncate -s 1M /dev/fleet/core_0.9.0", "bytes, volume core_0.9.0 1048576", id="volume"),
    ],
)
def test_no_room_is_said_before_anything_is_touched(machine: Simulated, fill: str, line: str) -> None:
    machine.offer(machine.pair.patch, machine.pair.file.read_bytes())
    machine.host("sh", "-euc", f"rm -rf /run/kept; {fill}")
    listing = ["find", "/efi", "/dev/fleet", "-type", "f", "-printf", "%p %s %T@\n"]
    before = machine.host(*listing)
    try:
        code, said = machine.install()
        assert code == 100, said
        assert f"refused: the {'UKI' if 'EFI' in line else 'core'} has " in said or "refused: a volume needs " in said
        assert line in said
        assert machine.host(*listing) == before
        assert machine.running_is_untouched()
        assert machine.read(f"{REMEMBERED}/last") == b"failed 1.1.0\n"
    finally:
        machine.host.ask("umount", "/efi")


def test_what_is_no_uki_is_refused() -> None:
    for image in (b"", b"MZ", bytes(64), patching.uki(b"kernel", b"initrd", "1")[:100]):
        with pytest.raises(FleetError, match="not a UKI"):
            patch.find_initrd(image)
    image = patching.uki(b"kernel", b"initrd", "1")
    found = patch.find_initrd(image)
    assert image[found.place : found.place + found.packed] == b"initrd"
