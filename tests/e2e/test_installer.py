# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The installer, in a machine with an empty disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from disks import flip
from machines import BOOT_TIMEOUT, Boot

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.module_utils._vm.firmware import create_vars
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk, MachineSpec, UefiBoot

DISK_SIZE = 1024 * 1024 * 1024
REQUEST = {"disk": {"serial": "system"}}


@pytest.fixture
def changed_release(release: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """The files of the release, beside it; one byte of the core differs."""
    with TemporaryDirectory(prefix=".changed-", dir=release.parent) as name:
        parts = [manifest[part]["file"] for part in ("uki", "boot_loader")]
        for file in ("manifest.json", "manifest.json.p7s", *parts):
            (Path(name) / file).hardlink_to(release / file)
        core = Path(name) / manifest["core"]["file"]
        shutil.copy(release / core.name, core)
        flip(core, core.stat().st_size // 2)
        yield Path(name)


def test_refuses_a_changed_medium_and_touches_no_disk(
    release: Path,
    changed_release: Path,
    manifest: dict[str, Any],
    keys: ProductKeys,
    sandbox: Sandbox,
    boot: Boot,
    tmp_path: Path,
) -> None:
    disk, report = tmp_path / "disk.raw", tmp_path / "report.json"
    with disk.open("wb") as stream:
        stream.truncate(DISK_SIZE)
    files = sorted(path.name for path in changed_release.iterdir())
    installed.write_medium(sandbox, changed_release, files, REQUEST, changed_release / "medium.erofs")
    installed.write_boot_medium(sandbox, release / manifest["installer"]["file"], tmp_path / "boot.vfat")
    create_vars(sandbox, tmp_path / "variables.fd", keys=installed.secure_boot_keys(keys))
    spec = MachineSpec(
        name="installer",
        directory=tmp_path,
        boot=UefiBoot(tmp_path / "variables.fd"),
        disks=(
            Disk(tmp_path / "boot.vfat", readonly=True, serial="boot", bootindex=0),
            Disk(disk, serial="system"),
            Disk(changed_release / "medium.erofs", readonly=True, serial="medium"),
        ),
        tpm=True,
        ports={installed.REPORT_PORT: report},
    )
    with boot(spec) as machine:
        machine.serial.wait_for(rf"INSTALLATION FAILED: .*{manifest['core']['file']}", timeout=BOOT_TIMEOUT)
        machine.serial.wait_for(r"INSTALLATION FAILED\. The reason is above", timeout=BOOT_TIMEOUT)
    reported = json.loads(report.read_text("utf-8"))
    assert reported["status"] == "failed"
    assert [(step["step"], step["status"]) for step in reported["steps"]] == [("verify release", "failed")]
    assert "SHA-256" in reported["failure"]["message"]
    assert disk.stat().st_blocks == 0, "the disk was written to"
