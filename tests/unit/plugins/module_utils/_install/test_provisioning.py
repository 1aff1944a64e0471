# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the installer takes from the server, and what only from who signed its release."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._install.provisioning import Provisioning

RELEASE = {"product": "server", "version": "1.0", "manifest_sha256": "ab" * 32}
ALONE: dict[str, Any] = {"recipients": ["age1a", "age1b", "age1c"]}


def take(told: dict[str, Any], signed: dict[str, Any]) -> Any:
    """Have an installer look at what it is told."""
    installer = Provisioning.__new__(Provisioning)
    return installer._take({"host": "one", "release": RELEASE, "escrow": told}, RELEASE, {"escrow": signed})


@pytest.mark.parametrize(("told", "signed"), [({}, {}), ({"threshold": 1}, {}), ({"threshold": 2}, {"threshold": 2})])
def test_officers_of_the_release_are_taken(told: dict[str, Any], signed: dict[str, Any]) -> None:
    assert take({**ALONE, **told}, {**ALONE, **signed})["host"] == "one"


@pytest.mark.parametrize(
    ("told", "signed", "said"),
    [
        ({**ALONE, "threshold": 1}, {**ALONE, "threshold": 2}, "signed for 2 of the escrow recipients together"),
        (ALONE, {**ALONE, "threshold": 2}, "signed for 2 of the escrow recipients together"),
        ({**ALONE, "threshold": 2}, ALONE, "signed for 1 of the escrow recipients together"),
        ({"recipients": ["age1a"]}, ALONE, "not those that the release was signed with"),
    ],
)
def test_server_cannot_make_one_officer_enough(told: dict[str, Any], signed: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=said):
        take(told, signed)
