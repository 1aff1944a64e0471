# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SDK whose tools tests run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Where the link leads now: a build that runs beside the tests may move it.
SDK = Path(os.environ.get("FLEET_SDK", Path(__file__).resolve().parents[2] / "build/sdk/current")).resolve()


def unpacked(sdk: Path = SDK) -> Path:
    """The root tree of an SDK. Skips where it is only an image, and says so."""
    tree = sdk if sdk.is_dir() else sdk.parent / "root"
    if not tree.is_dir():
        pytest.skip(f"no unpacked SDK at {tree}: run 'make build', or set FLEET_SDK")
    return tree
