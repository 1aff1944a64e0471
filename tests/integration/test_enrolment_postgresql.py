# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The enrolment service on PostgreSQL does what it does on SQLite: the same tests, and several servers at once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import postgresql
import pytest

from vauban_enrolment import audit
from vauban_enrolment.storage import Record, Storage

ROOT = Path(__file__).resolve().parents[2]
WRITERS, LINES = 4, 25


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    # Its socket's path would be too long among pytest's.
    with tempfile.TemporaryDirectory(prefix="pg-") as directory:
        Path(directory).chmod(0o711)
        with postgresql.running(Path(directory) / "s") as url:
            yield url


@pytest.mark.extended
def test_whole_service_runs_on_it(server: str) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "tests/unit/enrolment"]
    words += ["--ignore=tests/unit/enrolment/test_description.py"]  # what strangers send ends before the database
    environment = {**os.environ, "FLEET_ENROLMENT_DATABASE": server}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_audit_log_of_several_servers_is_one_chain(server: str) -> None:
    """As many as begin with an empty database at once, each with connections of its own."""
    url = postgresql.new_database(server)

    def work(number: int) -> None:
        with ExitStack() as stack:
            storage = Storage(url)
            stack.callback(storage.close)
            for line in range(LINES):
                with storage.write() as session:
                    audit.append(session, datetime.now(UTC), audit.Entry(f"server {number}", f"line {line}"))

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(work, range(WRITERS)))
    storage = Storage(url)
    with storage.read() as session:
        assert audit.verify(session) is None
        assert session.query(Record).count() == WRITERS * LINES
    storage.close()
