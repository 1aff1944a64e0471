# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of a host goes into another machine, with other firmware and another TPM, and boots there by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bare import FAILED, Bare, bare_machine, state
from disks import cut_out, volumes
from machines import BOOT_TIMEOUT, Boot
from provisioned_site import GATEWAY, GATEWAY_INNER_MAC, GATEWAY_MAC, SERVER, Site
from provisioning_server import ProvisioningServer

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import SegmentNic

pytestmark = pytest.mark.extended


def test_disk_goes_to_another_machine(
    server: ProvisioningServer,
    networked_release: Path,
    keys: ProductKeys,
    sandbox: Sandbox,
    boot: Boot,
    tmp_path: Path,
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    inner = SegmentNic(*server.inner, mac=GATEWAY_INNER_MAC)  # the network cards move, too
    old, new = (
        bare_machine(sandbox, keys, tmp_path / name, server.segment, GATEWAY_MAC, others=[inner])
        for name in ("old", "new")
    )
    new = replace(new, spec=replace(new.spec, disks=old.spec.disks))

    def known(gateway: Bare) -> dict[str, dict[str, Any]]:
        return {GATEWAY: {"class": "software_tpm", "ek_sha256": gateway.ek_sha256}, SERVER: {}}

    site = Site(tmp_path / "site", server, [networked_release], known(old))
    site.play("site_pki", "-e", "site_pki_verb=create")
    with site.playing("provision", "--limit", GATEWAY) as provisioning:
        provisioning.wait_for(f"Switch on, with the network as boot source: {GATEWAY}", within=180)
        with boot(old.spec) as machine:
            machine.serial.wait_for(f"INSTALLED {GATEWAY}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
            machine.wait_exit(BOOT_TIMEOUT)
        with boot(old.from_disk):
            provisioning.end(within=BOOT_TIMEOUT)

    disk, volume = old.spec.disks[0].path, tmp_path / "state.luks"

    def header() -> dict[str, Any]:
        """Of the volume. Slots change their numbers, and a digest lists them; its value is that of the volume key."""
        cut_out(disk, volumes(disk)["state"], volume)
        words = ["cryptsetup", "luksDump", "--dump-json-metadata", "/run/volume"]
        return dict(json.loads(sandbox.run(words, binds=[Bind(volume, "/run/volume")]).stdout))

    def opens(key: bytes) -> bool:
        words = ["cryptsetup", "open", "--test-passphrase", "--key-file", "-", "/run/volume"]
        return sandbox.run(words, binds=[Bind(volume, "/run/volume")], stdin=key, check=False).returncode == 0

    def recovered(name: str) -> bytes:
        dest = tmp_path / name
        options = {"recover": GATEWAY, "identity": str(keys.private("escrow")), "provision_recover_path": str(dest)}
        site.play("recover", "-e", json.dumps(options))
        return dest.read_bytes().strip()

    before, first = header(), recovered("first")
    assert opens(first)
    site.know(known(new))
    with site.playing("replace", "--limit", GATEWAY, "-e", f"identity={keys.private('escrow')}") as replacing:
        replacing.wait_for(f"Switch on, with the network as boot source: {GATEWAY}", within=180)
        with boot(new.spec) as machine:
            machine.serial.wait_for(f"KEPT {GATEWAY}", timeout=BOOT_TIMEOUT, fail_on=[FAILED, "INSTALLED"])
            machine.wait_exit(BOOT_TIMEOUT)
        with boot(new.from_disk):
            replacing.end(within=BOOT_TIMEOUT)
    assert state(server, GATEWAY)[0] == "installed"
    after, second = header(), recovered("second")
    digests = [[each["digest"] for each in volume["digests"].values()] for volume in (before, after)]
    assert digests[0] == digests[1], "it is the same volume key, so the same data"
    assert sorted(token["type"] for token in after["tokens"].values()) == ["systemd-recovery", "systemd-tpm2"]
    assert (opens(first), opens(second)) == (False, True)
    assert not [key for key in (first, second) if key.decode() in server.journal() + site.printed()]
