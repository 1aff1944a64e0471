# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data of a host come out of it over the network. Then its disk takes harm: its machine does not start, is repaired
over the network, and starts by itself again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from bare import FAILED, bare_machine, state
from disks import cut_out, flip, overwrite, partitions, volumes
from machines import BOOT_TIMEOUT, DEFAULT_TARGET, Boot, reach, read_manifest
from provisioned_site import GATEWAY, GATEWAY_INNER_MAC, GATEWAY_MAC, SERVER, Site
from provisioning_server import ProvisioningServer

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import SegmentNic

pytestmark = pytest.mark.extended

_HEADER = 16 << 20  # bytes of a LUKS2 header (cryptsetup-luksFormat(8), --offset)


def test_disk_is_backed_up_and_when_it_is_damaged_repaired(
    server: ProvisioningServer,
    networked_release: Path,
    keys: ProductKeys,
    sandbox: Sandbox,
    boot: Boot,
    tmp_path: Path,
) -> None:
    (tmp_path / "machine").mkdir()
    inner = SegmentNic(*server.inner, mac=GATEWAY_INNER_MAC)
    bare = bare_machine(sandbox, keys, tmp_path / "machine", server.segment, GATEWAY_MAC, others=[inner])
    known: dict[str, dict[str, Any]] = {GATEWAY: {"class": "software_tpm", "ek_sha256": bare.ek_sha256}, SERVER: {}}
    site = Site(tmp_path / "site", server, [networked_release], known)
    site.play("site_pki", "-e", "site_pki_verb=create")
    switch_on = f"Switch on, with the network as boot source: {GATEWAY}"
    with site.playing("provision", "--limit", GATEWAY) as provisioning:
        provisioning.wait_for(switch_on, within=180)
        with boot(bare.spec) as machine:
            machine.serial.wait_for(f"INSTALLED {GATEWAY}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
            machine.wait_exit(BOOT_TIMEOUT)
        with boot(bare.from_disk):
            provisioning.end(within=BOOT_TIMEOUT)

    disk, volume = bare.spec.disks[0].path, tmp_path / "volume"
    manifest, parts = read_manifest(networked_release), volumes(disk)
    core = parts[f"core_{manifest['version']}"]

    def slots() -> list[str]:
        cut_out(disk, parts["state"], volume)
        words = ["cryptsetup", "luksDump", "--dump-json-metadata", "/run/volume"]
        dumped = json.loads(sandbox.run(words, binds=[Bind(volume, "/run/volume")]).stdout)
        return sorted(dumped["keyslots"])

    before = slots()
    header = hashlib.sha256(volume.read_bytes()[:_HEADER]).hexdigest()
    identity = sandbox.run(["age-keygen"]).stdout
    (tmp_path / "keeper").write_text(identity)
    words = [
        "-e",
        "reason=weekly",
        "-e",
        f"identity={keys.private('escrow')}",
        "-e",
        f"backup_fetch={tmp_path}/fetched",
    ]
    words += ["-e", f"recipients={identity.partition('# public key: ')[2].partition(chr(10))[0]}"]
    with site.playing("backup", "--limit", GATEWAY, *words) as saving:
        saving.wait_for(switch_on, within=180)
        with boot(bare.spec) as machine:
            machine.serial.wait_for(f"BACKED UP {GATEWAY}", timeout=BOOT_TIMEOUT, fail_on=[FAILED, "INSTALLED"])
            machine.wait_exit(BOOT_TIMEOUT)
        saving.end(within=BOOT_TIMEOUT)
    assert state(server, GATEWAY)[0] == "backed_up"
    (kept,) = (tmp_path / "fetched").iterdir()
    line = "set -o pipefail; age -d -i /run/identity /run/backup | zstd -d | tar -t"
    binds = [Bind(kept, "/run/backup"), Bind(tmp_path / "keeper", "/run/identity")]
    names = {name.rstrip("/") for name in sandbox.run(["bash", "-euc", line], binds=binds).stdout.splitlines()}
    places = [each for each in manifest["state"]["places"] if each["kind"] != "configuration"]
    assert {f".{each['path']}" for each in places} <= names
    assert slots() == before
    assert hashlib.sha256(volume.read_bytes()[:_HEADER]).hexdigest() == header

    # Its firmware would try the network first: nobody has entered the disk since. A power controller says it for once.
    overwrite(disk, parts["state"].offset, bytes(4096))  # the first copy of the header
    flip(disk, core.offset + 4096)
    overwrite(disk, partitions(disk)[0].offset, bytes(1 << 20))  # where the boot loader's file system begins
    words = ["-e", "reason=damaged", "-e", f"identity={keys.private('escrow')}"]
    with site.playing("repair", "--limit", GATEWAY, *words) as repairing:
        repairing.wait_for(switch_on, within=180)
        with boot(bare.spec) as machine:
            machine.serial.wait_for(f"REPAIRED {GATEWAY}", timeout=BOOT_TIMEOUT, fail_on=[FAILED, "INSTALLED"])
            machine.wait_exit(BOOT_TIMEOUT)
        repairing.end(within=BOOT_TIMEOUT)
    said, line = state(server, GATEWAY)
    assert said == "repaired"
    assert all(each in line for each in ("first copy of the header", "core", "EFI system partition"))
    assert slots() == before
    with disk.open("rb") as stream:
        stream.seek(core.offset)
        assert hashlib.sha256(stream.read(manifest["core"]["size"])).hexdigest() == manifest["core"]["sha256"]
    with boot(bare.from_disk) as machine:
        reach(machine, DEFAULT_TARGET)
    assert "AGE-SECRET-KEY" not in server.journal() + site.printed()
