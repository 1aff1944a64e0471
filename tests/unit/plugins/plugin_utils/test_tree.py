# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a directory that is laid down."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.vauban.fleet.plugins.plugin_utils._tree import sources


def test_what_python_leaves_beside_its_sources_is_not_laid_down(tmp_path: Path) -> None:
    (tmp_path / "package/__pycache__").mkdir(parents=True)
    for name in ("package/code.py", "package/__pycache__/code.cpython-311.pyc"):
        (tmp_path / name).touch()
    assert [each.dest for each in sources(tmp_path)] == ["package/code.py"]
