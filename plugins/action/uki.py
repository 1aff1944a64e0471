# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._boot import epochs, signing, uki
from ansible_collections.vauban.fleet.plugins.module_utils._image.core import Verity
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of, result_of
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data
from ansible_collections.vauban.fleet.plugins.plugin_utils._signer import SIGNING_SPEC, Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, StepAction, sandbox_at


class ActionModule(StepAction):
    """Joins kernel, initrd and command line to one signed EFI binary."""

    SPEC: ClassVar[dict[str, Any]] = {
        "sdk": {"type": "path", "required": True},
        "kernel": {"type": "path", "required": True},
        "kernel_release": {"type": "str", "required": True},
        "initrd": {"type": "path", "required": True},
        "os_release": {"type": "path", "required": True},
        "command_line": {"type": "list", "elements": "str", "required": True},
        "hardware_profiles": {"type": "list", "elements": "str", "default": []},
        "hardware_directories": {"type": "list", "elements": "path", "default": []},
        "core": {"type": "path"},
        "core_device": {"type": "str"},
        "security_epoch": {"type": "int", "default": 1},
        **SIGNING_SPEC,
        "dest": {"type": "path", "required": True},
        "work": {"type": "path", "required": True},
        "epoch": {"type": "int", "required": True},
    }

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """The parts, and who signs them."""
        self._signer = Signer(arguments)
        keys = self._signer.keys
        os_release = Path(arguments["os_release"])
        epochs.require(keys, arguments["security_epoch"])
        signing_keys = ("db", epochs.KEY, *epochs.before(keys))
        self._command_line = _command_line(arguments)
        inputs = {
            "kernel": arguments["kernel_release"],
            "initrd": digest_of(Path(arguments["initrd"])),
            "os-release": _digest.of_file(os_release) if os_release.exists() else "none",
            "command line": _digest.of_data(self._command_line),
            "keys": _digest.of_data(*(keys.certificate(name).fingerprint for name in signing_keys)),
            "code": _digest.of_tree(COLLECTION / "plugins/module_utils/_boot"),
        }
        return Stage(Path(arguments["dest"]), inputs)

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Build it unsigned, which gives the same bytes each time, then sign."""
        signer, keys, work = self._signer, self._signer.keys, Path(arguments["work"])
        sandbox = sandbox_at(arguments["sdk"], work)
        log = work / f"{stage.output.name}.log"
        log.unlink(missing_ok=True)
        unsigned = work / f"{stage.output.name}.unsigned"
        request = uki.UkiRequest(
            linux=Path(arguments["kernel"]),
            initrd=Path(arguments["initrd"]),
            command_line=self._command_line,
            os_release=Path(arguments["os_release"]).read_text("utf-8"),
            uname=arguments["kernel_release"],
            pcr_keys=signer.pcr_keys(),
            pcr_public=keys.directory / "pcr.pub",
        )
        phases = uki.build(sandbox, request, unsigned, epoch=arguments["epoch"], log=log)
        signing.sign_pe(sandbox, unsigned, stage.output, signer.reference("db"), signer.certificate("db"))
        return {
            "command_line": " ".join(self._command_line),
            "packages": result_of(Path(arguments["initrd"]))["packages"],
            "pcr11": dict(phases),
            "unsigned_sha256": _digest.of_file(unsigned),
            "sha256": _digest.of_file(stage.output),
            "size": stage.output.stat().st_size,
        }


def _command_line(arguments: Mapping[str, Any]) -> list[str]:
    """Where the root is, then what the product wants, then what its hardware needs."""
    words: list[str] = []
    if arguments["core"]:
        core = Path(arguments["core"])
        verity = result_of(core).get("verity")
        words += Verity(**verity).kernel_arguments(arguments["core_device"], core.suffix[1:]) if verity else []
    words += arguments["command_line"]
    for profile in _data.hardware(arguments["hardware_profiles"], arguments["hardware_directories"]).values():
        words += profile["kernel_arguments"]
    return list(dict.fromkeys(words))
