# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""scripts/stages with a Makefile of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/stages"
MAKEFILE = """
.RECIPEPREFIX = >
.PHONY: good bad first second
good bad:
>@echo $@ begins; [ $@ = good ] && echo $@ is done
first second:
>@touch $@.here; for i in $$(seq 100); do [ -e $(OTHER_$@).here ] && exit; sleep 0.1; done; exit 1
OTHER_first = second
OTHER_second = first
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "Makefile").write_text(MAKEFILE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def call(*stages: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "scripts/stages"), *stages]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return call


def test_each_says_how_long_it_took(run: Run) -> None:
    done = run("good", "good+good")
    assert done.returncode == 0
    assert len(re.findall(r"(?m)^good begins\ngood is done\nstage good took \d+ s$", done.stdout)) == 3


def test_what_is_joined_runs_side_by_side(run: Run) -> None:
    """Each of the two waits for the other."""
    assert run("first+second").returncode == 0


def test_nothing_runs_after_one_that_failed(run: Run) -> None:
    done = run("bad", "good")
    assert done.returncode != 0
    assert (done.stdout.splitlines(), "stage bad" in done.stdout) == (["bad begins"], False)


@pytest.mark.parametrize("stage", ["bad+good", "good+bad"])
def test_one_that_fails_beside_another_lets_it_end(run: Run, stage: str) -> None:
    done = run(stage, "first")
    assert done.returncode != 0
    assert "stage good took" in done.stdout
    assert "bad begins\n" in done.stdout
    assert "stage bad" not in done.stdout
    assert "stage first" not in done.stdout
