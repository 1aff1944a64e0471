# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verifications of running machines share: the machines by name, and answers as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

Machine = Callable[[str], Host]
Ask = Callable[..., Any]


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Machine:
    """Gives a machine of the scenario by its name. Commands run there as root."""
    inventory = request.config.getoption("--ansible-inventory")

    def get(name: str) -> Host:
        return Host.get_host(f"ansible://{name}?ansible_inventory={inventory}")

    return get


@pytest.fixture(scope="session")
def ask(machine: Machine) -> Ask:
    """Gives what a command prints on a machine, parsed if it is JSON; the command must succeed."""

    def run(name: str, command: str) -> Any:
        printed = machine(name).run_expect([0], command).stdout
        try:
            return json.loads(printed)
        except ValueError:
            return printed.strip()

    return run
