# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_reference import KeyReference
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

URI = "pkcs11:token=fleet;object=db;type=private"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    (tmp_path / "openssl.cnf").touch()
    (tmp_path / "pin").touch(mode=0o600)
    return tmp_path


def test_file_is_shown_alone_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "db.key"
    path.touch(mode=0o600)
    key = KeyReference(str(path))
    key.check()
    assert key.is_file
    assert [(bind.source, bind.dest, bind.writable) for bind in key.binds()] == [(path, f"/run/keys{path}", False)]
    assert key.environment() == {}
    assert key.systemd_arguments() == [f"--private-key=/run/keys{path}", "--private-key-source=file"]
    assert key.openssl_arguments() == ["-inkey", f"/run/keys{path}"]
    assert key.ukify_pcr_arguments("/p") == [f"--pcr-private-key=/run/keys{path}", "--pcr-public-key=/p"]


def test_token_is_reached_through_its_directory(token: Path) -> None:
    key = KeyReference(URI, token)
    key.check()
    assert not key.is_file
    assert [(bind.source, bind.dest, bind.writable) for bind in key.binds()] == [(token, "/run/token", False)]
    assert key.environment()["OPENSSL_CONF"] == "/run/token/openssl.cnf"
    assert key.systemd_arguments() == [f"--private-key={URI}", "--private-key-source=provider:pkcs11"]
    assert key.ukify_pcr_arguments("/p")[2:] == ["--signtool=systemd-sbsign", "--signing-provider=pkcs11"]


@pytest.mark.parametrize(
    "uri", [f"{URI}?pin-value=1234", f"{URI}?pin-source=file:/x", f"{URI}?module-name=x&pin-value=1234"]
)
def test_pin_in_a_uri_is_refused_and_not_repeated(token: Path, uri: str) -> None:
    with pytest.raises(FleetError, match="must not say the PIN") as caught:
        KeyReference(uri, token).check()
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("uri", ["pkcs11:token=fleet", "pkcs11:", "pkcs11:token=fleet;object="])
def test_uri_that_names_no_key(token: Path, uri: str) -> None:
    with pytest.raises(FleetError, match="names no key"):
        KeyReference(uri, token).check()


def test_incomplete_token_directory(token: Path) -> None:
    with pytest.raises(FleetError, match="needs the token's directory"):
        KeyReference(URI).check()
    (token / "pin").chmod(0o644)
    with pytest.raises(FleetError, match="others than its owner"):
        KeyReference(URI, token).check()
    (token / "pin").unlink()
    with pytest.raises(FleetError, match="not there"):
        KeyReference(URI, token).check()
    (token / "openssl.cnf").unlink()
    with pytest.raises(FleetError, match=r"no openssl\.cnf"):
        KeyReference(URI, token).check()


def test_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="absolute"):
        KeyReference("db.key").check()
    with pytest.raises(FleetError, match="not there"):
        KeyReference(str(tmp_path / "db.key")).check()
