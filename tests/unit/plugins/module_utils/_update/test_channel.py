# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._update.channel import (
    Offer,
    Rollout,
    next_offer,
    offer_of,
    place,
    trouble,
)
from ansible_collections.vauban.fleet.plugins.module_utils._update.patch import Patch

NOW = dt.datetime(2026, 11, 23, 7, 0, 0, 123456, tzinfo=dt.timezone(dt.timedelta(hours=1)))
PATCH = Patch(
    version="0.1.0",
    root_hash="a" * 64,
    size=6,
    sha256="b" * 64,
    core=1,
    salt="cc",
    uuid="9e7fcff9-ee03-510d-ad6d-732284692920",
    initrd=2,
    unpacked=9,
    packed=8,
    place=512,
    rest=3,
)
MANIFEST = {"product": "gateway", "version": "0.2.0", "security_epoch": 3}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text("{}")
    return tmp_path


def offer(release: Path, **changes: Any) -> Offer:
    return offer_of({**MANIFEST, **changes}, release, "stable", revocations=1, now=NOW, valid=dt.timedelta(days=30))


def test_offer_says_what_machines_look_at(release: Path) -> None:
    assert offer(release).as_dict() == {
        "format": 1,
        "product": "gateway",
        "channel": "stable",
        "version": "0.2.0",
        "security_epoch": 3,
        "issued": "2026-11-23T06:00:00Z",
        "expires": "2026-12-23T06:00:00Z",
        "revocations": 1,
        "manifest": {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
    }


def test_what_was_signed_is_read_again(release: Path) -> None:
    made = offer(release)
    assert Offer.from_dict(made.as_dict()) == made


def test_patches_are_signed_and_read_again(release: Path) -> None:
    made = replace(offer(release), patches=(PATCH,))
    assert Offer.from_dict(made.as_dict()) == made
    assert made.as_dict()["patches"][0]["from"] == {"version": "0.1.0", "root_hash": "a" * 64}
    for key, value in (("sha256", "../x"), ("size", "many"), ("from", "0.1.0")):
        with pytest.raises(FleetError, match="this is no channel"):
            Offer.from_dict({**made.as_dict(), "patches": [{**PATCH.as_dict(), key: value}]})


def test_patches_are_those_that_were_found_last(release: Path) -> None:
    """A release of before may be built again, or be gone; without a release nothing is looked for."""
    before = replace(offer(release).spread(10), patches=(PATCH,))
    other = replace(PATCH, version="0.1.1")
    assert next_offer(before, replace(offer(release), patches=(other,)), percent=None, order=None).patches == (other,)
    assert next_offer(before, None, percent=20, order=None).patches == (PATCH,)
    assert next_offer(before, None, percent=None, order="pause").patches == (PATCH,)
    assert next_offer(before, offer(release, version="0.3.0"), percent=None, order=None).patches == ()


def test_another_time_is_not_another_offer_and_another_version_is(release: Path) -> None:
    later = offer_of(
        MANIFEST, release, "stable", revocations=1, now=NOW + dt.timedelta(days=1), valid=dt.timedelta(days=30)
    )
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
        offer_of(MANIFEST, release, name, revocations=1, now=NOW, valid=dt.timedelta(days=30))


@pytest.mark.parametrize("change", [{"format": 2}, {"issued": "yesterday"}, {"manifest": None}, {"version": ...}])
def test_what_is_no_channel_is_refused(release: Path, change: dict[str, Any]) -> None:
    data = {**offer(release).as_dict(), **change}
    with pytest.raises(FleetError, match="channel"):
        Offer.from_dict({key: value for key, value in data.items() if value is not ...})


def spread(release: Path, percent: int, state: str = "running") -> Offer:
    made = next_offer(None, offer(release), percent=percent, order=None)
    return {"paused": made.ordered("pause"), "withdrawn": made.ordered("withdraw"), "running": made}[state]


def test_share_is_signed_and_read_again(release: Path) -> None:
    made = spread(release, 10)
    assert made.rollout is not None
    assert made.as_dict()["rollout"] == {"percent": 10, "seed": made.manifest_sha256[:32], "state": "running"}
    assert Offer.from_dict(made.as_dict()) == made
    for broken in ({"percent": 101}, {"state": "gone"}, {"percent": None}):
        with pytest.raises(FleetError, match="this is no channel"):
            Offer.from_dict({**made.as_dict(), "rollout": {**made.rollout.as_dict(), **broken}})


def test_larger_share_holds_the_smaller_one_and_is_about_as_large_as_it_says() -> None:
    machines = [f"{number:032x}" for number in range(2000)]
    shares = [{each for each in machines if Rollout(percent, "ab" * 8).includes(each)} for percent in range(101)]
    assert all(one <= other for one, other in pairwise(shares))
    assert all(abs(len(share) - 20 * percent) < 100 for percent, share in enumerate(shares))
    assert (len(shares[0]), len(shares[100])) == (0, 2000)


def test_other_release_goes_to_others_first() -> None:
    places = [(place("ab" * 8, f"{n:032x}"), place("cd" * 8, f"{n:032x}")) for n in range(200)]
    assert sum(one == other for one, other in places) < 20


def test_nobody_is_given_a_version_that_is_held_back() -> None:
    assert not any(Rollout(100, "ab" * 8, state).includes("0" * 32) for state in ("paused", "withdrawn"))


def test_same_release_keeps_its_share_and_another_has_its_own(release: Path) -> None:
    before = spread(release, 10)
    assert next_offer(before, offer(release), percent=None, order=None) == before
    assert next_offer(before, None, percent=None, order=None) == before
    other = next_offer(before, offer(release, version="0.3.0"), percent=None, order=None)
    assert (other.version, other.rollout) == ("0.3.0", None)


def test_pause_resume_and_withdraw(release: Path) -> None:
    before = spread(release, 10)
    paused = next_offer(before, None, percent=None, order="pause")
    assert paused.rollout is not None
    assert paused.rollout.state == "paused"
    assert next_offer(paused, None, percent=None, order="resume") == before
    assert next_offer(paused, None, percent=None, order="pause") == paused
    gone = next_offer(paused, None, percent=None, order="withdraw")
    assert next_offer(gone, None, percent=None, order="withdraw") == gone
    assert next_offer(offer(release), None, percent=None, order="resume") == offer(release)


@pytest.mark.parametrize(
    ("state", "percent", "order", "message"),
    [
        ("running", 9, None, "it goes to 10 of 100 machines"),
        ("running", 101, None, "no share of hundred"),
        ("running", -5, None, "no share of hundred"),
        ("paused", 20, None, "it is paused"),
        ("withdrawn", 10, None, "it has been withdrawn"),
        ("withdrawn", None, "resume", "has been withdrawn"),
        ("withdrawn", None, "pause", "has been withdrawn"),
    ],
)
def test_what_does_not_go_together_is_refused(
    release: Path, state: str, percent: int | None, order: str | None, message: str
) -> None:
    with pytest.raises(FleetError, match=message):
        next_offer(spread(release, 10, state), None, percent=percent, order=order)


def test_order_is_for_what_is_offered(release: Path) -> None:
    with pytest.raises(FleetError, match=r"the channel offers version 0\.2\.0, not version 0\.3\.0"):
        next_offer(offer(release), offer(release, version="0.3.0"), percent=None, order="pause")
    with pytest.raises(FleetError, match="offers nothing"):
        next_offer(None, None, percent=10, order=None)
    with pytest.raises(FleetError, match="goes to all machines already"):
        next_offer(offer(release), None, percent=10, order=None)


@pytest.mark.parametrize(
    ("failed", "silent", "stops"), [(0, 0, False), (1, 0, False), (1, 1, True), (2, 0, True), (0, 2, True)]
)
def test_too_many_that_do_badly_stop_it(release: Path, failed: int, silent: int, stops: bool) -> None:
    names = [f"host{number}" for number in range(10)]
    seen = {"0.2.0": {"took": names, "failed": names[:failed], "silent": names[5 : 5 + silent]}}
    reason = trouble(spread(release, 10), seen, 0.1)
    assert (reason is not None) is stops
    assert trouble(spread(release, 10), {"0.1.9": seen["0.2.0"]}, 0.1) is None
    assert trouble(spread(release, 10, "paused"), seen, 0.0) is None
    assert trouble(offer(release), seen, 0.0) is None


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_what_is_said_anew_is_newer_whatever_the_clock_says(release: Path, hours: int) -> None:
    before = offer(release)
    again = before.renewed(NOW + dt.timedelta(hours=hours), dt.timedelta(days=30), before)
    assert again.issued > before.issued
    assert again.expires - again.issued == dt.timedelta(days=30)
