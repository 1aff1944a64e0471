# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who can read recovery keys, and how many of them it takes."""

from __future__ import annotations

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.plugin_utils._escrow import officers

OTHERS = ["age1b", "age1c"]


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_each_is_an_officer_once(threshold: int) -> None:
    assert officers("age1a", OTHERS, threshold) == ["age1a", *OTHERS]


def test_who_opens_keys_alone_may_be_named_twice() -> None:
    """An inventory for several products names the key of each, and so that of this one."""
    assert officers("age1a", [*OTHERS, "age1a"], 1) == ["age1a", *OTHERS]


@pytest.mark.parametrize(
    ("others", "threshold", "where", "said"),
    [
        (OTHERS, 4, "product_escrow_threshold", "4 of 3 officers: nobody could read a recovery key"),
        ([], 2, "product_escrow_threshold", "2 of 1 officers"),
        (OTHERS, 0, "product_escrow_threshold", "0 is no number of officers"),
        (OTHERS, -1, "product_escrow_threshold", "-1 is no number of officers"),
        (["age1b", "age1b"], 2, "product_escrow_recipients", "has age1b twice"),
        (["age1b", "age1a"], 2, "product_escrow_recipients", "has age1a twice"),
        ([f"age1{number}" for number in range(16)], 2, "product_escrow_recipients", "there are 17 officers"),
    ],
)
def test_officers_who_are_never_together_are_refused(others: list[str], threshold: int, where: str, said: str) -> None:
    with pytest.raises(FleetError, match=said) as caught:
        officers("age1a", others, threshold)
    assert caught.value.where == where
    assert caught.value.remedy
