# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._boot import forbidden, measurement
from ansible_collections.vauban.fleet.plugins.module_utils._boot.key_directory import ensure, plan
from ansible_collections.vauban.fleet.plugins.module_utils._boot.keys import KeyRequest, ProductKeys
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

from .conftest import NOW, ToolsOfPaper

OLD, OLDER = (hashlib.sha256(name).hexdigest() for name in (b"old", b"older"))
REQUEST = KeyRequest(name="gateway", forbidden=(OLD,))


def test_signed_once_and_again_when_the_list_grows(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    assert plan(keys, KeyRequest(name="gateway")) == ()
    assert ensure(keys, REQUEST, tools, now=NOW)[:2] == ("dbx.esl", "dbx.auth")
    assert "-a" in tools.commands[-2]
    assert plan(keys, REQUEST) == ()
    more = replace(REQUEST, forbidden=(OLD, OLDER))
    assert plan(keys, more)[:2] == ("dbx.esl", "dbx.auth")
    # What machines have taken they keep, so nothing is taken away here.
    assert plan(keys, KeyRequest(name="gateway")) == ()


def test_offline_kek_is_asked_for(keys: ProductKeys) -> None:
    keys.private("KEK").unlink()
    with pytest.raises(FleetError, match=r"dbx\.auth must be signed anew and KEK\.key is held elsewhere"):
        plan(keys, replace(REQUEST, held_elsewhere=frozenset({"KEK"})))


def test_build_refuses_another_list_than_the_signed_one(keys: ProductKeys, tools: ToolsOfPaper) -> None:
    with pytest.raises(FleetError, match="run playbook pki"):
        forbidden.require(keys, [OLD])
    ensure(keys, REQUEST, tools, now=NOW)
    forbidden.require(keys, [OLD])
    for other in ([OLDER], [OLD, OLDER], [OLDER, OLD]):
        with pytest.raises(FleetError, match="run playbook pki"):
            forbidden.require(keys, other)


@pytest.mark.parametrize(
    ("digests", "said"),
    [
        ([OLD.upper()], "is no SHA-256"),
        ([OLD[1:]], "is no SHA-256"),
        ([OLD, OLD], "twice"),
        ([f"{number:064x}" for number in range(forbidden.MOST + 1)], "too many"),
    ],
)
def test_what_is_no_list_is_refused(keys: ProductKeys, digests: list[str], said: str) -> None:
    with pytest.raises(FleetError, match=said) as caught:
        plan(keys, replace(REQUEST, forbidden=tuple(digests)))
    assert "product_secure_boot_dbx" in str(caught.value)


def test_release_does_not_forbid_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {"new.efi": OLDER, "boot.efi": OLD}
    monkeypatch.setattr(measurement, "authenticode", lambda program: digests[program.name])
    programs = [Path(name) for name in digests]
    forbidden.refuse_own(programs, ["0" * 64])
    with pytest.raises(FleetError, match=f"{OLD} would forbid boot.efi of this very release"):
        forbidden.refuse_own(programs, ["0" * 64, OLD])
