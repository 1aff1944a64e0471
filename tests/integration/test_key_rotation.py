# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A key that signs is revoked and replaced: the machine refuses the old one and believes the new, with the same image.

For updates; that a key `configuration` is replaced in the same way is in test_configuration_client.py, and that RAUC
believes no revoked certificate in test_update_bundle.py.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import STATE, USER, Started, Updates, started
from certificates import P256, Authority, ec_key
from updates import PRODUCT, write_channel

from ansible_collections.vauban.fleet.plugins.module_utils._boot import key_directory
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Sandbox

REFUSED = 100


@pytest.fixture(scope="module")
def machine(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with started(sandbox, Authority.root("Example Root", ec_key(P256)), tmp_path_factory.mktemp("updates")) as made:
        yield made


@pytest.fixture
def updates(machine: Started, tmp_path: Path) -> Updates:
    """Keys of its own, which are those of the image to begin with."""
    keys = shutil.copytree(machine[1], tmp_path / "keys" / PRODUCT)
    made = Updates(machine[0], keys, tmp_path / "updates")
    made.reset()
    return made


Renew = Callable[..., ProductKeys]


@pytest.fixture
def renew(updates: Updates, sandbox: Sandbox) -> Renew:
    """Playbook pki: revoke certificates and make new ones."""

    def call(*revoked: str, days: int = 0, **changes: Any) -> ProductKeys:
        """Of keys with these names."""
        keys = updates.product_keys
        prints = tuple(keys.certificate(name).fingerprint for name in revoked)
        request = KeyRequest(name=PRODUCT, kind="development", revoke=prints, **changes)
        key_directory.ensure(keys, request, sandbox, now=dt.datetime.now(dt.UTC) + dt.timedelta(days=days, hours=-1))
        return keys

    return call


def old(updates: Updates, place: Path) -> Path:
    """What a thief has: the keys as they are now."""
    return Path(shutil.copytree(updates.keys, place / "stolen"))


@pytest.mark.parametrize("name", ["release", "publish"])
def test_revoked_key_is_refused_and_the_new_one_is_believed(
    updates: Updates, renew: Renew, tmp_path: Path, name: str
) -> None:
    stolen = old(updates, tmp_path)
    updates.publish()
    assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    keys = renew(name)
    assert keys.revocation_list().number == 2
    updates.publish_list()
    # The thief of one key signs with that, and with what nobody has stolen otherwise.
    updates.keys = stolen if name == "release" else keys.directory
    release = updates.publish("1.2.0")
    write_channel(updates.channel, stolen if name == "publish" else keys.directory, release, revocations=2)
    code, said = updates.fetch()
    assert (code, f"is not signed with the product's key {name}: certificate revoked" in said) == (REFUSED, True), said
    updates.keys = keys.directory
    updates.publish("1.3.0", revocations=2)
    assert updates.fetch() == (0, "ready to install: 1.3.0\n")


def test_root_half_takes_the_list_that_the_other_half_has_brought(updates: Updates, renew: Renew) -> None:
    renew("publish")
    updates.publish_list()
    updates.publish(revocations=2)
    assert updates.fetch()[0] == 0
    machine = updates.machine
    take = ["systemctl", "start", "revocations.service"]
    assert machine(*take) == "list of revoked certificates: number 2\n"
    assert machine("cat", "/var/lib/revocations/root.crl") == updates.product_keys.revocations.read_text()
    assert machine(*take) == ""
    # It counts for everything that verifies, whatever the server says afterwards.
    updates.publish_list(b"")
    machine("rm", "-rf", f"{STATE}/work", f"{STATE}/root.crl")
    machine("install", "-d", "-o", USER, STATE)
    code, said = updates.fetch()
    assert (code, said.splitlines()[0]) == (0, "ready to install: 1.1.0"), said


def test_list_that_the_root_has_not_signed_or_with_a_lower_number_is_never_taken(
    updates: Updates, renew: Renew, sandbox: Sandbox, tmp_path: Path
) -> None:
    first = updates.product_keys.revocations.read_bytes()
    renew("publish")
    second = updates.product_keys.revocations.read_bytes()
    stranger = ProductKeys(tmp_path / "stranger")
    request = KeyRequest(name="stranger", kind="development")
    key_directory.ensure(stranger, request, sandbox, now=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
    kept = updates.machine.root / "var/lib/revocations/root.crl"
    script = "cat > /var/lib/update/root.crl; systemctl start revocations.service 2>&1"
    for content, said, then in (
        (
            stranger.revocations.read_bytes(),
            "is no list of revoked certificates that the product's root has signed",
            None,
        ),
        (b"no list", "is no list of revoked certificates", None),
        (second, "list of revoked certificates: number 2", second),
        (first, "", second),
        (second[:-40], "is no list of revoked certificates", second),
    ):
        printed = updates.machine("sh", "-euc", script, stdin=content.decode())
        assert (said in printed, bool(said)) == (True, bool(printed)), printed
        assert (kept.read_bytes() if kept.exists() else None) == then


@pytest.mark.parametrize("server", ["withheld", "older"])
def test_nobody_keeps_the_list_from_a_machine_that_hears_of_it(updates: Updates, renew: Renew, server: str) -> None:
    """The server, or who stands in its place, gives out the channel of today and the list of yesterday."""
    renew("release")
    if server == "withheld":
        updates.channel.with_name("root.crl").unlink()
    updates.publish(revocations=2)
    code, said = updates.fetch()
    assert code == REFUSED
    assert "refused: the channel wants list 2 of revoked certificates; the newest that came here is number 1" in said


def test_time_that_a_thief_has_signed_binds_nobody_after_his_key_is_revoked(updates: Updates, renew: Renew) -> None:
    """He has said that it is 2099, so that nothing later would ever come."""
    write_channel(updates.channel, updates.keys, updates.publish("1.0.0"), age=-2_000_000_000)
    assert updates.fetch()[0] == 0
    updates.publish()
    assert "is older than what was seen before" in updates.fetch()[1]
    renew("publish")
    updates.publish_list()
    updates.publish("1.2.0", revocations=2)
    assert updates.fetch() == (0, "ready to install: 1.2.0\n")
    write_channel(updates.channel, updates.keys, updates.store / f"releases/{PRODUCT}/1.2.0", revocations=1)
    assert "is older than what was seen before" in updates.fetch()[1]


def test_root_is_replaced_by_an_image_that_the_old_one_has_signed(
    updates: Updates, renew: Renew, machine: Started
) -> None:
    """Its list goes on from the number of the one before, which machines have seen."""
    renew("publish")
    updates.publish_list()
    updates.publish("1.0.0", revocations=2)
    assert updates.fetch() == (0, "up to date: 1.0.0\n")
    keys = updates.product_keys
    keys.private("root").unlink()
    keys.public("root").unlink()
    renew()
    updates.publish_list()
    updates.publish("1.1.0", revocations=3)
    assert updates.fetch()[0] == REFUSED
    image = {path.name: path.read_text() for path in (machine[1] / "root.crt", machine[1] / "root.crl")}
    try:
        for path in (keys.public("root"), keys.revocations):
            updates.machine.write(f"/usr/lib/vauban/trust/{path.name}", path.read_text())
        assert updates.fetch() == (0, "ready to install: 1.1.0\n")
    finally:
        for name, content in image.items():
            updates.machine.write(f"/usr/lib/vauban/trust/{name}", content)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [("publish", "configuration", "channel is not signed"), ("publish", "db", "channel is not signed"),
     ("publish", "release", "channel is not signed"), ("release", "configuration", "manifest is not signed"),
     ("release", "root", "manifest is not signed"), ("release", "pcr", "manifest is not signed")],
)  # fmt: skip
def test_key_of_another_use_signs_nothing(updates: Updates, one: str, other: str, said: str) -> None:
    """Also one that the same root has certified."""
    if one == "release":
        updates.publish(signer=other)
    else:
        write_channel(updates.channel, updates.keys, updates.publish(), signer=other)
    code, printed = updates.fetch()
    assert (code, said in printed) == (REFUSED, True), printed


def test_expired_certificate_signs_nothing_and_a_renewed_one_does(updates: Updates, renew: Renew) -> None:
    """The key stays, and so does what it signs: only the certificate is another."""
    key = updates.product_keys.private("release").read_bytes()
    updates.product_keys.public("release").unlink()
    renew(days=-30, signing_days=10)
    updates.publish()
    code, said = updates.fetch()
    assert (code, "key release: certificate has expired" in said) == (REFUSED, True), said
    renew(renew=frozenset({"release"}))
    assert updates.product_keys.private("release").read_bytes() == key
    updates.publish("1.2.0")
    assert updates.fetch() == (0, "ready to install: 1.2.0\n")
