# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a program sees and can reach inside the SDK (environment FLEET_SDK, else build/sdk/current)."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from sdk import SDK

from ansible_collections.vauban.fleet.plugins.module_utils import _digest
from ansible_collections.vauban.fleet.plugins.module_utils._command import CLEAN_ENVIRONMENT, CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._image import inside
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, Sandbox

pytestmark = [
    pytest.mark.skipif(not SDK.exists(), reason=f"no SDK at {SDK}: set FLEET_SDK, or build it with 'make build'"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed: run 'make host'"),
]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    (tmp_path / "scratch").mkdir()
    return Sandbox(SDK, tmp_path / "scratch")


@pytest.fixture
def binds(tmp_path: Path) -> list[Bind]:
    """An input file and an output directory."""
    (tmp_path / "in").write_text("input")
    (tmp_path / "out").mkdir()
    return [Bind(tmp_path / "in", "/run/in"), Bind(tmp_path / "out", "/run/out", writable=True)]


@pytest.mark.parametrize("privileged", [False, True])
def test_only_the_output_directory_can_be_written(
    sandbox: Sandbox, binds: list[Bind], tmp_path: Path, privileged: bool
) -> None:
    sandbox.run(["sh", "-c", "echo made >/run/out/file"], binds=binds, privileged=privileged)
    for path in ("/usr/bin/x", "/etc/x", "/run/in"):
        refused = sandbox.run(["sh", "-c", f"echo x >{path}"], binds=binds, privileged=privileged, check=False)
        assert refused.returncode != 0
    assert (tmp_path / "out/file").read_text() == "made\n"
    assert (tmp_path / "in").read_text() == "input"


def test_input_cannot_be_made_writable(sandbox: Sandbox, binds: list[Bind], tmp_path: Path) -> None:
    remount = sandbox.run(["mount", "-o", "remount,bind,rw", "/run/in"], binds=binds, check=False)
    assert remount.returncode != 0
    sandbox.run(["sh", "-c", "chmod 777 /run/in; touch /run/in; :"], binds=binds)
    assert stat.S_IMODE((tmp_path / "in").stat().st_mode) == 0o644


def test_no_network_interface_but_loopback(sandbox: Sandbox) -> None:
    lines = sandbox.run(["cat", "/proc/net/dev"]).stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]


def test_network_is_the_hosts_when_asked_for(sandbox: Sandbox) -> None:
    assert sandbox.run(["cat", "/proc/net/dev"], network=True).stdout.count("\n") == (
        Path("/proc/net/dev").read_text().count("\n")
    )


def test_environment_of_the_caller_is_not_visible(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even in the environment of the process that made the sandbox."""
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "hunter2")
    shown = sandbox.run(["sh", "-c", "env; cat /proc/*/environ 2>/dev/null"], privileged=True).stdout
    assert "hunter2" not in shown
    lines = sandbox.run(["env"], env={"SOURCE_DATE_EPOCH": "1"}).stdout.splitlines()
    assert dict(line.split("=", 1) for line in lines) == {**CLEAN_ENVIRONMENT, "SOURCE_DATE_EPOCH": "1", "PWD": "/"}


def test_umask_of_the_caller_does_not_reach_an_artifact(sandbox: Sandbox, binds: list[Bind], tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        sandbox.run(["touch", "/run/out/file"], binds=binds)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out/file").stat().st_mode) == 0o644


def test_key_that_is_not_bound_cannot_be_read(sandbox: Sandbox, binds: list[Bind], tmp_path: Path) -> None:
    key = tmp_path / "db.key"
    key.write_text("PRIVATE")
    for path in (key, f"/proc/1/root{key}", "/run/out/../db.key", f"/proc/self/cwd{key}"):
        assert sandbox.run(["cat", path], binds=binds, privileged=True, check=False).returncode != 0
    assert sandbox.run(["cat", "/run/key"], binds=[Bind(key, "/run/key")]).stdout == "PRIVATE"


def test_link_in_the_output_directory_leads_nowhere(sandbox: Sandbox, binds: list[Bind], tmp_path: Path) -> None:
    (tmp_path / "db.key").write_text("PRIVATE")
    (tmp_path / "out/link").symlink_to(tmp_path / "db.key")
    assert sandbox.run(["cat", "/run/out/link"], binds=binds, check=False).returncode != 0


def test_temporary_files_are_thrown_away(sandbox: Sandbox) -> None:
    for _run in range(2):
        for directory in ("/tmp", "/var/tmp", "/run"):
            found = sandbox.run(["sh", "-c", f"find {directory} -type f; touch {directory}/left; ls {directory}/left"])
            assert found.stdout == f"{directory}/left\n"
    assert not Path("/tmp/left").exists()


def test_processes_of_the_host_are_not_visible(sandbox: Sandbox) -> None:
    assert len(sandbox.run(["sh", "-c", "ls -d /proc/[0-9]*"]).stdout.split()) <= 3


def test_nothing_outlives_the_program(sandbox: Sandbox, binds: list[Bind], tmp_path: Path) -> None:
    sandbox.run(["sh", "-c", "(sleep 0.3; echo x >/run/out/late) >/dev/null 2>&1 & :"], binds=binds)
    sandbox.run(["sleep", "0.6"])
    assert not (tmp_path / "out/late").exists()


def test_program_that_takes_too_long_is_stopped_whole(sandbox: Sandbox, binds: list[Bind], tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="did not end within"):
        sandbox.run(["sh", "-c", "sleep 1; echo x >/run/out/late"], binds=binds, timeout=0.5)
    sandbox.run(["sleep", "0.8"])
    assert not (tmp_path / "out/late").exists()


def test_mounts_vanish_with_the_program(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.run(["false"], check=False)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert list(sandbox.scratch.iterdir()) == []


def test_failure_names_the_program_and_not_the_sandbox(sandbox: Sandbox) -> None:
    with pytest.raises(CommandError) as caught:
        sandbox.run(["ls", "/missing"])
    assert caught.value.message.startswith("ls /missing ended with status 2:\n  | ls: cannot access '/missing'")


def test_changes_of_a_tree_go_to_its_layer(sandbox: Sandbox, tmp_path: Path) -> None:
    for name in ("base", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "base/old").touch()
    layers = {"/run/tree": Layers((tmp_path / "base",), tmp_path / "upper", tmp_path / "work")}
    sandbox.run(["sh", "-ec", "cd /run/tree; rm old; echo x >new"], layers=layers, privileged=True)
    assert os.listdir(tmp_path / "base") == ["old"]
    assert (tmp_path / "upper/new").read_text() == "x\n"
    read_only = {"/run/tree": Layers((tmp_path / "upper", tmp_path / "base"))}
    assert sandbox.run(["ls", "/run/tree"], layers=read_only).stdout == "new\n"
    assert sandbox.run(["touch", "/run/tree/y"], layers=read_only, privileged=True, check=False).returncode != 0
    single = {"/run/tree": Layers((tmp_path / "base",))}
    assert sandbox.run(["touch", "/run/tree/y"], layers=single, privileged=True, check=False).returncode != 0


def test_function_of_this_library_runs_inside(sandbox: Sandbox, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert inside.call(sandbox, "_digest.of_data", {}, epoch=1, log=log) == _digest.of_data()
    with pytest.raises(FleetError) as caught:
        inside.call(sandbox, "_image.lock.parse", {"text": '{"format": 7}'}, epoch=1, log=log)
    assert (caught.value.where, caught.value.message) == ("format", "format 7 is not supported, only 1")
    with pytest.raises(CommandError, match="unexpected keyword argument 'odd'"):
        inside.call(sandbox, "_image.lock.parse", {"odd": 1}, epoch=1, log=log)
