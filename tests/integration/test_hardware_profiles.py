# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The installer of a release knows which machines the release is for, by its own Python and from its own files."""

from __future__ import annotations

from pathlib import Path

import builds
import pytest
from builds import Built

from ansible_collections.vauban.fleet.plugins.module_utils._image.initrd import LIBRARY
from ansible_collections.vauban.fleet.plugins.module_utils._install import hardware_profile
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox, remove_tree

SDK = builds.REFERENCE["build"] / "sdk/current"
FIND = """
import json, pathlib, sys
from ansible_collections.vauban.fleet.plugins.module_utils._install import installer, hardware_profile
print(hardware_profile.find(installer._profiles(), json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("dmi", "profile"), [('{"sys_vendor": "QEMU"}', "qemu_virtio"), ('{"chassis_type": "9"}', "None")]
)
def test_installer_finds_the_profile_of_its_machine(reference: Built, tmp_path: Path, dmi: str, profile: str) -> None:
    work = reference.directory / "work" / reference.release.name
    root = builds.extract_initrd(SDK, work / "installer.initrd", tmp_path)
    (tmp_path / "here").mkdir()
    (root / "var/tmp").mkdir()  # the sandbox hides it
    command = ["/usr/bin/python3", "-B", "-c", FIND, dmi]
    said = Sandbox(root, tmp_path / "here").run(command, env={"PYTHONPATH": f"/{LIBRARY}"}).stdout
    remove_tree(root)
    assert said.strip() == profile


def test_system_that_runs_carries_none(reference: Built, tmp_path: Path) -> None:
    work = reference.directory / "work" / reference.release.name
    root = builds.extract_initrd(SDK, work / "system.initrd", tmp_path)
    assert not (root / hardware_profile.FILE).exists()
    remove_tree(root)
