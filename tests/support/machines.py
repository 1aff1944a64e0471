# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests with machines share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine
from ansible_collections.vauban.fleet.plugins.module_utils._vm.spec import MachineSpec

Boot = Callable[[MachineSpec], AbstractContextManager[Machine]]
NewMachine = Callable[..., MachineSpec]

DEFAULT_TARGET = r"Reached target .*multi-user\.target"
BOOT_TIMEOUT = 400  # seconds; an emulated machine on a busy host
