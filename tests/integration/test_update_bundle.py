# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Update bundles, made by the tools of the SDK and judged by RAUC's own program."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import random
import shutil
import struct
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import bundle
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

EPOCH = 1795305600
CORE, UKI = random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(500_001)


@pytest.fixture(scope="module")
def keys(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> ProductKeys:
    made = ProductKeys(tmp_path_factory.mktemp("keys") / "gateway")
    key_directory.ensure(made, KeyRequest(name="gateway", kind="development"), sandbox, now=dt.datetime.now(dt.UTC))
    return made


def payload(sandbox: Sandbox, directory: Path) -> tuple[Path, dict[str, str]]:
    directory.mkdir()
    (directory / "core").write_bytes(CORE)
    (directory / "uki").write_bytes(UKI)
    (directory / "out").mkdir()
    dest = directory / "out/payload"
    log = directory / "log"
    return dest, bundle.write_payload(sandbox, directory / "core", directory / "uki", dest, epoch=EPOCH, log=log)


def make(sandbox: Sandbox, keys: ProductKeys, directory: Path, signer: str = "release") -> Path:
    made, unsigned = payload(sandbox, directory)
    sha256 = hashlib.sha256(CORE).hexdigest()
    manifest = bundle.manifest_text("gateway", "0.1.0", unsigned, core_size=len(CORE), core_sha256=sha256)
    dest, log = directory / "gateway.raucb", directory / "log"
    key, certificate = keys.reference(signer), keys.public(signer)
    bundle.sign(sandbox, made, manifest, key, certificate, dest, trust=keys.trust("release"), log=log)
    return dest


@pytest.fixture(scope="module")
def made(sandbox: Sandbox, keys: ProductKeys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(sandbox, keys, tmp_path_factory.mktemp("made") / "bundle")


def test_rauc_reads_what_was_put_in(made: Path, keys: ProductKeys, sandbox: Sandbox) -> None:
    told = json.loads(bundle.verify(sandbox, made, keys.trust("release")))
    assert told["update"] == {"compatible": "gateway", "version": "0.1.0"}
    (image,) = told["images"]
    expected = ("core", "core.img", len(CORE), hashlib.sha256(CORE).hexdigest())
    assert (image["slot-class"], image["filename"], image["size"], image["checksum"]) == expected


def test_files_come_out_as_they_went_in(made: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    binds = [Bind(made, "/run/in"), Bind(tmp_path, "/run/out", writable=True)]
    sandbox.run(["unsquashfs", "-quiet", "-no-progress", "-dest", "/run/out/tree", "/run/in"], binds=binds)
    assert (tmp_path / "tree/core.img").read_bytes() == CORE
    assert (tmp_path / "tree/uki.efi").read_bytes() == UKI


def test_hash_tree_covers_every_block(made: Path, keys: ProductKeys, sandbox: Sandbox, tmp_path: Path) -> None:
    """The kernel opens it with these values; here veritysetup reads the same, before and after a change."""
    told = json.loads(bundle.verify(sandbox, made, keys.trust("release")))["bundle"]
    content = bytearray(made.read_bytes())
    size = len(content) - 8 - struct.unpack(">Q", content[-8:])[0] - told["verity-size"]
    command = ["veritysetup", "verify", "--no-superblock", "--hash=sha256", f"--salt={told['verity-salt']}"]
    command += ["--data-block-size=4096", "--hash-block-size=4096", f"--data-blocks={size // 4096}"]
    command += [f"--hash-offset={size}", "/run/in", "/run/in", told["verity-hash"]]
    copy = tmp_path / "copy"
    copy.write_bytes(content)
    assert sandbox.run(command, binds=[Bind(copy, "/run/in")], check=False).returncode == 0
    content[size // 2] ^= 1
    copy.write_bytes(content)
    assert sandbox.run(command, binds=[Bind(copy, "/run/in")], check=False).returncode != 0


def test_same_files_give_the_same_payload(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> None:
    first, second = (payload(sandbox, tmp_path / name) for name in ("one", "other"))
    assert first[1] == second[1]
    assert first[0].read_bytes() == second[0].read_bytes()


@pytest.mark.parametrize("place", ["manifest", "length", "end"])
def test_rauc_refuses_a_change(place: str, made: Path, keys: ProductKeys, sandbox: Sandbox, tmp_path: Path) -> None:
    content = bytearray(made.read_bytes())
    if place == "manifest":
        content = bytearray(content.replace(b"version=0.1.0", b"version=0.2.0"))
    elif place == "length":
        content[-1] ^= 1
    else:
        del content[-4096:]
    assert content != made.read_bytes()
    copy = tmp_path / "copy.raucb"
    copy.write_bytes(content)
    with pytest.raises(FleetError):
        bundle.verify(sandbox, copy, keys.trust("release"))


@pytest.mark.parametrize("signer", ["publish", "configuration", "db", "root"])
def test_rauc_refuses_another_signer(signer: str, keys: ProductKeys, sandbox: Sandbox, tmp_path: Path) -> None:
    """Also one that the same root has certified, for something else."""
    with pytest.raises(FleetError, match=r"(?i)signature|verify"):
        make(sandbox, keys, tmp_path / "bundle", signer)
    assert not (tmp_path / "bundle/gateway.raucb").exists()


def test_rauc_refuses_a_revoked_certificate(made: Path, keys: ProductKeys, sandbox: Sandbox, tmp_path: Path) -> None:
    """The list is part of the keyring, as update-install writes it."""
    later = ProductKeys(Path(shutil.copytree(keys.directory, tmp_path / "gateway")))
    request = KeyRequest(name="gateway", revoke=(later.certificate("release").fingerprint,))
    key_directory.ensure(later, request, sandbox, now=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
    bundle.verify(sandbox, made, keys.trust("release"))
    with pytest.raises(FleetError, match="revoked"):
        bundle.verify(sandbox, made, later.trust("release"))


def test_bundle_that_cannot_be_signed_gets_no_name(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> None:
    strange = ProductKeys(tmp_path / "strange")
    shutil.copytree(keys.directory, strange.directory)
    shutil.copy(keys.private("pcr"), strange.private("release"))
    with pytest.raises(FleetError):
        make(sandbox, strange, tmp_path / "bundle")
    assert not (tmp_path / "bundle/gateway.raucb").exists()
