# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/features.md names tests that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [line for line in (ROOT / "docs/features.md").read_text("utf-8").splitlines() if line.startswith("| ")][1:]


def _named(row: str) -> Iterator[tuple[str, str]]:
    """File or directory, and the test in it, which may be empty; ``::test`` repeats the file before it."""
    path = ""
    for name in re.findall(r"`([^`]+)`", row.rsplit("|", 2)[1]):
        file, _separator, test = name.partition("::")
        path = file or path
        yield path, test


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[2].strip()[:40])
def test_row_names_existing_tests(row: str) -> None:
    assert len(row.split("|")) == 7, "a row has five columns"
    for path, test in _named(row):
        found = next((base / path for base in (ROOT / "tests", ROOT) if (base / path).exists()), None)
        assert found is not None, f"no tests/{path}"
        if test:
            assert f"def {test}(" in found.read_text("utf-8"), f"no {test} in {path}"
