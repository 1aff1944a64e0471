# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._image.stage import Stage, digest_of
from ansible_collections.vauban.fleet.plugins.module_utils._install import hardware_profile
from ansible_collections.vauban.fleet.plugins.module_utils._install.state import SECURE_BOOT_PCR, bound
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, remove_tree
from ansible_collections.vauban.fleet.plugins.plugin_utils import _data, _provisioning_server
from ansible_collections.vauban.fleet.plugins.plugin_utils._step import COLLECTION, StepAction, sandbox_at

_OVERLAYS = {"system": ("root",), "installer": ("root", "installer_root")}
# Options of mounts that name paths.
_PATHS = ("lowerdir", "x-systemd.requires-mounts-for")
_CONTENTS = {"system": ("system",), "installer": ("system", "installer")}
# systemd-stub(7) puts there what the UKI carries.
_SIGNATURE = "/.extra/tpm2-pcr-signature.json"
_POLICY = "etc/systemd/system/systemd-cryptsetup@state.service.d/60-policy.conf"
# Before the volume is opened: later the TPM gives nothing away.
_VARIABLES = "etc/systemd/system/systemd-cryptsetup@state.service.d/70-variables.conf"
_VARIABLES_OF = "etc/systemd/system/update-variables.service.d/50-volume.conf"
_NETWORK_OVERLAY, _NETWORK_CONTENT = "installer_network_root", "installer_network"


class ActionModule(StepAction):
    """Builds the initrd of a product or of its installer."""

    SPEC: ClassVar[dict[str, Any]] = {
        "kind": {"type": "str", "choices": list(_CONTENTS), "required": True},
        "sdk": {"type": "path", "required": True},
        "base": {"type": "path", "required": True},
        "layer": {"type": "path", "required": True},
        "dest": {"type": "path", "required": True},
        "work": {"type": "path", "required": True},
        "hardware_profiles": {"type": "list", "elements": "str", "default": []},
        "hardware_directories": {"type": "list", "elements": "path", "default": []},
        "root": {"type": "path"},
        "enrolment": {"type": "dict", "default": {}},
        "moved_pcrs": {"type": "list", "elements": "int", "default": []},
        "dbx_pcrs": {"type": "list", "elements": "int", "default": []},
        "compression_level": {"type": "int", "default": 6},
        "epoch": {"type": "int", "required": True},
    }

    def stage(self, arguments: Mapping[str, Any]) -> Stage:
        """The tree without the roles' changes but for two files: most changes of a role must not cost an initrd."""
        kind = arguments["kind"]
        server = _provisioning_server.parse(arguments["enrolment"]) if kind == "installer" else None
        contents = [*_CONTENTS[kind], *([_NETWORK_CONTENT] if server else [])]
        overlays = [*_OVERLAYS[kind], *([_NETWORK_OVERLAY] if server else [])]
        self._contents = [_data.read(_data.FILES / f"initrd/{name}.yml") for name in contents]
        self._overlays = [_data.FILES / "initrd" / name for name in overlays]
        self._texts = {**_texts(arguments), **(server.texts() if server else {})}
        named = _data.hardware(arguments["hardware_profiles"], arguments["hardware_directories"])
        machines = json.dumps(_data.machines(named)) + "\n"
        self._machines = {hardware_profile.FILE: machines} if kind == "installer" else {}
        profiles = named.values()
        self._modules = sorted({module for profile in profiles for module in profile.get("initrd_modules", [])})
        # Of network cards an installer without network needs none.
        self._cards = sorted({module for profile in profiles for module in profile["modules"]}) if server else []
        inputs = {
            "base tree": digest_of(Path(arguments["base"])),
            "os-release, fstab, crypttab and enrolment": _digest.of_data(self._texts),
            "machines of the hardware profiles": _digest.of_data(self._machines),
            "contents": _digest.of_data(self._contents, self._modules, self._cards, arguments["compression_level"]),
            "overlays": _digest.of_tree(*self._overlays),
            **({"sdk": digest_of(Path(arguments["sdk"]))} if kind == "installer" else {}),
            "code": _digest.of_tree(*(COLLECTION / "plugins/module_utils" / name for name in _CODE[kind])),
        }
        return Stage(Path(arguments["dest"]), inputs)

    def make(self, arguments: Mapping[str, Any], stage: Stage) -> Mapping[str, Any]:
        """Pick the files inside the SDK, pack them there."""
        work = Path(arguments["work"])
        log, out = work / f"initrd_{arguments['kind']}.log", work / f"initrd_{arguments['kind']}"
        log.unlink(missing_ok=True)
        remove_tree(out)
        out.mkdir(parents=True)
        overlays = {f"/run/overlay{number}": path for number, path in enumerate(self._overlays)}
        built = inside.call(
            sandbox_at(arguments["sdk"], work),
            "_image.initrd.build",
            {
                "contents": self._contents,
                "overlay": list(overlays),
                "modules": self._modules,
                "cards": self._cards,
                "texts": {**self._texts, **self._machines},
                "compression_level": arguments["compression_level"],
                "library": arguments["kind"] == "installer",
            },
            binds=[Bind(out, "/run/out", writable=True), *(Bind(path, dest) for dest, path in overlays.items())],
            layers={"/run/tree": Layers((Path(arguments["base"]),))},
            epoch=arguments["epoch"],
            log=log,
        )
        (out / "initrd").rename(stage.output)
        return {**built, "size": stage.output.stat().st_size}


# Only an installer carries our library, so only there a change of it matters.
_CODE = {
    "system": ("_image",),
    "installer": (
        "_image",
        "_install",
        "_tpm",
        "_command.py",
        "_atomic.py",
        "_digest.py",
        "_errors.py",
        "_signatures.py",
    ),
}


def _texts(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Files that depend on the product's configuration: the initrd is not that of another product or version."""
    upper = Path(arguments["layer"]) / "upper"
    try:
        lines = (upper / "etc/crypttab").read_text("utf-8").splitlines(keepends=True)
        texts = {"usr/lib/os-release": (upper / "usr/lib/os-release").read_text("utf-8")}
    except FileNotFoundError as exc:
        raise FleetError("role vauban.fleet.core has not run for this product", where=str(exc.filename)) from None
    if arguments["kind"] == "system":
        mounts = (upper / "etc/fstab").read_text("utf-8").splitlines()
        mounts = [line for line in mounts if re.search(r"^[^#].*\bx-initrd\.mount\b", line)]
        texts["etc/fstab"] = "".join(map(_below_sysroot, mounts))
        attached = [line for line in lines if re.search(r"^[^#].*\bx-initrd\.attach\b", line)]
        texts["etc/crypttab"] = "".join(attached)
        if arguments["moved_pcrs"]:
            texts[_POLICY] = "".join(_move(line, arguments["moved_pcrs"]) for line in attached)
        if arguments["dbx_pcrs"]:
            texts[_VARIABLES] = "[Service]\nExecStartPre=-/usr/bin/systemctl start update-variables.service\n"
            texts[_VARIABLES_OF] = "".join(_volume(line, arguments["dbx_pcrs"]) for line in attached)
    elif arguments["root"]:
        texts["etc/vauban/root.pem"] = _root(Path(arguments["root"]))
    return texts


def _move(line: str, pcrs: Sequence[int]) -> str:
    """A drop-in (systemd.unit(5)) that has the TPM open a volume of crypttab(5) for the key of this image, too.

    Now, because later in a boot the TPM gives nothing away. A failure costs nothing: what opened it before still does.
    """
    device = line.split()[1]
    words = ["/usr/bin/systemd-cryptenroll", "--unlock-tpm2-device=auto", "--tpm2-device=auto"]
    words += [f"--tpm2-pcrs={bound(pcrs)}", "--tpm2-public-key-pcrs=11"]
    words += ["--tpm2-public-key=/.extra/tpm2-pcr-public-key.pem", f"--tpm2-signature={_SIGNATURE}", device]
    return f"[Service]\nExecStartPre=-{' '.join(words)}\n"


def _volume(line: str, pcrs: Sequence[int]) -> str:
    """A drop-in that names a volume of crypttab(5) and what it is bound to, but for PCR 7."""
    others = bound([number for number in pcrs if number != SECURE_BOOT_PCR])
    return f"[Service]\nEnvironment=DEVICE={line.split()[1]} OTHER_PCRS={others}\n"


def _below_sysroot(line: str) -> str:
    """A line of fstab(5) of the core, as the initrd mounts it."""
    what, where, kind, options, *rest = line.split()
    kept = [_option(option) for option in options.split(",") if not option.startswith("x-initrd.")]
    source = f"/sysroot{what}" if what.startswith("/") and not what.startswith("/dev/") else what
    return " ".join([source, f"/sysroot{where}", kind, ",".join(kept), *rest]) + "\n"


def _option(option: str) -> str:
    name, equals, value = option.partition("=")
    if name not in _PATHS:
        return option
    return name + equals + ":".join(f"/sysroot{path}" for path in value.split(":"))


def _root(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise FleetError(
            "the certificate of the root does not exist",
            where=str(path),
            remedy="make the keys with 'ansible-playbook vauban.fleet.pki'",
        ) from None
