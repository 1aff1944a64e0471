# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Who can read recovery keys."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

MOST = 16  # officers; the enrolment service takes no more


def officers(own: str, others: Sequence[str], threshold: int) -> list[str]:
    """The recipients of recovery keys, each once.

    :param own: recipient of the product's key ``escrow``, or what stands for it while it is not made.
    :param others: as the inventory names them.
    :param threshold: how many of them it takes.
    :raises FleetError: so many are never together, or somebody would have two shares.
    """
    everybody = [own, *others]
    once = list(dict.fromkeys(everybody))
    if len(once) > MOST:
        remedy = f"name up to {MOST - 1} others"
        raise FleetError(f"there are {len(once)} officers", where="product_escrow_recipients", remedy=remedy)
    if not 1 <= threshold <= len(once):
        raise FleetError(
            f"{threshold} of {len(once)} officers: nobody could read a recovery key"
            if threshold > 1
            else f"{threshold} is no number of officers",
            where="product_escrow_threshold",
            remedy=f"write 1 (each alone) to {len(once)} (all together); the holder of the product's key escrow is one",
        )
    if threshold > 1 and (twice := sorted({each for each in everybody if everybody.count(each) > 1})):
        remedy = "name each officer once; the holder of the product's key escrow is one without being named"
        raise FleetError(f"has {', '.join(twice)} twice", where="product_escrow_recipients", remedy=remedy)
    return once
