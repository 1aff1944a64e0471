# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible.utils.display import Display

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._image.manifest import MANIFEST
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of
from ansible_collections.vauban.fleet.plugins.module_utils._vm import installed
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import StepAction, sandbox_at


class ActionModule(StepAction):
    """Makes the disk image of a release by running its real installer once in a virtual machine."""

    SPEC: ClassVar[dict[str, Any]] = {
        "sdk": {"type": "path", "required": True},
        "release": {"type": "path", "required": True},
        "keys": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "work": {"type": "path", "required": True},
        "disk_size": {"type": "int", "required": True},
        "installation": {"type": "dict", "required": True},
        "timeout": {"type": "int", "default": 1200},
    }

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """The signed release, and what the machine is to become."""
        inputs = {
            "release": digest_of(Path(arguments["release"]) / MANIFEST),
            "installation": _digest.of_data(arguments["disk_size"], arguments["installation"]),
        }
        return Stage(Path(arguments["dest"]), inputs)

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Install into a directory beside the final one, which then takes its place."""
        release, work = Path(arguments["release"]), Path(arguments["work"])
        sandbox = sandbox_at(arguments["sdk"], work)
        manifest = json.loads((release / MANIFEST).read_text("utf-8"))
        new, media = work / "machine", work / "media"
        for directory in (new, media):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        parts = [manifest[part]["file"] for part in ("core", "uki", "boot_loader")]
        files = [MANIFEST, f"{MANIFEST}.p7s", *parts]
        installed.write_medium(sandbox, release, files, arguments["installation"], media / "medium.erofs")
        installed.write_boot_medium(sandbox, release / manifest["installer"]["file"], media / "boot.vfat")
        report = installed.install_in_vm(
            sandbox,
            name=manifest["product"],
            directory=new,
            boot_medium=media / "boot.vfat",
            medium=media / "medium.erofs",
            disk_size=arguments["disk_size"],
            keys=ProductKeys(Path(arguments["keys"])),
            timeout=arguments["timeout"],
            say=lambda text: Display().display(f"    {text}"),
        )
        shutil.rmtree(media)
        shutil.rmtree(stage.output, ignore_errors=True)
        new.rename(stage.output)
        disk = stage.output / installed.DISK
        row = {"file": f"{stage.output.name}/{disk.name}", "size": disk.stat().st_size, "sha256": _digest.of_file(disk)}
        return {"report": report, "artifacts": [row]}
