# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._atomic import write_json
from ansible_collections.vauban.fleet.plugins.module_utils._boot import forbidden, measurement, signing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.uki import STUB
from ansible_collections.vauban.fleet.plugins.module_utils._image import inside, lock, provenance, sbom
from ansible_collections.vauban.fleet.plugins.module_utils._image.core import Verity
from ansible_collections.vauban.fleet.plugins.module_utils._image.manifest import (
    MANIFEST,
    Artifact,
    State,
    Uki,
    build_manifest,
    kept_packages,
)
from ansible_collections.vauban.fleet.plugins.module_utils._image.packages import STATUS
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of, result_of
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data, _escrow
from ansible_collections.vauban.fleet.plugins.plugin_utils._signer import SIGNING_SPEC, Signer
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, StepAction, point, sandbox_at

_BOOT_LOADER = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_UKIS = ("uki", "installer")
_SBOM_CODE = ("sbom.py", "packages.py")
_CERTIFICATES = ("PK", "KEK", "db", "pcr", "root", "release")


class ActionModule(StepAction):
    """Signs the boot loader, writes SBOM, provenance and manifest of a release, and signs the manifest."""

    SPEC: ClassVar[dict[str, Any]] = {
        "product": {"type": "str", "required": True},
        "version": {"type": "str", "required": True},
        "sdk": {"type": "path", "required": True},
        "base": {"type": "path", "required": True},
        "layer": {"type": "path", "required": True},
        "core": {"type": "path", "required": True},
        "uki": {"type": "path", "required": True},
        "installer": {"type": "path", "required": True},
        "bundle": {"type": "path", "required": True},
        **SIGNING_SPEC,
        "lock_file": {"type": "path", "required": True},
        "security_epoch": {"type": "int", "default": 1},
        "author": {"type": "str", "required": True},
        "volume_group": {"type": "str", "required": True},
        "state_places": {"type": "list", "elements": "dict", "required": True},
        "tpm_pcrs": {"type": "list", "elements": "int", "required": True},
        "recipients": {"type": "list", "elements": "str", "default": []},
        "threshold": {"type": "int", "default": 1},
        "dbx": {"type": "list", "elements": "str", "default": []},
        "work": {"type": "path", "required": True},
    }

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Whether made or reused: this is the version of the product that was asked for last."""
        result = super().run(tmp, task_vars)
        if not self._task.check_mode:
            directory = Path(result["path"]).parent
            point(directory.parent / "current", directory)
        return result

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """The artifacts, what the installer is told, and the keys."""
        self._signer = Signer(arguments)
        keys = self._signer.keys
        about = ("product", "version", "security_epoch", "author", "instrumentation")
        told = (*about, "volume_group", "state_places", "tpm_pcrs")
        inputs = {
            **{name: digest_of(Path(arguments[name])) for name in ("core", "uki", "installer", "bundle")},
            "sdk": digest_of(Path(arguments["sdk"])),
            "layer": digest_of(Path(arguments["layer"]) / "upper"),
            "lock file": _digest.of_file(Path(arguments["lock_file"])),
            "settings": _digest.of_data({name: arguments[name] for name in (*told, "recipients", "threshold", "dbx")}),
            "keys": _digest.of_data([keys.certificate(name).fingerprint for name in _CERTIFICATES], keys.recipient()),
            "code": _digest.of_tree(*(COLLECTION / "plugins/module_utils" / name for name in ("_image", "_boot"))),
            "schema": _digest.of_tree(COLLECTION / "files/schema"),
        }
        directory = Path(arguments["core"]).parent
        return Stage(directory / MANIFEST, inputs, [directory / f"{MANIFEST}.p7s", directory / "systemd-bootx64.efi"])

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """The signature comes last: a directory without it is no release."""
        signer, work, directory = self._signer, Path(arguments["work"]), stage.output.parent
        keys = signer.keys
        officers = _escrow.officers(keys.recipient(), arguments["recipients"], arguments["threshold"])
        sandbox = sandbox_at(arguments["sdk"], work)
        core, uki, installer, bundle = (Path(arguments[name]) for name in ("core", "uki", "installer", "bundle"))
        unsigned, boot_loader = work / "systemd-bootx64.efi", directory / "systemd-bootx64.efi"
        sandbox.run(["cp", _BOOT_LOADER, "/run/out/systemd-bootx64.efi"], binds=[Bind(work, "/run/out", writable=True)])
        signing.sign_pe(sandbox, unsigned, boot_loader, signer.reference("db"), signer.certificate("db"))
        forbidden.refuse_own([uki, installer, boot_loader], arguments["dbx"])
        locked = lock.read(Path(arguments["lock_file"]))
        packages = kept_packages(locked, result_of(core)["packages"])
        name = f"{arguments['product']}_{arguments['version']}"
        sbom_file, provenance_file = directory / f"{name}.cdx.json", directory / f"{name}.intoto.json"
        self._write_sbom(arguments, sbom_file, locked)
        artifacts = [Artifact.of(path) for path in (core, uki, installer, bundle, boot_loader, sbom_file)]
        write_json(
            provenance_file,
            provenance.build_provenance(
                product=arguments["product"],
                version=arguments["version"],
                inventory_digest=result_of(Path(arguments["layer"]) / "upper")["inventory"],
                collection_version=_data.collection_version(),
                collection_digest=_digest.of_tree(*(COLLECTION / part for part in ("plugins", "roles", "files"))),
                packages=locked.packages,
                artifacts=artifacts,
            ),
        )
        signer_der = keys.certificate("db").der
        manifest = build_manifest(
            product=arguments["product"],
            version=arguments["version"],
            security_epoch=arguments["security_epoch"],
            instrumentation=arguments["instrumentation"],
            key_kind=keys.read_marker()["kind"],
            lock=locked,
            lock_sha256=_digest.of_file(Path(arguments["lock_file"])),
            packages=packages,
            core=Artifact.of(core),
            core_format=core.suffix[1:],
            verity=Verity(**result_of(core)["verity"]),
            uki=_uki(uki, core, signer_der, {"boot_loader": [boot_loader, uki], "direct": [uki]}),
            installer=_uki(installer, core, signer_der, {"direct": [installer]}),
            bundle=Artifact.of(bundle),
            boot_loader=Artifact.of(boot_loader),
            volume_group=arguments["volume_group"],
            state=State(
                places=arguments["state_places"],
                pcrs=arguments["tpm_pcrs"],
                pcr_public_key=(keys.directory / "pcr.pub").read_text("utf-8"),
            ),
            recipients=officers,
            threshold=arguments["threshold"],
            certificates={name: keys.certificate(name).fingerprint for name in _CERTIFICATES},
            sbom=Artifact.of(sbom_file),
            provenance=Artifact.of(provenance_file),
            origin=Artifact.of(directory / "origin.json"),
        )
        write_json(stage.output, manifest)
        signature = directory / f"{MANIFEST}.p7s"
        signing.sign_cms(sandbox, stage.output, signer.reference("release"), signer.certificate("release"), signature)
        files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name[0] != "."]
        return {"artifacts": [_row(path) for path in files]}

    @staticmethod
    def _write_sbom(arguments: Mapping[str, Any], dest: Path, locked: lock.Lock) -> None:
        """A bill of materials takes longer than all the rest here, and changes with the packages only."""
        told = {name: arguments[name] for name in ("product", "version", "author")}
        found = {Path(arguments[name]).name: result_of(Path(arguments[name]))["packages"] for name in _UKIS}
        found[Path(arguments["core"]).name] = {"tree": result_of(Path(arguments["core"]))["packages"]}
        inputs = {
            "packages": _digest.of_data(locked.epoch, [package.sha256 for package in locked.packages], found),
            "sdk": digest_of(Path(arguments["sdk"])),
            "settings": _digest.of_data(told),
            "code": _digest.of_tree(*(COLLECTION / "plugins/module_utils/_image" / name for name in _SBOM_CODE)),
        }
        stage = Stage(dest, inputs)
        if stage.why_stale() is None:
            return
        stage.begin()
        work = Path(arguments["work"])
        sandbox, log = sandbox_at(arguments["sdk"], work), work / "release_manifest.log"
        # The boot loader and the stub of a UKI are programs that the SDK's systemd brings.
        for path, files in ((_BOOT_LOADER, ["systemd-bootx64.efi"]), (STUB, [Path(arguments[n]).name for n in _UKIS])):
            owner, database = inside.call(
                sandbox, "_image.packages.owner_and_database", {"path": path}, epoch=locked.epoch, log=log
            )
            for name in files:
                found[name] = {**found.get(name, {}), path: owner}
        contents = {
            name: {package for kept in parts.values() for package in kept_packages(locked, kept)}
            for name, parts in found.items()
        }
        databases = [(Path(arguments["base"]) / STATUS).read_text("utf-8"), database]
        write_json(dest, sbom.build_sbom(databases, contents, locked, **told))
        stage.finish({})


def _uki(path: Path, core: Path, signer: bytes, ways: Mapping[str, list[Path]]) -> Uki:
    built = result_of(path)
    return Uki(
        artifact=Artifact.of(path),
        unsigned_sha256=built["unsigned_sha256"],
        authenticode_sha256=measurement.authenticode(path),
        signer=signer,
        policy_keys=measurement.policy_keys(path),
        kernel=result_of(core)["kernel"],
        command_line=built["command_line"],
        pcr4={way: measurement.boot_pcr(started) for way, started in ways.items()},
        pcr11=built["pcr11"],
    )


def _row(path: Path) -> dict[str, Any]:
    return {"file": path.name, "size": path.stat().st_size, "sha256": _digest.of_file(path)}
