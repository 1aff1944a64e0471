# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The installer, in a machine with an empty disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from disks import flip
from machines import BOOT_TIMEOUT

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed

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
    tmp_path: Path,
) -> None:
    files = sorted(path.name for path in changed_release.iterdir())
    installed.write_medium(sandbox, changed_release, files, REQUEST, changed_release / "medium.erofs")
    installed.write_boot_medium(sandbox, release / manifest["installer"]["file"], tmp_path / "boot.vfat")
    with pytest.raises(FleetError, match="the installer failed at 'verify release'"):
        installed.install_in_vm(
            sandbox,
            name="installer",
            directory=tmp_path,
            boot_medium=tmp_path / "boot.vfat",
            medium=changed_release / "medium.erofs",
            disk_size=DISK_SIZE,
            keys=keys,
            timeout=BOOT_TIMEOUT,
            say=print,
        )
    console = (tmp_path / "serial.log").read_text("utf-8", "replace")
    assert re.search(rf"INSTALLATION FAILED: .*{manifest['core']['file']}", console)
    assert "INSTALLATION FAILED. The reason is above" in console
    reported = json.loads((tmp_path / installed.REPORT).read_text("utf-8"))
    assert reported["status"] == "failed"
    assert [(step["step"], step["status"]) for step in reported["steps"]] == [("verify release", "failed")]
    assert "SHA-256" in reported["failure"]["message"]
    assert (tmp_path / installed.DISK).stat().st_blocks == 0, "the disk was written to"
