# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._command import CLEAN_ENVIRONMENT
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._vm.process import (
    Process,
    descendants,
    holders,
    kill,
    stat,
)


def start(tmp_path: Path, script: str) -> Process:
    return Process("the program", ["/bin/sh", "-c", script], tmp_path / "log", tmp_path)


def test_command_is_logged_to_be_pasted(tmp_path: Path) -> None:
    process = start(tmp_path, "echo $((1 + 1))")
    process.stop(grace=10)
    assert (tmp_path / "log").read_text() == f"$ mkdir -p {tmp_path}; /bin/sh -c 'echo $((1 + 1))'\n2\n"


def test_early_end_carries_its_own_words_and_no_older_ones(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("words of the last run\n")
    process = start(tmp_path, "echo no such disk >&2; exit 3")
    with pytest.raises(FleetError, match=r"(?s)the program ended with status 3 at its start.*no such disk") as caught:
        process.wait_until(lambda: False, timeout=30)
    assert "last run" not in str(caught.value)


def test_silence_is_an_error_in_the_end(tmp_path: Path) -> None:
    process = start(tmp_path, "exec sleep 60")
    with pytest.raises(FleetError, match=r"not ready within 0\.1 s"):
        process.wait_until(lambda: False, timeout=0.1)
    process.stop()
    assert process.status == -signal.SIGKILL


def test_descendants_are_found_at_any_depth(tmp_path: Path) -> None:
    process = start(tmp_path, "sh -c 'sleep 60; :'; :")
    process.wait_until(lambda: any(each.name == "sleep" for each in descendants(process.pid)))
    family = descendants(process.pid)
    assert sorted(each.name for each in family) == ["sh", "sleep"]
    for each in family:
        os.kill(each.pid, signal.SIGKILL)
    process.stop(grace=10)


def test_names_with_parentheses_are_understood(tmp_path: Path) -> None:
    program = tmp_path / "a) (b"
    program.symlink_to(sys.executable)
    child = subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE, env=dict(CLEAN_ENVIRONMENT))
    while (facts := stat(child.pid)) is None or facts.name != "a) (b":
        time.sleep(0.01)
    assert facts.parent == os.getpid()
    assert facts.cpu >= 0
    child.communicate(b"\n")
    assert stat(child.pid) is None


@pytest.fixture
def family(tmp_path: Path) -> Path:
    path = tmp_path / "family"
    path.touch()
    return path


def test_detached_process_is_found_by_its_file_with_its_children(tmp_path: Path, family: Path) -> None:
    argv = ["/bin/sh", "-c", "sleep 600 & exec sleep 600"]
    detached = Process("two", argv, tmp_path / "log", tmp_path / "runtime", detached=family)
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        detached.wait_until(lambda: len(holders(family)) == 2 and all(each.name == "sleep" for each in holders(family)))
        assert os.getsid(detached.pid) == detached.pid
        found = holders(family)
        assert stranger.pid not in {each.pid for each in found}
        kill(found)
        assert not holders(family)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_process_that_only_has_the_same_number_is_spared() -> None:
    process = subprocess.Popen(["sleep", "600"])
    try:
        found = stat(process.pid)
        assert found is not None
        kill([found._replace(started=found.started - 1)])
        assert process.poll() is None
        kill([found])
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
