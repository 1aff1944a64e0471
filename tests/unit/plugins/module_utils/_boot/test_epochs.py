# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import os

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot import epochs
from ansible_collections.vauban.fleet.plugins.module_utils._boot.certificate import public_pem
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_directory import ensure, plan
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

from .conftest import NOW, ToolsOfPaper

SECOND = KeyRequest(name="gateway", security_epoch=2)
ELSEWHERE = KeyRequest(name="gateway", security_epoch=2, held_elsewhere=frozenset({"pcr"}))
LATER = NOW + dt.timedelta(days=1)


def pair(keys: ProductKeys, name: str) -> tuple[bytes, bytes]:
    return keys.private(name).read_bytes(), keys.public(name).read_bytes()


def test_new_epoch_has_a_key_of_its_own_and_keeps_the_one_before(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    first = pair(keys, "pcr")
    assert epochs.before(keys) == ()
    written = ensure(keys, SECOND, tools, now=LATER)
    kept = [f"pcr_epoch_1.{kind}" for kind in ("key", "crt", "pub")]
    assert written == (*kept, "pcr.key", "pcr.crt", "pcr.pub", "keys.json")
    assert pair(keys, "pcr_epoch_1") == first
    assert not set(pair(keys, "pcr")) & set(first)
    for name in ("pcr", "pcr_epoch_1"):
        assert (keys.directory / f"{name}.pub").read_bytes() == public_pem(keys.certificate(name))
        assert keys.private(name).stat().st_mode & 0o777 == 0o600
    assert (epochs.recorded(keys), epochs.before(keys)) == (2, ("pcr_epoch_1",))
    assert plan(keys, SECOND) == ()


def test_epochs_may_be_left_out(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    ensure(keys, SECOND, tools, now=LATER)
    ensure(keys, KeyRequest(name="gateway", security_epoch=12), tools, now=LATER)
    assert epochs.before(keys) == ("pcr_epoch_2", "pcr_epoch_1")
    assert epochs.recorded(keys) == 12


def test_epoch_never_becomes_lower(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    ensure(keys, SECOND, tools, now=LATER)
    with pytest.raises(FleetError, match="security epoch 2, and 1 is lower"):
        plan(keys, KeyRequest(name="gateway"))


def test_build_wants_the_keys_of_its_epoch(keys: ProductKeys) -> None:
    epochs.require(keys, 1)
    with pytest.raises(FleetError, match="epoch 1, the product wants 2") as caught:
        epochs.require(keys, 2)
    assert "playbook pki" in str(caught.value)


@pytest.mark.parametrize("calls", range(8))
def test_interrupted_move_goes_on(
    keys: ProductKeys, tools: ToolsOfPaper, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """After so many changes of a name: none is half, no key is lost, and the next run ends it."""
    first, left = pair(keys, "pcr"), calls

    def stop(real: object) -> object:
        def call(*args: object, **options: object) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            real(*args, **options)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patched:
        for name in ("link", "rename", "unlink"):
            patched.setattr(os, name, stop(getattr(os, name)))
        with pytest.raises(KeyboardInterrupt):
            ensure(keys, SECOND, tools, now=LATER)
    ensure(keys, SECOND, tools, now=LATER)
    assert pair(keys, "pcr_epoch_1") == first
    assert not set(pair(keys, "pcr")) & set(first)
    assert plan(keys, SECOND) == ()


def test_key_in_a_token_is_replaced_there(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    ensure(keys, KeyRequest(name="gateway"), tools, now=NOW)
    keys.private("pcr").unlink()
    with pytest.raises(FleetError, match="held elsewhere, so the key of a new security epoch") as caught:
        plan(keys, ELSEWHERE)
    assert "keep the present pcr.crt as pcr_epoch_1.crt" in str(caught.value)
    keys.public("pcr").rename(keys.public("pcr_epoch_1"))
    other = ProductKeys(keys.directory.parent / "other")
    ensure(other, KeyRequest(name="other"), tools, now=LATER)
    keys.public("pcr").write_bytes(other.public("pcr").read_bytes())
    ensure(keys, ELSEWHERE, tools, now=LATER)
    assert epochs.recorded(keys) == 2


def test_lost_marker_is_made_again(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    ensure(keys, SECOND, tools, now=LATER)
    keys.marker.unlink()
    assert ensure(keys, SECOND, tools, now=LATER) == ("keys.json",)
    assert epochs.recorded(keys) == 2
