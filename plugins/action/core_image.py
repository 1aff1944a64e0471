# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json
from ansible_collections.vauban.fleet.plugins.module_utils._image import core, inside
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import UNBUILT, Stage, digest_of, result_of
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, remove_tree
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, StepAction, sandbox_at


class ActionModule(StepAction):
    """Cleans up a configured tree and packs it as a read-only image with dm-verity."""

    SPEC: ClassVar[dict[str, Any]] = {
        "sdk": {"type": "path", "required": True},
        "base": {"type": "path", "required": True},
        "layer": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "work": {"type": "path", "required": True},
        "root_format": {"type": "str", "choices": list(core.FORMATS), "default": "erofs"},
        "hardware_profiles": {"type": "list", "elements": "str", "default": []},
        "hardware_directories": {"type": "list", "elements": "path", "default": []},
        "epoch": {"type": "int", "required": True},
    }

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """Everything that reaches the image, and the code that makes it."""
        upper = Path(arguments["layer"]) / "upper"
        self._data = {
            "cleanup": _data.read(_data.FILES / "cleanup.yml"),
            "explanations": _data.read(_data.FILES / "origin.yml"),
            **_hardware(arguments),
        }
        inputs = {
            "base tree": digest_of(Path(arguments["base"])),
            "configuration": result_of(upper).get("content", UNBUILT),
            "clean-up and hardware": _digest.of_data(self._data),
            "root_format": arguments["root_format"],
            "code": _digest.of_tree(COLLECTION / "plugins/module_utils/_image"),
        }
        dest = Path(arguments["dest"])
        return Stage(dest, inputs, [dest.with_name("origin.json")])

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Finalize on a throw-away layer, then pack that."""
        work = Path(arguments["work"])
        sandbox = sandbox_at(arguments["sdk"], work)
        log = work / "core_image.log"
        log.unlink(missing_ok=True)
        base, upper = Path(arguments["base"]), Path(arguments["layer"]) / "upper"
        final, out = work / "final", work / "out"
        for directory in (final, out):
            remove_tree(directory)
        for directory in (final / "upper", final / "work", out):
            directory.mkdir(parents=True)
        (final / "upper").chmod(0o755)  # of / in the image, whatever the umask
        finalized = inside.call(
            sandbox,
            "_image.finalize.finalize",
            {**self._data, "roles": result_of(upper)["files"]},
            binds=[Bind(out, "/run/out", writable=True)],
            layers={"/run/tree": Layers((upper, base), final / "upper", final / "work")},
            epoch=arguments["epoch"],
            log=log,
        )
        image = out / stage.output.name
        tree = Layers((final / "upper", upper, base))
        core.make_file_system(
            sandbox, tree, image, root_format=arguments["root_format"], epoch=arguments["epoch"], log=log
        )
        # The salt is public and must only differ between images; their content is not known before it is hashed.
        verity = core.add_verity(sandbox, image, salt_seed=_digest.of_file(image), log=log)
        write_json(stage.output.with_name("origin.json"), finalized["origin"])
        (out / "vmlinuz").rename(self._kernel(arguments))
        image.rename(stage.output)
        remove_tree(final)
        return {
            "verity": verity.as_dict(),
            "kernel": finalized["kernel"],
            "packages": finalized["packages"],
            "size": verity.size,
        }

    @staticmethod
    def _kernel(arguments: Mapping[str, Any]) -> Path:
        return Path(arguments["work"]) / "vmlinuz"


def _hardware(arguments: Mapping[str, Any]) -> dict[str, list[str]]:
    """Kernel modules and firmware of a product: what its hardware profiles and its initrd name."""
    profiles = _data.hardware(arguments["hardware_profiles"], arguments["hardware_directories"]).values()
    listed = [*profiles, _data.read(_data.FILES / "initrd/system.yml")]
    return {
        "modules": sorted({module for item in listed for module in item["modules"]}),
        "firmware": sorted({pattern for profile in profiles for pattern in profile["firmware"]}),
    }
