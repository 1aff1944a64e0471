# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image.core import Verity, make_file_system
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Layers, Sandbox

VERITY = Verity("ab" * 32, 8192, 16384, 2, 20480)


def test_kernel_arguments_name_one_device_and_every_offset() -> None:
    assert VERITY.kernel_arguments("/dev/fleet/core_0.1.0", "erofs") == [
        "root=/dev/mapper/root",
        "rootfstype=erofs",
        "ro",
        "roothash=" + "ab" * 32,
        "systemd.verity_root_data=/dev/fleet/core_0.1.0",
        "systemd.verity_root_hash=/dev/fleet/core_0.1.0",
        "systemd.verity_root_options=superblock=yes,hash-offset=8192,fec-device=/dev/fleet/core_0.1.0,"
        "fec-offset=16384,fec-roots=2,panic-on-corruption",
    ]


def test_manifest_form_holds_what_opening_takes() -> None:
    assert Verity(**VERITY.as_dict()) == VERITY  # type: ignore[arg-type]


def test_unknown_file_system(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path, tmp_path)
    with pytest.raises(FleetError, match="product_root_format: unknown file system 'ext4'; known: erofs, squashfs"):
        make_file_system(
            sandbox, Layers((tmp_path,)), tmp_path / "image", root_format="ext4", epoch=0, log=tmp_path / "log"
        )
