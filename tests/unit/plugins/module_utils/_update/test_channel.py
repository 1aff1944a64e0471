# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._update.channel import Offer, offer_of

NOW = dt.datetime(2026, 11, 23, 7, 0, 0, 123456, tzinfo=dt.timezone(dt.timedelta(hours=1)))
MANIFEST = {"product": "gateway", "version": "0.2.0", "security_epoch": 3}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


def offer(release: Path, **changes: Any) -> Offer:
    return offer_of({**MANIFEST, **changes}, release, "stable", now=NOW, valid=dt.timedelta(days=30))


def test_offer_says_what_machines_look_at(release: Path) -> None:
    assert offer(release).as_dict() == {
        "format": 1,
        "product": "gateway",
        "channel": "stable",
        "version": "0.2.0",
        "security_epoch": 3,
        "issued": "2026-11-23T06:00:00Z",
        "expires": "2026-12-23T06:00:00Z",
        "manifest": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
    }


def test_what_was_signed_is_read_again(release: Path) -> None:
    made = offer(release)
    assert Offer.from_dict(made.as_dict()) == made


def test_another_time_is_not_another_offer_and_another_version_is(release: Path) -> None:
    later = offer_of(MANIFEST, release, "stable", now=NOW + dt.timedelta(days=1), valid=dt.timedelta(days=30))
    assert offer(release).offers(later)
    assert not offer(release).offers(offer(release, version="0.3.0"))
    before = offer(release)
    (release / "manifest.json").write_text("{} ")
    assert not before.offers(offer(release))


@pytest.mark.parametrize(("days", "due"), [(14, False), (15, True), (31, True)])
def test_it_is_said_anew_when_half_its_time_is_over(release: Path, days: int, due: bool) -> None:
    assert offer(release).halfway(NOW + dt.timedelta(days=days, seconds=1)) is due


@pytest.mark.parametrize("name", ["Stable", "", "a/b", "-x", "a" * 33])
def test_channel_needs_a_plain_name(release: Path, name: str) -> None:
    with pytest.raises(FleetError, match="is no name of a channel"):
        offer_of(MANIFEST, release, name, now=NOW, valid=dt.timedelta(days=30))


@pytest.mark.parametrize("change", [{"format": 2}, {"issued": "yesterday"}, {"manifest": None}, {"version": ...}])
def test_what_is_no_channel_is_refused(release: Path, change: dict[str, Any]) -> None:
    data = {**offer(release).as_dict(), **change}
    with pytest.raises(FleetError, match="channel"):
        Offer.from_dict({key: value for key, value in data.items() if value is not ...})
