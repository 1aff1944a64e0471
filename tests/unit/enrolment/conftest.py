# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that knows one release and one host, and machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import certificates
import pytest
from enrolment import INSTALLED, INSTALLER, MANIFEST, Machine
from enrolment_apps import Server

AUTHORITIES = [certificates.Authority.root("Manufacturer", certificates.ec_key(certificates.P256)).certificate]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A service that knows one release and one host."""
    with ExitStack() as stack:
        made = Server(tmp_path / "enrolment.sqlite", stack, AUTHORITIES)
        made.start()
        content = {"manifest_sha256": MANIFEST, "pcrs": {"installer": INSTALLER, "installed": INSTALLED}}
        assert made.admin.put("/admin/v1/releases/server/1.0", json=content).json() == {"changed": True}
        assert made.put_host().json() == {"changed": True}
        yield made


@pytest.fixture
def machine(server: Server) -> Machine:
    """The machine of that host."""
    return Machine(server)


@pytest.fixture
def another(server: Server) -> Callable[..., Machine]:
    """Other machines."""
    return lambda **what: Machine(server, **what)
