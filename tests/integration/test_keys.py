# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of a product, made and judged by the tools of the SDK (environment FLEET_SDK, else build/sdk/current)."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from sdk import SDK
from tokens import in_token, write_token

from ansible_collections.vauban.fleet.plugins.module_utils._boot import epochs, uki
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import self_signed
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_directory import ensure
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._boot.signing import sign_cms, sign_pe, verify_cms, verify_pe
from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

ROOT = Path(__file__).resolve().parents[2]
BOOT_LOADER = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi"
STUB = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
NOW = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
FORBIDDEN = ("5e" * 32, "0f" * 32)
REQUEST = KeyRequest(name="gateway", security_epoch=2, forbidden=FORBIDDEN)
UPDATE_HEADER = 16  # EFI_TIME, before WIN_CERTIFICATE_UEFI_GUID; UEFI 2.10 section 8.2.2

pytestmark = [
    pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: set FLEET_SDK, or build it with 'make build'"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed: run 'make host'"),
]

Run = Callable[..., str]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return Sandbox(SDK, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def keys(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> ProductKeys:
    made = ProductKeys(tmp_path_factory.mktemp("keys") / "gateway")
    ensure(made, replace(REQUEST, security_epoch=1), sandbox, now=NOW)
    ensure(made, REQUEST, sandbox, now=NOW)
    return made


@pytest.fixture
def run(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> Run:
    """Run a program of the SDK that sees the keys at /run/keys and the test's directory at /run/out."""

    def call(*command: str, **options: Any) -> str:
        binds = [Bind(keys.directory, "/run/keys"), Bind(tmp_path, "/run/out", writable=True)]
        return sandbox.run(list(command), binds=binds, cwd="/run/out", **options).stdout

    return call


@pytest.fixture
def boot_loader(run: Run, tmp_path: Path) -> Path:
    run("cp", BOOT_LOADER, "/run/out/boot.efi")
    return tmp_path / "boot.efi"


@pytest.fixture(scope="module")
def token(sandbox: Sandbox, keys: ProductKeys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SoftHSM token with the private keys that sign releases and channels."""
    names = ("db", "pcr", "pcr_epoch_1", "release", "publish")
    return write_token(sandbox, keys, names, tmp_path_factory.mktemp("token") / "token")


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x01
    path.write_bytes(data)


def test_second_run_changes_nothing(sandbox: Sandbox, keys: ProductKeys) -> None:
    assert ensure(keys, REQUEST, sandbox, now=dt.datetime.now(dt.UTC)) == ()


def test_updates_made_again_are_the_same_bytes(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> None:
    copy = ProductKeys(tmp_path / "gateway")
    shutil.copytree(keys.directory, copy.directory)
    updates = [*copy.directory.glob("*.auth"), *copy.directory.glob("*.esl")]
    assert len(updates) == 9
    before = {path: path.read_bytes() for path in updates}
    for path in updates:
        path.unlink()
    ensure(copy, REQUEST, sandbox, now=dt.datetime.now(dt.UTC))
    assert {path: path.read_bytes() for path in updates} == before


@pytest.mark.parametrize("name", ["PK", "KEK", "db"])
def test_signature_list_holds_the_certificate(run: Run, keys: ProductKeys, tmp_path: Path, name: str) -> None:
    printed = run("sig-list-to-certs", f"/run/keys/{name}.esl", "found")
    assert str(keys.owner()) in printed
    assert (tmp_path / "found-0.der").read_bytes() == (keys.directory / f"{name}.der").read_bytes()
    assert not (tmp_path / "found-1.der").exists()


def test_signature_lists_name_what_is_forbidden(run: Run, keys: ProductKeys, tmp_path: Path) -> None:
    printed = run("sig-list-to-certs", "/run/keys/dbx.esl", "found")
    assert printed.count(str(keys.owner())) == len(FORBIDDEN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found-0.hash", "found-1.hash"]
    assert [(tmp_path / f"found-{number}.hash").read_bytes().hex() for number in (0, 1)] == list(FORBIDDEN)


@pytest.mark.parametrize(
    ("file", "variable", "signer"),
    [("PK", "PK", "PK"), ("KEK", "KEK", "PK"), ("db", "db", "KEK"), ("dbx", "dbx", "KEK"), ("noPK", "PK", "PK")],
)
def test_update_is_signed_as_firmware_checks_it(
    run: Run, keys: ProductKeys, tmp_path: Path, file: str, variable: str, signer: str
) -> None:
    """Firmware verifies the PKCS #7 signature over name, vendor GUID, attributes, time and content."""
    update = (keys.directory / f"{file}.auth").read_bytes()
    length = int.from_bytes(update[16:20], "little")
    signed_data, content = update[UPDATE_HEADER + 24 : UPDATE_HEADER + length], update[UPDATE_HEADER + length :]
    assert content == (b"" if file == "noPK" else (keys.directory / f"{file}.esl").read_bytes())
    database = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"  # EFI_IMAGE_SECURITY_DATABASE_GUID
    vendor = database if variable in ("db", "dbx") else "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
    serialized = variable.encode("utf-16-le") + uuid.UUID(vendor).bytes_le
    attributes = 0x67 if variable == "dbx" else 0x27  # EFI_VARIABLE_APPEND_WRITE
    serialized += attributes.to_bytes(4, "little") + update[:UPDATE_HEADER] + content
    (tmp_path / "content").write_bytes(serialized)
    # The variable holds a bare SignedData; openssl wants it inside a ContentInfo (RFC 5652 section 3).
    (tmp_path / "signature").write_bytes(content_info(signed_data))
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", "signature", "-content", "content"]
    command += ["-CAfile", f"/run/keys/{signer}.crt", "-no-CApath", "-no-CAstore", "-purpose", "any"]
    command += ["-out", "/dev/null"]
    run(*command)
    damage(tmp_path / "content", len(serialized) - 1)
    with pytest.raises(CommandError):
        run(*command)


def content_info(signed_data: bytes) -> bytes:
    """DER SEQUENCE of id-signedData and the explicitly tagged SignedData."""

    def tagged(tag: int, body: bytes) -> bytes:
        return bytes([tag, 0x82]) + len(body).to_bytes(2, "big") + body

    return tagged(0x30, bytes.fromhex("06092a864886f70d010702") + tagged(0xA0, signed_data))


def test_firmware_variables_take_the_certificates(keys: ProductKeys, run: Run, tmp_path: Path) -> None:
    """virt-firmware enrols them into an OVMF variable store, as for a test VM."""
    guid, directory = str(keys.owner()), keys.directory
    run("cp", "/usr/share/OVMF/OVMF_VARS_4M.fd", "/run/out/template.fd")
    tool = Path(sys.executable).with_name("virt-fw-vars")  # of the Python environment: the SDK has none
    command = [tool, "-i", tmp_path / "template.fd", "-o", tmp_path / "vars.fd", "--sb"]
    command += ["--set-pk", guid, directory / "PK.crt", "--add-kek", guid, directory / "KEK.crt"]
    command += ["--add-db", guid, directory / "db.crt"]
    subprocess.run(command, check=True)
    subprocess.run([tool, "-i", tmp_path / "vars.fd", "--output-json", tmp_path / "vars.json"], check=True)
    stored = (tmp_path / "vars.json").read_text()
    for name in ("PK", "KEK", "db"):
        assert keys.certificate(name).der.hex() in stored


def test_escrow_identity_opens_what_the_recipient_closed(run: Run, keys: ProductKeys) -> None:
    run("age", "-r", keys.recipient(), "-o", "/run/out/blob", stdin=b"recovery")
    assert run("age", "-d", "-i", "/run/keys/escrow.key", "/run/out/blob") == "recovery"


@pytest.mark.parametrize("name", ["PK", "KEK", "db", "pcr", "root", "release", "publish", "configuration"])
def test_certificates_as_openssl_reads_them(run: Run, name: str) -> None:
    text = run("openssl", "x509", "-in", f"/run/keys/{name}.crt", "-noout", "-text")
    assert "OU=DEVELOPMENT - NOT FOR PRODUCTION" in text
    assert ("CA:TRUE, pathlen:0" if name == "root" else "CA:FALSE") in text
    curve = name in ("root", "release", "publish", "configuration")
    assert ("ecdsa-with-SHA256" if curve else "sha256WithRSAEncryption") in text
    assert ("(256 bit)" if curve else "(2048 bit)") in text
    run("openssl", "pkey", "-in", f"/run/keys/{name}.key", "-noout", "-check")


@pytest.mark.parametrize("kind", ["file", "token"])
def test_signed_binary_verifies_and_a_changed_one_does_not(
    sandbox: Sandbox, keys: ProductKeys, token: Path, run: Run, boot_loader: Path, tmp_path: Path, kind: str
) -> None:
    key = keys.reference("db") if kind == "file" else in_token("db", token)
    signed = tmp_path / "signed.efi"
    sign_pe(sandbox, boot_loader, signed, key, keys.public("db"))
    verify_pe(sandbox, signed, keys.public("db"))
    outside = ["osslsigncode", "verify", "-CAfile", "/run/keys/db.crt", "-in", "/run/out/signed.efi"]
    run(*outside)
    with pytest.raises(FleetError, match="no valid signature"):
        verify_pe(sandbox, signed, keys.public("KEK"))
    damage(signed, boot_loader.stat().st_size // 2)
    with pytest.raises(FleetError, match="no valid signature"):
        verify_pe(sandbox, signed, keys.public("db"))
    with pytest.raises(CommandError):
        run(*outside)


def test_unsigned_binary_does_not_verify(sandbox: Sandbox, keys: ProductKeys, boot_loader: Path) -> None:
    with pytest.raises(FleetError, match="no valid signature"):
        verify_pe(sandbox, boot_loader, keys.public("db"))


def test_key_of_another_certificate_leaves_nothing_behind(
    sandbox: Sandbox, keys: ProductKeys, boot_loader: Path, tmp_path: Path
) -> None:
    with pytest.raises(FleetError):
        sign_pe(sandbox, boot_loader, tmp_path / "signed.efi", keys.reference("KEK"), keys.public("db"))
    assert [path.name for path in tmp_path.iterdir()] == ["boot.efi"]


@pytest.mark.parametrize("kind", ["file", "token"])
@pytest.mark.parametrize("name", ["release", "publish"])
def test_signature_of_manifest_and_channel(
    sandbox: Sandbox, keys: ProductKeys, token: Path, tmp_path: Path, kind: str, name: str
) -> None:
    key = keys.reference(name) if kind == "file" else in_token(name, token)
    manifest, signature = tmp_path / "manifest.json", tmp_path / "manifest.json.cms"
    manifest.write_bytes(b'{"line": 1}\r\n{"line": 2}\n')  # line ends that S/MIME would rewrite
    sign_cms(sandbox, manifest, key, keys.public(name), signature)
    verify_cms(sandbox, manifest, signature, keys.trust(name))
    with pytest.raises(FleetError, match="no valid signature"):
        verify_cms(sandbox, manifest, signature, keys.trust("publish" if name == "release" else "configuration"))
    damage(manifest, 3)
    with pytest.raises(FleetError, match="no valid signature"):
        verify_cms(sandbox, manifest, signature, keys.trust(name))


def test_manifest_signed_by_a_certificate_it_brings_along(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> None:
    """A signature by another key of the same product holds its own certificate; that must not count."""
    manifest, signature = tmp_path / "manifest.json", tmp_path / "manifest.json.cms"
    manifest.write_text("{}")
    sign_cms(sandbox, manifest, keys.reference("db"), keys.public("db"), signature)
    with pytest.raises(FleetError, match="no valid signature"):
        verify_cms(sandbox, manifest, signature, keys.trust("release"))


def test_expired_certificate_signs_no_manifest(sandbox: Sandbox, keys: ProductKeys, tmp_path: Path) -> None:
    key = load_pem_private_key(keys.private("release").read_bytes(), None)
    expired = tmp_path / "expired.crt"
    then = NOW - dt.timedelta(days=10)
    expired.write_bytes(self_signed(key, "gateway release", development=True, days=1, now=then))  # type: ignore[arg-type]
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(FleetError, match="expired"):
        sign_cms(sandbox, tmp_path / "manifest.json", keys.reference("release"), expired, tmp_path / "signature")
    assert not (tmp_path / "signature").exists()


def test_wrong_pin_signs_nothing(
    sandbox: Sandbox, keys: ProductKeys, token: Path, boot_loader: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "token"
    shutil.copytree(token, wrong)
    (wrong / "pin").write_text("000000")
    with pytest.raises(CommandError) as caught:
        sign_pe(sandbox, boot_loader, tmp_path / "signed.efi", in_token("db", wrong), keys.public("db"))
    assert "000000" not in str(caught.value)
    assert not (tmp_path / "signed.efi").exists()


@pytest.mark.parametrize("kind", ["file", "token"])
def test_policy_is_signed_with_the_key_of_each_epoch(
    sandbox: Sandbox, keys: ProductKeys, token: Path, boot_loader: Path, tmp_path: Path, kind: str
) -> None:
    """ukify and systemd-measure take keys from either place, and name the present one as that to seal secrets to."""
    names = ("pcr", *epochs.before(keys))
    if kind == "file":
        signers = [(keys.reference(name), keys.directory / f"{name}.pub") for name in names]
    else:
        signers = [(in_token(name, token), keys.public(name)) for name in names]
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"none")
    request = uki.UkiRequest(
        linux=boot_loader,
        initrd=initrd,
        command_line=["quiet"],
        os_release="ID=test\n",
        uname="6.12",
        pcr_keys=signers,
        pcr_public=keys.directory / "pcr.pub",
    )
    uki.build(sandbox, request, tmp_path / "uki.efi", epoch=1_700_000_000, log=tmp_path / "log")
    inspect = ["ukify", "inspect", "/run/in/uki.efi", "--json=short"]
    inspect += ["--section=.pcrsig:text", "--section=.pcrpkey:text"]
    read = json.loads(sandbox.run(inspect, binds=[Bind(tmp_path / "uki.efi", "/run/in/uki.efi")]).stdout)
    assert read[".pcrpkey"]["text"] == (keys.directory / "pcr.pub").read_text()
    signed = json.loads(read[".pcrsig"]["text"])["sha256"]
    prints = [hashlib.sha256(_pkcs1(keys.certificate(name).public_key)).hexdigest() for name in names]
    assert sorted(each["pkfp"] for each in signed) == sorted(prints)
    assert len({each["sig"] for each in signed}) == len(names) == 2


def _pkcs1(public: bytes) -> bytes:
    return load_der_public_key(public).public_bytes(Encoding.DER, PublicFormat.PKCS1)
