# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same lock file and variables give the same bits, wherever, whenever and by whom they are built.

Signatures differ: they hold the time. All that is signed is compared before it is signed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import builds
import pytest
from builds import Built, Place

SDK = builds.REFERENCE["build"] / "sdk/current"


def test_user_folder_time_umask_time_zone_and_host_name_do_not_matter(
    reference: Built, rootless: Built, tmp_path: Path
) -> None:
    assert {"core.erofs", "system.initrd", "installer.initrd", "origin.json"} <= set(reference.reproducible())
    assert len([name for name in reference.reproducible() if name.endswith(".efi.unsigned")]) == 2
    assert len([name for name in reference.reproducible() if name.endswith(".cdx.json")]) == 1
    assert not builds.differences(reference, rootless, SDK, tmp_path)
    assert rootless.provenance() == reference.provenance()


@pytest.mark.extended
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor: there is no other number to build with")
def test_build_from_nothing_with_one_processor_is_the_same(reference: Built, tmp_path: Path) -> None:
    """SDK and root tree too: the reference may share those with other builds of the checkout."""
    place = Place.below(
        tmp_path / "a folder with a longer name",
        prefix=("taskset", "--cpu-list", "0"),
        environment={"TZ": "America/St_Johns", "COLUMNS": "300", "PYTHONHASHSEED": "1"},
    )
    builds.copy_checkout(place)
    builds.link_assets(place)
    shutil.copytree(builds.REFERENCE["keys"], place.keys)
    built = place.built()
    assert not builds.differences(reference, built, SDK, tmp_path / "scratch")
    assert built.provenance() == reference.provenance()
    images = [*place.build.glob("sdk/*/sdk.erofs"), SDK.resolve()]
    assert len({builds.digest(path) for path in images}) == 1
