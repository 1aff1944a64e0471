# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import (
    DEVELOPMENT_UNIT,
    generate_key,
    private_pem,
    read_certificate,
    read_private_key,
    self_signed,
)
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_directory import ensure, plan
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import (
    CERTIFIED,
    ISSUED,
    NAMES,
    ROOT,
    KeyRequest,
    ProductKeys,
    expiring,
    require_current,
    require_production,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

from .conftest import NOW, ToolsOfPaper

DERIVED = ["PK.der", "PK.esl", "PK.auth", "KEK.der", "KEK.esl", "KEK.auth", "db.der", "db.esl", "db.auth"]


def contents(keys: ProductKeys) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in keys.directory.iterdir()}


def replace_certificate(keys: ProductKeys, name: str, *, development: bool, days: int = 3650) -> None:
    key = read_private_key(keys.private(name))
    data = self_signed(key, f"gateway {name}", development=development, days=days, now=NOW)
    keys.public(name).write_bytes(data)


def test_nothing_there_plans_everything_and_writes_nothing(tmp_path: Path) -> None:
    keys = ProductKeys(tmp_path / "gateway")
    planned = plan(keys, KeyRequest(name="gateway"))
    assert not keys.directory.exists()
    assert len(planned) == len(set(planned)) == 33
    assert set(planned) >= {*(f"{name}.key" for name in NAMES), *DERIVED, "noPK.auth", "owner_guid", "keys.json"}


def test_modes_of_what_was_made(tmp_path: Path, tools: ToolsOfPaper) -> None:
    keys = ProductKeys(tmp_path / "keys" / "gateway")
    planned = plan(keys, KeyRequest(name="gateway"))
    assert ensure(keys, KeyRequest(name="gateway"), tools, now=NOW) == planned
    assert {path.name for path in keys.directory.iterdir()} == set(planned)
    assert keys.directory.stat().st_mode & 0o777 == 0o700
    assert keys.directory.parent.stat().st_mode & 0o777 == 0o700
    private = {path.name for path in keys.directory.iterdir() if path.stat().st_mode & 0o077 == 0}
    assert private == {*(f"{name}.key" for name in NAMES), "noPK.auth"}


def test_second_run_changes_nothing(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    before = contents(keys)
    assert plan(keys, KeyRequest(name="gateway")) == ()
    assert ensure(keys, KeyRequest(name="gateway"), tools, now=NOW + dt.timedelta(days=1)) == ()
    assert contents(keys) == before


def test_certificates_say_whose_they_are_and_that_they_are_for_development(keys: ProductKeys) -> None:
    for name in CERTIFIED:
        certificate = keys.certificate(name)
        below = name in (ROOT, *ISSUED)
        assert certificate.subject == f"OU={DEVELOPMENT_UNIT}," + (
            f"O=gateway,CN={name}" if below else f"CN=gateway {name}"
        )
        assert certificate.not_before == NOW.replace(microsecond=0)
        assert certificate.days_left(NOW) == (364 if name in ISSUED else 3649)
        assert certificate.development


@pytest.mark.parametrize("name", [*DERIVED, "noPK.auth", "pcr.pub", "escrow.pub", "keys.json"])
def test_lost_derived_file_is_made_again(keys: ProductKeys, tools: ToolsOfPaper, name: str) -> None:
    before = contents(keys)
    (keys.directory / name).unlink()
    assert name in ensure(keys, KeyRequest(name="gateway"), tools, now=NOW)
    assert contents(keys) == before


def test_lost_owner_is_read_from_a_signature_list(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    owner = keys.owner()
    (keys.directory / "owner_guid").unlink()
    assert ensure(keys, KeyRequest(name="gateway"), tools, now=NOW) == ("owner_guid", "keys.json")
    assert keys.owner() == owner


def test_new_certificate_renews_what_derives_from_it(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    private = {name: keys.private(name).read_bytes() for name in NAMES}
    keys.public("KEK").unlink()
    written = ensure(keys, KeyRequest(name="gateway"), tools, now=NOW + dt.timedelta(days=1))
    assert written == ("KEK.crt", "KEK.der", "KEK.esl", "KEK.auth", "db.auth", "keys.json")
    assert {name: keys.private(name).read_bytes() for name in NAMES} == private


def test_leaving_user_mode_is_later_than_entering_it(tmp_path: Path, tools: ToolsOfPaper) -> None:
    ensure(ProductKeys(tmp_path / "gateway"), KeyRequest(name="gateway"), tools, now=NOW)
    signed = [(words[words.index("-t") + 1], words[-2]) for words in tools.commands if words[0] == "sign-efi-sig-list"]
    assert signed == [
        ("2026-11-22 09:30:15", "/run/in.esl"),
        ("2026-11-22 09:30:15", "/run/in.esl"),
        ("2026-11-22 09:30:15", "/run/in.esl"),
        ("2026-11-22 09:30:16", "/dev/null"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_missing_private_key_is_not_replaced(keys: ProductKeys, tools: ToolsOfPaper, name: str) -> None:
    keys.private(name).unlink()
    with pytest.raises(FleetError, match="is missing but") as caught:
        ensure(keys, KeyRequest(name="gateway"), tools, now=NOW)
    assert caught.value.where == str(keys.private(name))
    assert not keys.private(name).exists()


def test_keys_held_elsewhere_need_only_their_public_half(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    away = frozenset({"PK", "KEK", "escrow"})
    for name in away:
        keys.private(name).unlink()
    (keys.directory / "noPK.auth").unlink()
    assert ensure(keys, KeyRequest(name="gateway", held_elsewhere=away), tools, now=NOW) == ()
    keys.public("escrow").unlink()
    with pytest.raises(FleetError, match="public half must be here"):
        plan(keys, KeyRequest(name="gateway", held_elsewhere=away))


def test_key_said_to_be_elsewhere_but_still_here(keys: ProductKeys) -> None:
    with pytest.raises(FleetError, match="still here"):
        plan(keys, KeyRequest(name="gateway", held_elsewhere=frozenset({"PK"})))


def test_update_cannot_be_renewed_without_its_signer(keys: ProductKeys) -> None:
    keys.private("KEK").unlink()
    (keys.directory / "db.auth").unlink()
    with pytest.raises(FleetError, match=r"KEK\.key is held elsewhere"):
        plan(keys, KeyRequest(name="gateway", held_elsewhere=frozenset({"KEK"})))


def test_certificate_of_another_key(keys: ProductKeys) -> None:
    other = self_signed(generate_key("p256", 0), "gateway release", development=True, days=10, now=NOW)
    keys.public("release").write_bytes(other)
    with pytest.raises(FleetError, match="not the certificate of this key"):
        plan(keys, KeyRequest(name="gateway"))


def test_recipient_of_another_identity(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    keys.public("escrow").write_text("age1" + "p" * 58)
    with pytest.raises(FleetError, match="could not be read"):
        ensure(keys, KeyRequest(name="gateway"), tools, now=NOW)


@pytest.mark.parametrize("file", ["db.key", "escrow.key", "."])
def test_secret_that_others_can_read(keys: ProductKeys, file: str) -> None:
    (keys.directory / file).chmod(0o755)
    with pytest.raises(FleetError, match="others than its owner") as caught:
        plan(keys, KeyRequest(name="gateway"))
    assert "chmod" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "no unencrypted"), (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no unencrypted")],
)
def test_unreadable_private_key(keys: ProductKeys, data: bytes, message: str) -> None:
    keys.private("db").write_bytes(data)
    with pytest.raises(FleetError, match=message) as caught:
        plan(keys, KeyRequest(name="gateway"))
    assert caught.value.where == str(keys.private("db"))


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "../x"},
        {"name": "Gateway"},
        {"name": "x" * 33},
        {"name": ""},
        {"name": "gateway", "kind": "test"},
        {"name": "gateway", "days": 0},
        {"name": "gateway", "db_bits": 1024},
        {"name": "gateway", "held_elsewhere": frozenset({"dbx"})},
    ],
)
def test_request_that_no_key_can_be_made_from(tmp_path: Path, tools: ToolsOfPaper, bad: dict[str, object]) -> None:
    keys = ProductKeys(tmp_path / "keys")
    with pytest.raises(FleetError):
        ensure(keys, KeyRequest(**bad), tools, now=NOW)  # type: ignore[arg-type]
    assert not keys.directory.exists()


def test_one_kind_never_becomes_the_other(keys: ProductKeys) -> None:
    with pytest.raises(FleetError, match="here are development keys"):
        plan(keys, KeyRequest(name="gateway", kind="production"))
    keys.marker.unlink()
    with pytest.raises(FleetError, match="not a production certificate"):
        plan(keys, KeyRequest(name="gateway", kind="production"))


def test_production_is_required(keys: ProductKeys) -> None:
    with pytest.raises(FleetError, match="development keys") as caught:
        require_production(keys)
    assert caught.value.where == f"{keys.marker}: kind"
    assert "product_keys_kind=production" in str(caught.value.remedy)


def test_edited_marker_does_not_hide_development_certificates(keys: ProductKeys) -> None:
    marker = keys.read_marker() | {"kind": "production"}
    keys.marker.write_text(json.dumps(marker))
    for name in ("PK", "KEK", "db", "pcr", "root"):
        replace_certificate(keys, name, development=False)
    with pytest.raises(FleetError, match="development certificate") as caught:
        require_production(keys)
    assert caught.value.where == str(keys.public("release"))
    replace_certificate(keys, "release", development=False)
    replace_certificate(keys, "publish", development=False)
    replace_certificate(keys, "configuration", development=False)
    require_production(keys)


def test_production_needs_a_marker_and_every_certificate(keys: ProductKeys) -> None:
    keys.marker.write_text('{"kind": "production"}')
    for name in CERTIFIED:
        replace_certificate(keys, name, development=False)
    keys.public("db").unlink()
    with pytest.raises(FleetError, match="is not there"):
        require_production(keys)
    keys.marker.unlink()
    with pytest.raises(FleetError, match="what kind"):
        require_production(keys)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "secret"}'])
def test_marker_that_says_nothing(keys: ProductKeys, text: str) -> None:
    keys.marker.write_text(text)
    with pytest.raises(FleetError):
        require_production(keys)


def test_expiry(keys: ProductKeys) -> None:
    replace_certificate(keys, "db", development=True, days=30)
    replace_certificate(keys, "release", development=True, days=10)
    assert expiring(keys, now=NOW, within_days=9) == ()
    assert [certificate.path.name for certificate in expiring(keys, now=NOW, within_days=30)] == [
        "release.crt",
        "db.crt",
    ]
    require_current(keys, ["db", "release"], now=NOW)
    later = NOW + dt.timedelta(days=11)
    assert keys.certificate("release").days_left(later) < 0
    with pytest.raises(FleetError, match="expired on 2026-12-02") as caught:
        require_current(keys, ["db", "release"], now=later)
    assert caught.value.where == str(keys.public("release"))
    require_current(keys, ["db"], now=later)


def test_certificate_of_the_future(keys: ProductKeys) -> None:
    with pytest.raises(FleetError, match="valid only from"):
        require_current(keys, ["db"], now=NOW - dt.timedelta(days=1))


def test_reader_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="not there"):
        read_certificate(tmp_path / "none.crt")
    (tmp_path / "bad.crt").write_text("no")
    with pytest.raises(FleetError, match="no certificate"):
        read_certificate(tmp_path / "bad.crt")


def test_private_key_is_pkcs8(tmp_path: Path) -> None:
    assert private_pem(generate_key("p256", 0)).startswith(b"-----BEGIN PRIVATE KEY-----")
