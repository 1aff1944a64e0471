# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._image import bundle
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of
from ansible_collections.vauban.fleet.plugins.plugin_utils._signer import SIGNING_SPEC, Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, StepAction, sandbox_at


class ActionModule(StepAction):
    """Packs core and UKI as the signed file that machines update themselves with."""

    SPEC: ClassVar[dict[str, Any]] = {
        "product": {"type": "str", "required": True},
        "version": {"type": "str", "required": True},
        "sdk": {"type": "path", "required": True},
        "core": {"type": "path", "required": True},
        "uki": {"type": "path", "required": True},
        **SIGNING_SPEC,
        "dest": {"type": "path", "required": True},
        "work": {"type": "path", "required": True},
        "epoch": {"type": "int", "required": True},
    }

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """The two files, their name, and who signs."""
        self._signer = Signer(arguments)
        code = ("_image/bundle.py", "_boot/signing.py", "_signatures.py")
        inputs = {
            **{name: digest_of(Path(arguments[name])) for name in ("core", "uki")},
            "name": _digest.of_data(arguments["product"], arguments["version"]),
            "keys": _digest.of_data(self._signer.keys.certificate("release").fingerprint),
            "code": _digest.of_tree(*(COLLECTION / "plugins/module_utils" / name for name in code)),
        }
        return Stage(Path(arguments["dest"]), inputs)

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Everything but the signature comes out the same each time."""
        signer, work, core = self._signer, Path(arguments["work"]), Path(arguments["core"])
        sandbox = sandbox_at(arguments["sdk"], work)
        log = work / "update_bundle.log"
        log.unlink(missing_ok=True)
        out = work / "bundle"
        out.mkdir(exist_ok=True)
        payload = out / stage.output.name
        unsigned = bundle.write_payload(
            sandbox, core, Path(arguments["uki"]), payload, epoch=arguments["epoch"], log=log
        )
        manifest = bundle.manifest_text(
            arguments["product"],
            arguments["version"],
            unsigned,
            core_size=core.stat().st_size,
            core_sha256=_digest.of_file(core),
        )
        key, certificate = signer.reference("release"), signer.certificate("release")
        bundle.sign(
            sandbox, payload, manifest, key, certificate, stage.output, trust=signer.keys.trust("release"), log=log
        )
        return {"size": stage.output.stat().st_size, "sha256": _digest.of_file(stage.output)}
