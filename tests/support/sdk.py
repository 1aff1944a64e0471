# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SDK whose tools tests run."""

from __future__ import annotations

import os
from pathlib import Path

# Where the link leads now: a build that runs beside the tests may move it.
SDK = Path(os.environ.get("FLEET_SDK", Path(__file__).resolve().parents[2] / "build/sdk/current")).resolve()
