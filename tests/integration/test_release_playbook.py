# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook release: a release is checked, signed by the second signer, and offered by a running Debian."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import offering
import pytest
import yaml
from offering import Controller
from provisioned import PASSPHRASE, SITE, write_pki, write_release

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
    assert "no valid signature by" in said


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
    (keys / "issuing.key").rename(keys / "away")
    code, said = release(controller, "5.0", *certified)
    assert code == 0, said
    assert re.search(r"updates +: ok=\d+ +changed=0\b", said), said
