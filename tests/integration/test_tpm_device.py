# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's side of an enrolment where it will run: in an initrd, with the resource manager of the kernel."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from guests import EPOCH, GUEST
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import KernelBoot, MachineSpec

ROOT = Path(__file__).resolve().parents[2]
INSTALLER = yaml.safe_load((ROOT / "files/initrd/installer.yml").read_text("utf-8"))
TPM_FILES = ["/usr/bin/tpm2", "/usr/bin/tpm2_*", "/usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0"]
LIBRARY = "usr/lib/vauban/ansible_collections/vauban/fleet/plugins/module_utils"
END = "END OF RESULT"
BOOT_TIMEOUT = 240.0  # seconds; an idle host needs 20

pytestmark = [
    pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the files of the tree belong to root"),
]

INIT = f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin PYTHONPATH=/usr/lib/vauban
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=0755 tmpfs /run
python3 -B /usr/lib/client.py
echo "{END}"
while :; do sleep 60; done
"""


@pytest.fixture
def boot(base: Path, tmp_path: Path) -> KernelBoot:
    """The kernel of the product, and an initrd with what the installer's holds and tpm2-tools."""
    overlay, out = tmp_path / "overlay", tmp_path / "out"
    for part in ("_command.py", "_errors.py", "_tpm"):
        source, dest = ROOT / "plugins/module_utils" / part, overlay / LIBRARY / part
        dest.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, dest) if source.is_dir() else shutil.copyfile(source, dest)
    shutil.copyfile(ROOT / "tests/support/tpm_client.py", overlay / "usr/lib/client.py")
    (overlay / "usr/lib/init").write_text(INIT)
    (overlay / "usr/lib/init").chmod(0o755)
    out.mkdir()
    (tmp_path / "scratch").mkdir()
    inside.call(
        Sandbox(SDK, tmp_path / "scratch"),
        "_image.initrd.build",
        {
            "contents": [
                yaml.safe_load((GUEST / "initrd.yml").read_text("utf-8")),
                {"sdk_files": [*INSTALLER["sdk_files"], *TPM_FILES]},
            ],
            "overlay": ["/run/overlay"],
            "modules": [],
            "texts": {},
            "compression_level": 1,
        },
        binds=[Bind(out, "/run/out", writable=True), Bind(overlay, "/run/overlay")],
        layers={"/run/tree": Layers((base,))},
        epoch=EPOCH,
        log=tmp_path / "initrd.log",
    )
    (kernel,) = (base / "boot").glob("vmlinuz-*")
    return KernelBoot(kernel, out / "initrd", "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/usr/lib/init")


def test_keys_challenges_and_quotes_in_an_initrd(boot: KernelBoot, tmp_path: Path) -> None:
    """Several times each, since what stays behind in a TPM fills it."""
    spec = MachineSpec("tpm", tmp_path, boot, memory=512, tpm=True, tpm_ca=tmp_path / "ca")
    with Machine(spec, Sandbox(SDK, tmp_path / "scratch")) as machine:
        machine.serial.wait_for(END, timeout=BOOT_TIMEOUT)
    console = (tmp_path / "serial.log").read_text("utf-8", "replace")
    found = re.search(r"RESULT (\S+)", console)
    assert found, console
    told: dict[str, Any] = json.loads(base64.b64decode(found[1]))
    assert told["refusal"].startswith("this TPM does not open the challenge")
    assert told == {
        "certificate": True,
        "answers": [True] * 4,
        "refusal": told["refusal"],
        "quoted": [True] * 4,
        "same": True,
    }
