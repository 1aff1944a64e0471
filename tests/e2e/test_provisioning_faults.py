# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that cannot or must not be installed: one clear line where an administrator looks, and no disk touched.

And machines whose power is cut while they are installed, which are installed the next time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from bare import FAILED, Bare, bare_machine, expect, state
from disks import flip
from machines import BOOT_TIMEOUT, FIRMWARE_TIMEOUT, REFUSED_BY_FIRMWARE, Boot, read_manifest
from provisioning_server import ProvisioningServer

from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

pytestmark = pytest.mark.extended

NewBare = Callable[..., Bare]
_NUMBERS = count(0x10)
SYSTEM = {"serial": "system"}


@pytest.fixture
def mac() -> str:
    """That of no other test."""
    return f"52:54:00:00:01:{next(_NUMBERS):02x}"


@pytest.fixture
def host(mac: str) -> str:
    return f"host-{mac[-2:]}"


@pytest.fixture
def new_bare(sandbox: Sandbox, keys: ProductKeys, server: ProvisioningServer, mac: str, tmp_path: Path) -> NewBare:
    def make(**changes: Any) -> Bare:
        return bare_machine(sandbox, keys, tmp_path, server.segment, mac, **changes)

    return make


def untouched(bare: Bare) -> bool:
    """Whether nothing was written to any of its disks."""
    return all(disk.path.stat().st_blocks == 0 for disk in bare.spec.disks)


def fails(boot: Boot, bare: Bare) -> None:
    """Boot the installer, and see it fail and nothing else."""
    with boot(bare.spec) as machine:
        machine.serial.wait_for(FAILED, timeout=BOOT_TIMEOUT, fail_on=[r"installer: INSTALLED"])
        machine.serial.wait_for("The reason is above", timeout=60)


def installs(boot: Boot, bare: Bare, host: str) -> None:
    """Boot the installer, and see it come to its end."""
    with boot(bare.spec) as machine:
        machine.serial.wait_for(f"INSTALLED {host}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
        machine.wait_exit(BOOT_TIMEOUT)


@pytest.mark.parametrize(
    ("changes", "rule", "line"),
    [
        ({"disks": (1 << 30, 1 << 30)}, {"transport": "virtio"}, "2 disks match"),
        ({"disks": (256 << 20,)}, SYSTEM, "bytes, .* are needed"),
        ({}, {"serial": "other"}, "0 disks match"),
        ({"secure_boot": False}, SYSTEM, "Secure Boot is off"),
    ],
    ids=["two disks", "small disk", "no such disk", "no Secure Boot"],
)
def test_machine_that_cannot_be_installed_says_why(
    server: ProvisioningServer,
    networked_release: Path,
    new_bare: NewBare,
    boot: Boot,
    host: str,
    mac: str,
    changes: dict[str, Any],
    rule: dict[str, str],
    line: str,
) -> None:
    bare = new_bare(**changes)
    expect(server, networked_release, host, bare, mac, rule)
    fails(boot, bare)
    found, said = state(server, host)
    assert found == "failed"
    assert re.search(line, said), said
    assert untouched(bare)


def test_hardware_profile_that_the_release_lacks_is_named(
    server: ProvisioningServer, networked_release: Path, new_bare: NewBare, boot: Boot, host: str, mac: str
) -> None:
    """Though the machine itself is one of those that the release is for."""
    bare = new_bare()
    expect(server, networked_release, host, bare, mac, SYSTEM, hardware_profile="touch_panel")
    fails(boot, bare)
    found, said = state(server, host)
    assert found == "failed"
    assert said.startswith("the release has no hardware profile touch_panel (it has: "), said
    (enrolment,) = server.admin.get(f"/admin/v1/machines/{host}").json()["enrolments"]
    assert enrolment["hardware_profile"] == "qemu_virtio"
    assert untouched(bare)


@pytest.mark.parametrize(
    ("tpm", "reason"), [(None, "no TPM"), ("1.2", "a TPM 1.2 and no 2.0")], ids=["no TPM", "TPM 1.2"]
)
def test_machine_without_tpm_2_is_refused(
    server: ProvisioningServer,
    networked_release: Path,
    new_bare: NewBare,
    boot: Boot,
    host: str,
    mac: str,
    tpm: str | None,
    reason: str,
) -> None:
    bare = new_bare(tpm=tpm)
    expect(server, networked_release, host, bare, mac, SYSTEM)
    fails(boot, bare)
    record = server.admin.get("/admin/v1/audit").json()["records"][-1]
    assert record["detail"]["reason"] == f"{reason}, with serial number or MAC address of {host}"
    assert untouched(bare)


@pytest.mark.parametrize("clock", ["2001-01-01T00:00:00", "2066-01-01T00:00:00"], ids=["past", "future"])
def test_clock_that_is_wrong_by_years_is_named(
    server: ProvisioningServer,
    networked_release: Path,
    new_bare: NewBare,
    boot: Boot,
    host: str,
    mac: str,
    clock: str,
) -> None:
    """On the machine's screen: it believes no server, so that no table can know. systemd takes neither time for true
    and begins with that of its own build, before which no certificate of the site was made."""
    bare = new_bare()
    expect(server, networked_release, host, bare, mac, SYSTEM)
    with boot(replace(bare.spec, clock=clock)) as machine:
        machine.serial.wait_for("certificate is not yet valid", timeout=BOOT_TIMEOUT, fail_on=["this machine becomes"])
        machine.serial.wait_for("is the clock right", timeout=60)
    assert server.admin.get(f"/admin/v1/machines/{host}").json()["enrolments"] == []
    assert untouched(bare)


@contextmanager
def changed_installer(server: ProvisioningServer, release: Path) -> Iterator[None]:
    """The server gives out an installer of which one byte is another."""
    manifest = read_manifest(release)
    place = server.machine.root / "srv/vauban/releases" / manifest["product"] / manifest["version"]
    installer = place / manifest["installer"]["file"]
    middle = installer.stat().st_size // 2
    flip(installer, middle)
    try:
        yield
    finally:
        flip(installer, middle)


def test_firmware_refuses_a_changed_installer(
    server: ProvisioningServer, networked_release: Path, new_bare: NewBare, boot: Boot
) -> None:
    with changed_installer(server, networked_release), boot(new_bare().spec) as machine:
        machine.serial.wait_for(REFUSED_BY_FIRMWARE, timeout=FIRMWARE_TIMEOUT, fail_on=["installer:", "Linux version"])


def test_machine_boots_by_pxe(
    server: ProvisioningServer, networked_release: Path, new_bare: NewBare, boot: Boot, host: str, mac: str
) -> None:
    """TFTP brings the same installer, and the service sees no difference."""
    bare = new_bare(pxe=True)
    expect(server, networked_release, host, bare, mac, SYSTEM)
    with boot(bare.spec) as machine:
        machine.serial.wait_for(f"this machine becomes {host}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
    assert "PXE" in machine.serial.text


def test_machine_in_setup_mode_gets_its_keys_first(
    server: ProvisioningServer, networked_release: Path, new_bare: NewBare, boot: Boot, host: str, mac: str
) -> None:
    bare = new_bare(setup_mode=True)
    expect(server, networked_release, host, bare, mac, SYSTEM)
    with boot(replace(bare.spec, reboots=True)) as machine:
        machine.serial.wait_for("starting again from where it came", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
        assert untouched(bare)
        machine.serial.wait_for("installer: verify release", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
    with changed_installer(server, networked_release), boot(bare.spec) as machine:
        machine.serial.wait_for(REFUSED_BY_FIRMWARE, timeout=FIRMWARE_TIMEOUT, fail_on=["installer:", "Linux version"])


@pytest.mark.parametrize(
    "step",
    [
        "verify release",
        "erase disk",
        "partition disk",
        "write core",
        "format state",
        "escrow recovery key",
        "seal state",
        "install boot files",
    ],
)
def test_power_cut_while_it_is_installed(
    server: ProvisioningServer, networked_release: Path, new_bare: NewBare, boot: Boot, host: str, mac: str, step: str
) -> None:
    bare = new_bare()
    expect(server, networked_release, host, bare, mac, SYSTEM)
    with boot(bare.spec) as machine:
        machine.serial.wait_for(f"installer: {step}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
    assert state(server, host)[0] in ("installing", "escrowed")
    installs(boot, bare, host)
    assert state(server, host)[0] == "written"


def empty(bare: Bare) -> bool:
    """Whether its first disk holds nothing but zeroes."""
    with bare.spec.disks[0].path.open("rb") as disk:
        return not any(any(chunk) for chunk in iter(lambda: disk.read(1 << 20), b""))


@pytest.mark.parametrize("step", ["destroy keys", "discard disk", "clear tpm"])
def test_power_cut_while_its_disk_is_erased(
    server: ProvisioningServer, networked_release: Path, new_bare: NewBare, boot: Boot, host: str, mac: str, step: str
) -> None:
    """It goes on with the disk that it had begun with, though nothing on it says any more whose it was."""
    bare = new_bare()
    expect(server, networked_release, host, bare, mac, SYSTEM)
    installs(boot, bare, host)
    server.put(f"hosts/{host}/wipe", {"reason": "sold"})
    with boot(bare.spec) as machine:
        machine.serial.wait_for(f"installer: {step}", timeout=BOOT_TIMEOUT, fail_on=[FAILED, "becomes"])
    assert state(server, host)[0] == "wiping"
    with boot(bare.spec) as machine:
        machine.serial.wait_for(f"WIPED {host}", timeout=BOOT_TIMEOUT, fail_on=[FAILED])
        machine.wait_exit(BOOT_TIMEOUT)
    assert state(server, host)[0] == "wiped"
    tried = server.admin.get(f"/admin/v1/machines/{host}").json()["enrolments"][-1]["evidence"]
    assert (tried["discarded"], tried["tpm"]["cleared"]) == (True, True)
    assert empty(bare)
