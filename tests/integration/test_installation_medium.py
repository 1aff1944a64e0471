# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook medium: what other tools find on the image, and when it is made anew.

Firmware starts one in test_measurement.py, a machine is installed from one in tests/e2e/test_provisioning_medium.py.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from disks import partitions
from provisioned import MACS, SITE, Site
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils._install import addresses
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

pytestmark = pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: run 'make build' or set FLEET_SDK")
IMAGE = "small/server_1.0.img"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Host three asks by DHCP."""
    model = copy.deepcopy(SITE)
    model["places"]["here"]["networks"]["outer"]["routers"] = ["192.0.2.1"]
    model["hosts"]["three"]["interfaces"]["outer"]["dhcp"] = True
    with ExitStack() as stack:
        made = Site(tmp_path, stack)
        made.write(model)
        yield made


def make(site: Site, *options: str) -> str:
    done = site.play("medium", "-e", f"provision_media_dir={site.directory}/media", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_other_tools_read_what_is_on_it(site: Site, sandbox: Sandbox, tmp_path: Path) -> None:
    said = make(site)
    assert f"{IMAGE}: server 1.0, addresses of 2 hosts" in said
    assert "three asks by DHCP: no fixed IPv4 address in the site" in said
    image = site.directory / "media" / IMAGE
    (partition,) = partitions(image)
    shown = [Bind(image, "/run/image"), Bind(tmp_path, "/run/out", writable=True)]
    assert "No errors" in sandbox.run(["sfdisk", "--verify", "/run/image"], binds=shown).stdout
    kind = sandbox.run(["sfdisk", "--part-type", "/run/image", "1"], binds=shown).stdout.strip()
    assert kind == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    with image.open("rb") as stream, (tmp_path / "esp").open("wb") as esp:
        stream.seek(partition.offset)
        esp.write(stream.read(partition.size))
    sandbox.run(["fsck.vfat", "-n", "-v", "/run/out/esp"], binds=shown)
    sandbox.run(["mcopy", "-s", "-i", "/run/out/esp", "::", "/run/out/read"], binds=shown)
    read = {path.relative_to(tmp_path / "read").as_posix(): path for path in (tmp_path / "read").rglob("*.*")}
    assert set(read) == {"EFI/BOOT/BOOTX64.EFI", addresses.FILE}
    installer = site.release / site.manifest["installer"]["file"]
    assert read["EFI/BOOT/BOOTX64.EFI"].read_bytes() == installer.read_bytes()
    found = addresses.parse(read[addresses.FILE].read_bytes())
    assert [str(each) for each in found] == [
        f"{MACS['one']} 192.0.2.20/24 192.0.2.1",
        f"{MACS['two']} 192.0.2.21/24 192.0.2.1",
    ]


def test_it_is_made_anew_when_something_is_another(site: Site) -> None:
    image = site.directory / "media" / IMAGE
    make(site, "--check")
    assert not image.parent.exists()
    make(site, "--limit", "one")
    first, made = image.read_bytes(), image.stat().st_mtime_ns
    make(site, "--limit", "one")
    assert image.stat().st_mtime_ns == made
    shown = make(site, "--check", "--diff")
    assert f"+{MACS['two']} 192.0.2.21/24 192.0.2.1" in shown
    assert image.stat().st_mtime_ns == made
    make(site)
    assert image.read_bytes() != first
    image.unlink()
    said = make(site, "--limit", "one")
    assert image.read_bytes() == first, "the same contents are the same bytes"
    assert hashlib.sha256(first).hexdigest() in said
    assert {path.name for path in image.parent.iterdir() if not path.name.startswith(".")} == {image.name}


def test_changed_installer_makes_no_medium(site: Site) -> None:
    """And the medium that is there stays as it is."""
    make(site)
    image = site.directory / "media" / IMAGE
    before = image.read_bytes()
    installer = site.release / site.manifest["installer"]["file"]
    installer.write_bytes(installer.read_bytes() + b"!")
    done = site.play("medium", "-e", f"provision_media_dir={site.directory}/media")
    assert done.returncode != 0
    assert str(installer) in done.stdout + done.stderr
    assert done.stdout.count("Remedy: ") == 1, done.stdout
    assert image.read_bytes() == before
