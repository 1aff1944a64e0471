# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What variable ``product_enrolment`` may say."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from certificates import P256, Authority, ec_key

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils import _provisioning_server


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "authority.pem").write_bytes(Authority.root("Site", ec_key(P256)).pem)
    return {
        "url": "https://boot.example.org:8443/",
        "authority": str(tmp_path / "authority.pem"),
        "addresses": ["192.0.2.1", "192.0.2.2"],
    }


def test_no_server_means_no_network() -> None:
    assert _provisioning_server.parse({}) is None


def test_server_goes_into_the_image(given: dict[str, Any]) -> None:
    server = _provisioning_server.parse(given)
    assert server is not None
    texts = server.texts()
    known = json.loads(texts["etc/vauban/enrolment.json"])
    assert known["url"] == "https://boot.example.org:8443"
    assert known["addresses"] == ["192.0.2.1", "192.0.2.2"]
    assert known["secure_boot_keys"] == {}
    assert texts["etc/vauban/authority.pem"] == Path(given["authority"]).read_text()
    lines = texts["etc/hosts"].splitlines()
    assert lines[1:] == ["192.0.2.1 boot.example.org", "192.0.2.2 boot.example.org"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"url": "http://boot.example.org"}, "url"),
        ({"url": "https://boot.example.org/path"}, "url"),
        ({"url": "https://boot.example.org:port"}, "url"),
        ({"url": "https://user@boot.example.org"}, "url"),
        ({"url": 1}, "url"),
        ({"authority": "/nowhere/authority.pem"}, "authority"),
        ({"authority": "/dev/null"}, "authority"),
        ({"addresses": []}, "addresses"),
        ({"addresses": ["boot.example.org"]}, "addresses"),
        ({"addresses": "192.0.2.1"}, "addresses"),
        ({"adress": "192.0.2.1"}, "adress"),
    ],
)
def test_error_names_the_key(given: dict[str, Any], change: dict[str, Any], where: str) -> None:
    with pytest.raises(FleetError) as caught:
        _provisioning_server.parse({**given, **change})
    assert caught.value.where == f"product_enrolment: {where}"


def test_keys_for_firmware_in_setup_mode_go_into_the_image(given: dict[str, Any], tmp_path: Path) -> None:
    for name in ("db", "KEK", "PK"):
        (tmp_path / f"{name}.auth").write_bytes(name.encode())
    server = _provisioning_server.parse({**given, "secure_boot_keys": str(tmp_path)})
    assert server is not None
    known = json.loads(server.texts()["etc/vauban/enrolment.json"])
    assert {name: base64.b64decode(content) for name, content in known["secure_boot_keys"].items()} == {
        "db": b"db",
        "KEK": b"KEK",
        "PK": b"PK",
    }


def test_keys_for_firmware_that_are_missing(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"db\.auth") as caught:
        _provisioning_server.parse({**given, "secure_boot_keys": str(tmp_path)})
    assert caught.value.where == "product_enrolment: secure_boot_keys"


@pytest.mark.parametrize("key", ["url", "authority", "addresses"])
def test_key_that_is_missing(given: dict[str, Any], key: str) -> None:
    del given[key]
    with pytest.raises(FleetError, match="missing") as caught:
        _provisioning_server.parse(given)
    assert caught.value.where == f"product_enrolment: {key}"
