# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundle whose payload is longer than 4 GiB is verified and written to its end by the RAUC of the image.

CVE-2026-34155: what lies behind the first 2 GiB was not signed in bundles of format ``plain``. Ours are of format
``verity``, and nothing else is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from machines import Boot, copy_with_raw_disk, reach
from shell import PROMPT, Shell
from updating import LATE

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._image import bundle
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import Disk

pytestmark = pytest.mark.extended

GIB = 1 << 30
CORE = 4 * GIB + 200 * (1 << 20)  # bytes, which do not compress
LARGE = "/run/large"  # where the machine mounts the disk with the bundle
# As update-install has it, with nothing to place.
BACKEND = "#!/bin/sh\ncase $1 in get-*) echo running ;; esac\n"
CONFIGURATION = f"""
[system]
compatible=gateway
bootloader=custom
bundle-formats=verity
mountprefix=/run/rauc-large/mounts
data-directory=/run/rauc-large/data
[handlers]
bootloader-custom-backend={LARGE}/backend
[keyring]
path={LARGE}/root.pem
check-crl=true
check-purpose=codesign
[slot.core.0]
device=/dev/null
type=raw
bootname=running
[slot.core.1]
device=/dev/disk/by-id/virtio-slot
type=raw
bootname=new
"""
INSTALL = f"""
mkdir -p /run/rauc-large/mounts /run/rauc-large/data
rauc --conf={LARGE}/system.conf --override-boot-slot=running service > /run/rauc-large/log 2>&1 &
service=$!
until busctl --quiet status de.pengutronix.rauc > /dev/null 2>&1; do kill -0 $service; sleep 1; done
status=0
rauc --conf={LARGE}/system.conf install {LARGE}/bundle.raucb || status=$?
kill $service
wait $service || true
tail -n 30 /run/rauc-large/log
exit $status
"""


@pytest.fixture
def bundle_disk(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file system with a bundle in it and the root that machines believe; the SHA-256 of the core in it."""
    made, log = tmp_path / "made", tmp_path / "log"
    made.mkdir()
    core, uki = tmp_path / "core", tmp_path / "uki"
    with core.open("wb") as stream:
        for _mebibyte in range(CORE // (1 << 20)):
            stream.write(os.urandom(1 << 20))
    uki.write_bytes(b"uki")
    digest = _digest.of_file(core)
    payload = made / "payload"
    described = bundle.write_payload(sandbox, core, uki, payload, epoch=0, log=log)
    core.unlink()  # nobody needs two of that size
    assert payload.stat().st_size > 4 * GIB
    manifest = bundle.manifest_text("gateway", "9.0.0", described, core_size=CORE, core_sha256=digest)
    dest, trust = made / "bundle.raucb", keys.trust("release")
    certificate, key = keys.public("release"), keys.reference("release")
    bundle.sign(sandbox, payload, manifest, key, certificate, dest, trust=trust, log=log)
    for left in made.iterdir():
        if left != dest:
            left.unlink()
    (made / "root.pem").write_bytes(trust.root.read_bytes())
    (made / "system.conf").write_text(CONFIGURATION)
    (made / "install").write_text(INSTALL)
    (made / "backend").write_text(BACKEND)
    (made / "backend").chmod(0o755)
    image = tmp_path / "bundle.ext4"
    with image.open("wb") as stream:
        stream.truncate(CORE + GIB // 4)
    binds = [Bind(made, "/run/in"), Bind(image, "/run/image", writable=True)]
    sandbox.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", "/run/in", "/run/image"], binds=binds, log=log)
    dest.unlink()
    yield image, digest
    image.unlink()


@pytest.fixture
def machine(instrumented_release: Path, bundle_disk: tuple[Path, str], boot: Boot, tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "machine").mkdir()
    spec = copy_with_raw_disk(instrumented_release, tmp_path / "machine")
    slot = tmp_path / "slot"
    with slot.open("wb") as stream:
        stream.truncate(CORE + GIB // 4)
    disks = (*spec.disks, Disk(bundle_disk[0], serial="bundle"), Disk(slot, serial="slot"))
    with boot(replace(spec, disks=disks)) as running:
        yield running
    slot.unlink()


def test_every_part_of_a_bundle_beyond_4_gib_is_verified(machine: Machine, bundle_disk: tuple[Path, str]) -> None:
    reach(machine, PROMPT)
    shell = Shell(machine)
    shell(f"mkdir {LARGE}; mount /dev/disk/by-id/virtio-bundle {LARGE}")
    for offset in (GIB, 2 * GIB + 4096 * 5, 4 * GIB + 4096 * 7):
        there = f"dd of={LARGE}/bundle.raucb bs=1 seek={offset} conv=notrunc,fsync status=none"
        shell(f"tail -c +{offset + 1} {LARGE}/bundle.raucb | head -c 1 > /run/byte")
        shell(f"if printf '\\0' | cmp -s - /run/byte; then printf '\\1'; else printf '\\0'; fi | {there}")
        answer = shell.ask(f"sh -eu {LARGE}/install", timeout=LATE)
        assert answer.status != 0, f"a changed byte at {offset} was installed:\n{answer.text}"
        assert "nput/output error" in answer.text, answer.text
        shell(f"cat /run/byte | {there}")
    said = shell(f"sh -eu {LARGE}/install", timeout=LATE)
    assert "succeeded" in said, said
    found = shell(f"head -c {CORE} /dev/disk/by-id/virtio-slot | sha256sum", timeout=LATE).split()[0]
    assert found == bundle_disk[1]
