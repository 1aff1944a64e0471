# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbook pki: check, do, check again, do again; and what it refuses."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playing import ansible_playbook
from sdk import SDK
from tokens import move, uri, write_token

from ansible_collections.vauban.fleet.plugins.module_utils._boot import issuing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Sandbox

pytestmark = pytest.mark.skipif(
    not SDK.exists(), reason=f"no SDK at {SDK}: set FLEET_SDK, or build it with 'make build'"
)

Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run the playbook for product gateway with these options; the keys are in ``keys`` of the test's directory."""
    builder = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {
        "all": {
            "vars": {
                "fleet_sdk": str(SDK.resolve()),
                "fleet_scratch": str(tmp_path / "scratch"),
                "fleet_keys_dir": str(tmp_path / "keys"),
            },
            "children": {"builders": {"hosts": {"builder": builder}}, "products": {"hosts": {"gateway": {}}}},
        }
    }
    (tmp_path / "inventory.json").write_text(json.dumps(inventory))

    def call(*options: str) -> subprocess.CompletedProcess[str]:
        return ansible_playbook(tmp_path, "-i", "inventory.json", "vauban.fleet.pki", *options)

    return call


def test_check_do_check_do(play: Play, tmp_path: Path) -> None:
    changes = []
    for options in (["--check"], [], ["--check"], []):
        done = play("--diff", "-vvv", *options)
        assert done.returncode == 0, done.stdout
        changes.append("changed=1" in done.stdout)
        assert "PRIVATE KEY" not in done.stdout
        assert "AGE-SECRET-KEY" not in done.stdout
        if changes == [True]:
            assert not (tmp_path / "keys").exists()
    assert changes == [True, True, False, False]
    assert str(tmp_path / "keys/gateway") in done.stdout


def test_development_keys_do_not_become_production_keys(play: Play) -> None:
    assert play().returncode == 0
    refused = play("-e", "product_keys_kind=production")
    assert refused.returncode != 0
    assert "here are development keys" in refused.stdout + refused.stderr


def test_production_keys_with_their_roots_offline(play: Play, tmp_path: Path) -> None:
    made = play("-e", "product_keys_kind=production")
    assert made.returncode == 0
    assert "PK.key, KEK.key, root.key, escrow.key, noPK.auth" in made.stdout
    for name in ("PK.key", "KEK.key", "root.key", "escrow.key", "noPK.auth"):
        (tmp_path / "keys/gateway" / name).unlink()
    production = json.dumps({"product_keys_kind": "production"})
    forgotten = play("-e", production)
    assert forgotten.returncode != 0
    assert "held_elsewhere" in forgotten.stdout + forgotten.stderr
    elsewhere = json.dumps({"product_keys_held_elsewhere": ["PK", "KEK", "root", "escrow"]})
    checked = play("-e", production, "-e", elsewhere)
    assert checked.returncode == 0
    assert "changed=0" in checked.stdout


def test_certificate_is_revoked_once(play: Play, tmp_path: Path) -> None:
    assert play().returncode == 0
    marker = tmp_path / "keys/gateway/keys.json"
    before = json.loads(marker.read_text())
    revoke = f"product_keys_revoke={before['certificates']['publish']['sha256'][:16]}"
    looked = play("--check", "--diff", "-e", revoke)
    assert looked.returncode == 0, looked.stdout
    assert "changed=1" in looked.stdout
    assert json.loads(marker.read_text()) == before
    done = play("-e", revoke)
    assert done.returncode == 0, done.stdout
    assert "List of revoked certificates: number 2" in done.stdout
    after = json.loads(marker.read_text())
    assert after["certificates"]["publish"] != before["certificates"]["publish"]
    assert after["certificates"]["release"] == before["certificates"]["release"]
    again = play("-e", revoke)
    assert "changed=0" in again.stdout, again.stdout


def test_root_signs_in_its_token(play: Play, sandbox: Sandbox, tmp_path: Path) -> None:
    """Its certificate is lost, too; what it says is believed by openssl, and its private key is in no file."""
    assert play().returncode == 0
    keys = ProductKeys(tmp_path / "keys/gateway")
    token = move(sandbox, keys, "root", tmp_path / "token")
    before = keys.certificate("publish")
    keys.public("root").unlink()
    tokens = {"product_key_uris": {"root": uri("root")}, "product_key_token": str(token)}
    refused = play("-e", json.dumps(tokens))
    assert "product_key_uris: root" in refused.stdout, refused.stdout
    settings = json.dumps({**tokens, "product_keys_held_elsewhere": ["root"]})
    revoke = f"product_keys_revoke={before.fingerprint[:16]}"
    done = play("-e", settings, "-e", revoke)
    assert done.returncode == 0, done.stdout
    assert "471147" not in done.stdout
    assert not keys.private("root").exists()
    assert keys.certificate("publish").fingerprint != before.fingerprint
    assert keys.revocation_list().number == 2
    verify = ["openssl", "verify", "-crl_check", "-CAfile", "/run/keys/root.pem"]
    binds = [Bind(keys.directory, "/run/keys")]
    sandbox.run([*verify, "/run/keys/publish.crt"], binds=binds)
    gone = next(keys.revoked.glob("publish_*.crt")).name
    said = sandbox.run([*verify, f"/run/keys/revoked/{gone}"], binds=binds, check=False)
    assert "certificate revoked" in said.stderr, said.stderr
    again = play("-e", settings, "-e", revoke)
    assert "changed=0" in again.stdout, again.stdout


def test_token_with_another_key_than_the_roots_changes_nothing(play: Play, sandbox: Sandbox, tmp_path: Path) -> None:
    assert play().returncode == 0
    keys = ProductKeys(tmp_path / "keys/gateway")
    token = write_token(sandbox, keys, ("publish",), tmp_path / "token")
    keys.private("root").unlink()
    before = {path: path.read_bytes() for path in keys.directory.glob("*.cr[lt]")}
    settings = {"product_keys_held_elsewhere": ["root"], "product_key_token": str(token)}
    settings |= {"product_key_uris": {"root": uri("publish")}}
    revoke = f"product_keys_revoke={keys.certificate('release').fingerprint[:16]}"
    refused = play("-e", json.dumps(settings), "-e", revoke)
    assert refused.returncode != 0
    assert "is not the certificate of this key" in refused.stdout
    assert {path: path.read_bytes() for path in before} == before


def test_what_expires_soon_is_said_with_what_to_type(play: Play, tmp_path: Path) -> None:
    """The root is offline; where it is at hand the same run renews."""
    assert play("-e", "product_keys_signing_days=1").returncode == 0
    root = tmp_path / "keys/gateway/root.key"
    release = root.with_name("release.crt")
    then = dt.datetime.now(dt.UTC) - dt.timedelta(hours=20)
    assert issuing.write(release.name, ProductKeys(root.parent), KeyRequest(name="gateway", signing_days=1), then)
    before = release.read_bytes()
    root.rename(tmp_path / "root.key")
    offline = play("-e", json.dumps({"product_keys_held_elsewhere": ["root"]}))
    assert offline.returncode == 0, offline.stdout
    said = " ".join((offline.stdout + offline.stderr).split())
    assert "bring release.crt from there" in said, said
    assert release.read_bytes() == before
    (tmp_path / "root.key").rename(root)
    assert play().returncode == 0
    assert release.read_bytes() != before
