# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook release: a release is checked, signed by the second signer, and offered by a running Debian."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import offering
import patching
import pytest
import updates
import yaml
from offering import Controller
from provisioned import PASSPHRASE, SITE, write_pki, write_release
from tokens import uri, write_token

from ansible_collections.vauban.fleet.plugins.module_utils._boot import issuing, key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox


@pytest.fixture(scope="module")
def controller(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with offering.controller(sandbox, tmp_path_factory.mktemp("controller")) as made:
        yield made


def release(controller: Controller, version: str, *options: str) -> tuple[int, str]:
    return controller.play("release", "-e", f"version={version}", *options)


def test_release_is_looked_at_offered_and_offered_no_second_time(controller: Controller) -> None:
    built = controller.build("1.0")
    code, said = release(controller, "1.0", "--check", "--diff")
    assert code == 0, said
    assert '+  "version": "1.0"' in said
    assert not controller.signed.exists()
    assert not controller.store.exists()
    code, said = release(controller, "1.0")
    assert code == 0, said + controller.machine.journal()
    assert controller.get("update/v1/server/stable.p7m") == controller.signed.read_bytes()
    for path in built.iterdir():
        assert controller.get(f"releases/server/1.0/{path.name}") == path.read_bytes()
    code, said = release(controller, "1.0")
    assert code == 0, said
    assert re.search(r"server +: ok=\d+ +changed=0\b", said), said
    assert re.search(r"updates +: ok=\d+ +changed=0\b", said), said


def test_next_release_takes_its_place_and_the_one_before_stays(controller: Controller) -> None:
    controller.build("1.1")
    before = controller.signed.read_bytes()
    code, said = release(controller, "1.1")
    assert code == 0, said
    assert controller.signed.read_bytes() != before
    assert controller.get("update/v1/server/stable.p7m") == controller.signed.read_bytes()
    assert controller.get("releases/server/1.0/manifest.json") is not None


@pytest.mark.parametrize("name", ["core.erofs", "manifest.json", "manifest.json.p7s"])
def test_release_that_is_not_as_it_was_signed_is_offered_to_nobody(controller: Controller, name: str) -> None:
    built = controller.build(f"2.{len(name)}")
    path = built / name
    path.write_bytes(path.read_bytes().replace(b"server", b"serve_")[:-1] + b"x")
    before = controller.signed.read_bytes()
    code, said = release(controller, built.name)
    assert code != 0
    assert str(path) in said or str(built / "manifest.json") in said, said
    assert controller.signed.read_bytes() == before
    assert controller.get(f"releases/server/{built.name}/manifest.json") is None


def test_development_release_does_not_go_out_as_production(controller: Controller) -> None:
    controller.build("3.0")
    code, said = release(controller, "3.0", "-e", "product_keys_kind=production")
    assert code != 0
    assert "these are development keys" in said


def test_release_of_another_signer_is_refused(controller: Controller) -> None:
    built = controller.build("4.0")
    stranger = write_release(controller.directory / "stranger/4.0", controller.directory / "strange", version="4.0")
    for path in stranger.iterdir():
        shutil.copy(path, built)
    code, said = release(controller, "4.0")
    assert code != 0
    assert "no valid signature with key release" in said


def test_list_of_revoked_certificates_goes_out_with_the_channel(controller: Controller, sandbox: Sandbox) -> None:
    """Key publish was replaced: what was offered is signed anew, and the release does not have to be."""
    keys = ProductKeys(controller.directory / "keys/server")
    assert controller.get("update/v1/server/root.crl") == keys.revocations.read_bytes()
    version = named(controller)["version"]
    request = KeyRequest(name="server", revoke=(keys.certificate("publish").fingerprint,))
    key_directory.ensure(keys, request, sandbox, now=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
    code, said = release(controller, version)
    assert code == 0, said
    assert controller.get("update/v1/server/root.crl") == keys.revocations.read_bytes()
    assert controller.get("update/v1/server/stable.p7m") == controller.signed.read_bytes()
    assert (named(controller)["revocations"], named(controller)["version"]) == (2, version)
    code, said = release(controller, version)
    assert code == 0, said
    assert re.search(r"server +: ok=\d+ +changed=0\b", said), said


def test_nothing_counts_longer_than_the_certificate_that_has_signed_it(controller: Controller) -> None:
    keys, now = ProductKeys(controller.directory / "keys/server"), dt.datetime.now(dt.UTC)
    version, offered = named(controller)["version"], controller.signed.read_bytes()
    request = KeyRequest(name="server", signing_days=2)
    assert issuing.write("publish.crt", keys, request, now - dt.timedelta(days=3))
    code, said = release(controller, version)
    assert code != 0
    assert "publish.crt" in said
    assert "the certificate expired on" in said
    assert controller.signed.read_bytes() == offered
    assert issuing.write("publish.crt", keys, request, now - dt.timedelta(days=1))
    code, said = release(controller, version)
    assert code == 0, said
    assert "renew it with playbook pki" in said
    assert named(controller)["expires"][:10] == f"{keys.certificate('publish').not_after:%Y-%m-%d}"
    assert issuing.write("publish.crt", keys, KeyRequest(name="server"), now - dt.timedelta(days=1))


def test_second_signer_has_a_token(controller: Controller, sandbox: Sandbox) -> None:
    keys = ProductKeys(controller.directory / "keys/server")
    token = write_token(sandbox, keys, ("publish",), controller.directory / "token")
    aside = keys.private("publish").rename(controller.directory / "publish.key")
    try:
        controller.build("3.5")
        code, said = release(controller, "3.5")
        assert code != 0, said
        settings = {"product_key_uris": {"publish": uri("publish")}, "product_key_token": str(token)}
        code, said = release(controller, "3.5", "-e", json.dumps(settings))
    finally:
        aside.rename(keys.private("publish"))
    assert code == 0, said
    assert "471147" not in said
    assert named(controller)["version"] == "3.5"


def test_release_is_refused_whose_certificate_was_revoked(controller: Controller, sandbox: Sandbox) -> None:
    """Another one is built with the new certificate."""
    keys = ProductKeys(controller.directory / "keys/server")
    old, offered = controller.build("4.1"), controller.signed.read_bytes()
    request = KeyRequest(name="server", revoke=(keys.certificate("release").fingerprint,))
    key_directory.ensure(keys, request, sandbox, now=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
    code, said = release(controller, old.name)
    assert code != 0
    assert "no valid signature with key release" in said
    assert "certificate revoked" in said
    assert controller.signed.read_bytes() == offered
    controller.build("4.2")
    code, said = release(controller, "4.2")
    assert code == 0, said
    assert named(controller)["revocations"] == 3


def test_server_has_the_certificate_of_its_site(controller: Controller) -> None:
    """Signed once; the release of every other day needs no key of the site."""
    site, keys = controller.directory / "small.site.yml", controller.directory / "keys/sites/small"
    site.write_text(yaml.safe_dump(SITE, sort_keys=False))
    write_pki(controller.directory / "pki", keys)
    controller.machine.write("/tmp/root.pem", (controller.directory / "pki/ca/root.pem").read_text())
    certified = ["-e", json.dumps({"update_server_site_file": str(site), "site_pki_server_packages": []})]
    controller.build("5.0")
    code, said = release(controller, "5.0", *certified, "-e", json.dumps({"site_pki_issuing_passphrase": PASSPHRASE}))
    assert code == 0, said
    assert PASSPHRASE not in said
    path = "releases/server/5.0/manifest.json"
    assert controller.get(path, "/tmp/root.pem") is not None
    assert controller.get(path) is None, "it still shows the certificate that was brought by hand"
    certificate = controller.machine.root / "var/lib/vauban/https/certificate.pem"
    before = certificate.read_bytes()
    (keys / "issuing.key").rename(keys / "away")
    code, said = release(controller, "5.0", *certified)
    assert code == 0, said
    assert certificate.read_bytes() == before


def build(controller: Controller, version: str, contents: patching.Contents, sandbox: Sandbox) -> Path:
    """A release with a core and a UKI that patches can be made of, and a bundle that is longer than these."""
    built, keys = controller.build(version), controller.directory / "keys/server"
    made = patching.write(sandbox, controller.directory / "made" / version, keys, version, contents)
    manifest, other = (json.loads((directory / "manifest.json").read_text()) for directory in (built, made))
    for part in ("core", "uki", "bundle"):
        file = built / manifest[part]["file"]
        shutil.copy(made / part, file)
        manifest[part] |= {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    manifest["core"]["verity"] = other["core"]["verity"]
    (built / "manifest.json").write_text(json.dumps(manifest))
    updates.sign(built / "manifest.json", keys, "release", built / "manifest.json.p7s")
    return built


def get(controller: Controller, path: str) -> bytes | None:
    """What the server gives out, whichever certificate it has by now (see above)."""
    return controller.get(path) or controller.get(path, "/tmp/root.pem")


def named(controller: Controller) -> dict[str, Any]:
    """What the channel says."""
    content = controller.signed.read_bytes()  # the content of the signature is as it was signed
    start = content.index(b'{\n  "channel"')
    said, _end = json.JSONDecoder().raw_decode(content[start:].decode(errors="replace"))
    return dict(said)


def test_patches_lead_to_a_release_from_the_two_before_it(controller: Controller, sandbox: Sandbox) -> None:
    """But from none that a stranger has signed."""
    strange, built = controller.directory / "strange", controller.build("5.9")
    shutil.copytree(write_release(strange / "5.9", strange / "keys", version="5.9"), built, dirs_exist_ok=True)
    first = build(controller, "6.0", patching.OLD, sandbox)
    code, said = release(controller, "6.0")
    assert code == 0, said
    assert "no patch from 5.9 to 6.0" in said
    assert "5.9" not in [each["from"]["version"] for each in named(controller).get("patches", [])]
    build(controller, "6.1", patching.NEW, sandbox)
    code, said = release(controller, "6.1", "--check", "--diff")
    assert code == 0, said
    assert not list(controller.signed.parent.glob("6.1/*"))
    code, said = release(controller, "6.1")
    assert code == 0, said + controller.machine.journal()
    (patch,) = named(controller)["patches"]
    root_hash = json.loads((first / "manifest.json").read_text())["core"]["verity"]["root_hash"]
    assert patch["from"] == {"version": "6.0", "root_hash": root_hash}
    content = get(controller, f"update/v1/server/6.1/{patch['sha256']}.patch")
    assert content is not None
    assert (len(content), hashlib.sha256(content).hexdigest()) == (patch["size"], patch["sha256"])
    assert get(controller, "update/v1/server/6.1/") is None
    code, said = release(controller, "6.1")
    assert code == 0, said
    assert re.search(r"server +: ok=\d+ +changed=0\b", said), said
    assert f"ok: [updates] => (item=server/6.1/{patch['sha256']}.patch)" in said  # the version before 6.0 goes now


@pytest.mark.extended  # most of a minute, for a branch of what the others try
def test_patches_of_a_release_go_when_no_channel_offers_it_any_more(controller: Controller, sandbox: Sandbox) -> None:
    contents = [patching.Contents(b"kernel %d" % number * 1000, patching.NEW.files) for number in range(2)]
    build(controller, "6.2", contents[0], sandbox)
    code, said = release(controller, "6.2")
    assert code == 0, said
    assert [each["from"]["version"] for each in named(controller).get("patches", [])] == ["6.1", "6.0"]
    before = controller.store / "update/v1/server"
    assert len(list(before.glob("6.1/*.patch"))) == 1  # for machines that are fetching it
    build(controller, "6.10", contents[1], sandbox)
    code, said = release(controller, "6.10")
    assert code == 0, said
    assert [each["from"]["version"] for each in named(controller).get("patches", [])] == ["6.2", "6.1"]
    assert not list(before.glob("6.1/*.patch"))
    assert len(list(before.glob("6.2/*.patch"))) == len(list(before.glob("6.10/*.patch"))) == 2
    assert not (controller.signed.parent / "6.1").exists()


def test_release_goes_out_without_patches_where_none_are_wanted(controller: Controller, sandbox: Sandbox) -> None:
    build(controller, "6.11", patching.OLD, sandbox)
    code, said = release(controller, "6.11", "-e", "product_release_patches=0")
    assert code == 0, said
    assert "patches" not in named(controller)
