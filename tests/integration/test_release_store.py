# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module release_store, from a controller to a target."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from playing import COLLECTIONS, ansible_playbook
from releases import write_release

TARGET = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


def write_play(directory: Path, **options: Any) -> list[str]:
    """A playbook of one task; the words that run it."""
    task = {"vauban.fleet.release_store": {"path": str(directory / "store"), **options}, "register": "done"}
    told = {"ansible.builtin.debug": {"msg": "{{ done | to_json | b64encode }}"}}
    play = {"hosts": "all", "gather_facts": False, "tasks": [task, told]}
    remote = {"ansible_remote_tmp": str(directory / "remote")}
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"target": {**TARGET, **remote}}}}))
    (directory / "play.json").write_text(json.dumps([play]))
    return ["-i", "hosts.json", "play.json"]


def play(directory: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return ansible_playbook(directory, *write_play(directory, **options), *words)


def published(directory: Path) -> dict[str, list[str]]:
    """Names of files by release."""
    store = directory / "store"
    places = list(store.glob("[!.]*/*")) if store.is_dir() else []
    return {str(place.relative_to(store)): sorted(path.name for path in place.iterdir()) for place in places}


def test_releases_come_stay_and_go(tmp_path: Path) -> None:
    names = [("gateway", "0.1.0"), ("gateway", "0.2.0"), ("gateway", "0.3.0"), ("server", "0.1.0")]
    sources = [str(write_release(tmp_path / f"{name}_{version}", name, version)) for name, version in names]
    before = play(tmp_path, "--check", "--diff", releases=sources[:1])
    assert before.returncode == 0, before.stdout + before.stderr
    assert "+gateway/0.1.0" in before.stdout
    assert published(tmp_path) == {}
    for count, expected in ((1, {"gateway/0.1.0"}), (2, {"gateway/0.1.0", "gateway/0.2.0"})):
        done = play(tmp_path, releases=sources[count - 1 : count])
        assert done.returncode == 0, done.stdout + done.stderr
        assert "changed=1" in done.stdout
        assert set(published(tmp_path)) == expected
    again = play(tmp_path, releases=sources[1:2])
    assert "changed=0" in again.stdout
    # The newest other one stays; a held one, too.
    done = play(tmp_path, releases=sources[2:], held=["gateway/0.1.0"], keep=0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(published(tmp_path)) == {"gateway/0.1.0", "gateway/0.3.0", "server/0.1.0"}
    for source, place in ((sources[2], "gateway/0.3.0"), (sources[3], "server/0.1.0")):
        for path in Path(source).iterdir():
            assert (tmp_path / "store" / place / path.name).read_bytes() == path.read_bytes()
    assert not any((tmp_path / "remote").iterdir())


def test_published_release_stays_as_it_is_unless_told(tmp_path: Path) -> None:
    first = write_release(tmp_path / "first", "gateway", "0.1.0")
    other = write_release(tmp_path / "other", "gateway", "0.1.0", seed=1)
    assert play(tmp_path, releases=[str(first)]).returncode == 0
    refused = play(tmp_path, releases=[str(other)])
    assert refused.returncode != 0
    assert "another release of this version is published" in refused.stdout
    assert "Remedy: give the new one another version" in refused.stdout.replace("\\n", "\n")
    core = tmp_path / "store/gateway/0.1.0/core.erofs"
    assert core.read_bytes() == (first / "core.erofs").read_bytes()
    assert play(tmp_path, releases=[str(other)], replace=True).returncode == 0
    assert core.read_bytes() == (other / "core.erofs").read_bytes()


def test_file_that_is_not_the_one_of_the_manifest_is_refused(tmp_path: Path) -> None:
    source = write_release(tmp_path / "release", "gateway", "0.1.0")
    with (source / "core.erofs").open("r+b") as stream:
        stream.write(b"\xff\xfe\xfd")
    done = play(tmp_path, releases=[str(source)])
    assert done.returncode != 0
    assert "core.erofs: not the file of the release" in done.stdout
    assert published(tmp_path) == {}


@pytest.mark.parametrize("moment", ["remote", "store/.incoming"])
def test_release_that_is_cut_short_is_not_there(tmp_path: Path, moment: str) -> None:
    """Killed while files travel, and while they are checked; then run again."""
    source = write_release(tmp_path / "release", "gateway", "0.1.0", core_size=300 << 20)
    words = [sys.executable, "-m", "ansible", "playbook", *write_play(tmp_path, releases=[str(source)])]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "LC_ALL": "C.UTF-8"}
    running = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 60
        while not list((tmp_path / moment).rglob("core.erofs")):
            assert running.poll() is None
            assert time.monotonic() < end
            time.sleep(0.002)
        assert published(tmp_path) == {}
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert published(tmp_path) == {}
    assert list((tmp_path / moment).rglob("core.erofs"))
    done = play(tmp_path, releases=[str(source)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert published(tmp_path) == {"gateway/0.1.0": sorted(path.name for path in source.iterdir())}
    assert list((tmp_path / "store/.incoming").iterdir()) == []
