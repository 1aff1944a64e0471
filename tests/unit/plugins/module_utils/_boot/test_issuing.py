# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot import authority, issuing
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import (
    generate_key,
    private_pem,
    read_certificate,
    self_signed,
)
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_directory import ensure, plan
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import (
    ISSUED,
    KeyRequest,
    ProductKeys,
    due,
    require_current,
    require_production,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

from .conftest import NOW, ToolsOfPaper

LATER = NOW + dt.timedelta(days=100)
OFFLINE = KeyRequest(name="gateway", held_elsewhere=frozenset({"root"}))


def revoking(keys: ProductKeys, *names: str, away: frozenset[str] = frozenset()) -> KeyRequest:
    prints = tuple(keys.certificate(name).fingerprint[:16] for name in names)
    return KeyRequest(name="gateway", revoke=prints, held_elsewhere=away)


def without_root(keys: ProductKeys) -> ProductKeys:
    """The directory of who has the root offline."""
    keys.private("root").unlink()
    return keys


def test_root_issues_what_machines_believe(keys: ProductKeys) -> None:
    root = keys.certificate("root")
    for name in ISSUED:
        assert authority.is_issued(keys.certificate(name), root)
    assert (keys.directory / "root.pem").read_bytes() == keys.public(
        "root"
    ).read_bytes() + keys.revocations.read_bytes()
    listed = keys.revocation_list()
    assert (listed.number, dict(listed.serials)) == (1, {})


@pytest.mark.parametrize("name", ISSUED)
def test_revoked_key_is_put_aside_and_another_one_takes_its_place(
    keys: ProductKeys, tools: ToolsOfPaper, name: str
) -> None:
    before, private = keys.certificate(name), keys.private(name).read_bytes()
    request = revoking(keys, name)
    planned = plan(keys, request)
    written = ensure(keys, request, tools, now=LATER)
    aside = f"revoked/{name}_{before.fingerprint[:16]}"
    assert set(written) == set(planned)
    assert set(planned) == {f"{aside}.crt", f"{name}.key", f"{name}.crt", "root.crl", "root.pem", "keys.json"}
    assert (keys.directory / f"{aside}.key").read_bytes() == private
    assert (keys.directory / f"{aside}.key").stat().st_mode & 0o077 == 0
    assert keys.certificate(name).public_key != before.public_key
    listed = keys.revocation_list()
    assert (listed.number, dict(listed.serials)) == (2, {authority.serial_of(before): LATER.replace(microsecond=0)})
    assert json.loads(keys.marker.read_text())["revocation_list"] == 2
    assert ensure(keys, request, tools, now=LATER) == ()


def test_revoked_certificate_signs_nothing_more(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    """Somebody brought the list, and not yet the new certificate."""
    old = keys.public("publish").read_bytes()
    ensure(keys, revoking(keys, "publish"), tools, now=NOW)
    require_current(keys, ISSUED, now=NOW)
    keys.public("publish").write_bytes(old)
    with pytest.raises(FleetError, match="was revoked") as caught:
        require_current(keys, ISSUED, now=NOW)
    assert caught.value.where == str(keys.public("publish"))
    assert "bring publish.crt" in str(caught.value.remedy)


def test_list_only_grows(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    ensure(keys, revoking(keys, "release"), tools, now=LATER)
    first = keys.revocation_list()
    shutil.rmtree(keys.revoked)
    ensure(keys, revoking(keys, "publish"), tools, now=LATER + dt.timedelta(days=1))
    second = keys.revocation_list()
    assert second.number == 3
    assert set(first.serials) < set(second.serials)
    assert {serial: second.serials[serial] for serial in first.serials} == dict(first.serials)


def test_interrupted_revocation_goes_on(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    request, before = revoking(keys, "publish"), keys.certificate("publish")
    issuing.revoke(keys, request)
    assert [each.fingerprint for each in issuing.unlisted(keys)] == [before.fingerprint]
    assert {"publish.key", "publish.crt", "root.crl"} <= set(ensure(keys, request, tools, now=LATER))
    assert authority.serial_of(before) in keys.revocation_list().serials


@pytest.mark.parametrize(("text", "message"), [("f" * 16, "no certificate below the root"), ("12", "no fingerprint")])
def test_nothing_else_is_revoked(keys: ProductKeys, text: str, message: str) -> None:
    with pytest.raises(FleetError, match=message):
        plan(keys, KeyRequest(name="gateway", revoke=(text,)))


def test_certificate_of_firmware_is_not_revoked_like_that(keys: ProductKeys) -> None:
    with pytest.raises(FleetError, match="no certificate below the root"):
        plan(keys, revoking(keys, "db"))


def test_certificate_is_renewed_for_the_same_key(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    assert due(keys, now=NOW, within_days=90) == frozenset()
    soon = NOW + dt.timedelta(days=300)
    assert due(keys, now=soon, within_days=90) == frozenset(ISSUED)
    before = keys.certificate("release")
    request = KeyRequest(name="gateway", renew=frozenset({"release"}))
    assert ensure(keys, request, tools, now=soon) == ("release.crt", "keys.json")
    after = keys.certificate("release")
    assert (after.public_key, after.days_left(soon)) == (before.public_key, 364)
    assert keys.revocation_list().number == 1
    assert due(keys, now=soon, within_days=90) == frozenset({"publish", "configuration"})


def test_short_certificates_are_not_due_at_once(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    keys.public("release").unlink()
    ensure(keys, KeyRequest(name="gateway", signing_days=30), tools, now=NOW)
    assert due(keys, now=NOW, within_days=90) == frozenset()
    assert due(keys, now=NOW + dt.timedelta(days=21), within_days=90) == frozenset({"release"})


def test_no_certificate_outlives_the_root(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    keys.public("release").unlink()
    ensure(keys, KeyRequest(name="gateway", signing_days=30_000), tools, now=NOW)
    assert keys.certificate("release").not_after == keys.certificate("root").not_after


def test_root_can_be_offline(keys: ProductKeys) -> None:
    assert plan(without_root(keys), OFFLINE) == ()
    assert plan(keys, KeyRequest(name="gateway", held_elsewhere=frozenset({"root"}), renew=frozenset(ISSUED))) == ()


def test_key_without_certificate_asks_for_one_and_gets_it_where_the_root_is(
    keys: ProductKeys, tools: ToolsOfPaper, tmp_path: Path
) -> None:
    """The controller's own key never leaves it: only a request and a certificate do."""
    vault = ProductKeys(Path(shutil.copytree(keys.directory, tmp_path / "vault/gateway")))
    away = frozenset({"publish"})
    vault.private("publish").unlink()
    stolen = keys.certificate("publish")
    controller = without_root(keys)
    written = ensure(controller, revoking(controller, "publish", away=frozenset({"root"})), tools, now=LATER)
    assert {"publish.key", "publish.csr"} <= set(written)
    assert not controller.public("publish").exists()
    assert [each.fingerprint for each in issuing.unlisted(controller)] == [stolen.fingerprint]
    # The list has no time to wait for the new key.
    ensure(vault, revoking(vault, "publish", away=away), tools, now=LATER)
    assert authority.serial_of(stolen) in vault.revocation_list().serials
    shutil.copy(controller.directory / "publish.csr", vault.directory)
    assert "publish.crt" in ensure(vault, KeyRequest(name="gateway", held_elsewhere=away), tools, now=LATER)
    assert not (vault.directory / "publish.csr").exists()
    for name in ("publish.crt", "root.crl"):
        shutil.copy(vault.directory / name, controller.directory)
    assert set(ensure(controller, OFFLINE, tools, now=LATER)) == {"root.pem", "keys.json"}
    assert not issuing.unlisted(controller)
    assert ensure(controller, OFFLINE, tools, now=LATER) == ()


def test_list_is_signed_where_the_root_is(keys: ProductKeys) -> None:
    without_root(keys).revocations.unlink()
    with pytest.raises(FleetError, match=r"root\.crl must be signed anew") as caught:
        plan(keys, OFFLINE)
    assert "root.key" in str(caught.value.remedy)


def test_root_is_replaced_and_the_number_goes_on(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    """Machines never take a lower one, whoever signs it. The keys below stay, and get other certificates."""
    ensure(keys, revoking(keys, "release"), tools, now=LATER)
    before = {name: keys.certificate(name) for name in ISSUED}
    keys.private("root").unlink()
    keys.public("root").unlink()
    written = ensure(keys, KeyRequest(name="gateway"), tools, now=LATER)
    issued = {f"{name}.crt" for name in ISSUED}
    assert set(written) == {"root.key", "root.crt", "root.crl", "root.pem", "keys.json", *issued}
    assert keys.revocation_list().number == 3
    for name in ISSUED:
        assert keys.certificate(name).public_key == before[name].public_key
        assert authority.is_issued(keys.certificate(name), keys.certificate("root"))
    assert ensure(keys, KeyRequest(name="gateway"), tools, now=LATER) == ()


def test_list_of_another_root_is_refused(keys: ProductKeys) -> None:
    key = generate_key("p256", 0)
    data = authority.root_certificate(key, "gateway", development=True, days=100, now=NOW)
    (keys.directory / "strange.crt").write_bytes(data)
    strange = read_certificate(keys.directory / "strange.crt")
    keys.revocations.write_bytes(authority.revocation_list(strange, key, {}, 9, now=NOW))
    with pytest.raises(FleetError, match="is not signed by") as caught:
        plan(without_root(keys), OFFLINE)
    assert caught.value.where == str(keys.revocations)


def test_certificate_that_nobody_issued_is_replaced(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    key = generate_key("p256", 0)
    keys.private("release").write_bytes(private_pem(key))
    keys.public("release").write_bytes(self_signed(key, "release", development=True, days=10, now=NOW))
    assert ensure(keys, KeyRequest(name="gateway"), tools, now=NOW) == ("release.crt", "keys.json")
    assert authority.is_issued(keys.certificate("release"), keys.certificate("root"))


@pytest.mark.parametrize("data", [b"", b"no request", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
def test_request_that_is_none(keys: ProductKeys, data: bytes) -> None:
    keys.private("publish").unlink()
    (keys.directory / "publish.csr").write_bytes(data)
    with pytest.raises(FleetError, match="no request for a certificate") as caught:
        plan(keys, KeyRequest(name="gateway", held_elsewhere=frozenset({"publish"})))
    assert caught.value.where == str(keys.directory / "publish.csr")


def test_who_builds_needs_no_certificate_of_the_controller(tmp_path: Path, tools: ToolsOfPaper) -> None:
    keys = ProductKeys(tmp_path / "gateway")
    ensure(keys, KeyRequest(name="gateway", kind="production"), tools, now=NOW)
    keys.public("publish").unlink()
    keys.public("configuration").unlink()
    require_production(keys)
