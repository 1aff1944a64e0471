# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils import _sandbox
from ansible_collections.vauban.fleet.plugins.module_utils._command import CLEAN_ENVIRONMENT, CommandError, Completed
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import (
    SDK_IN_TREE,
    Bind,
    Layers,
    Sandbox,
    owner,
    require_namespaces,
)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    (tmp_path / "sdk").mkdir()
    (tmp_path / "scratch").mkdir()
    return Sandbox(tmp_path / "sdk", tmp_path / "scratch")


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def parts(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """The prefix that enters the namespace, the script that mounts, and bwrap's command line."""
    place = list(argv).index("--")
    assert argv[place + 1 : place + 3] == ["/bin/sh", "-euc"]
    assert argv[place + 4] == "sandbox"
    return list(argv[:place]), argv[place + 3], list(argv[place + 5 :])


def options(bwrap: Sequence[str], name: str, count: int) -> list[tuple[str, ...]]:
    return [tuple(bwrap[n + 1 : n + 1 + count]) for n, word in enumerate(bwrap) if word == name]


def bwrap_of(sandbox: Sandbox, **arguments: Any) -> list[str]:
    return parts(sandbox.argv(["true"], **arguments))[2]


def test_command_comes_last_and_literally(sandbox: Sandbox) -> None:
    command = ["printf", "%s", "$(id) 'x' --bind", Path("/run/out")]
    bwrap = parts(sandbox.argv(command))[2]
    assert bwrap[0] == "bwrap"
    assert bwrap[bwrap.index("--") + 1 :] == ["printf", "%s", "$(id) 'x' --bind", "/run/out"]


def test_no_network_unless_asked_for(sandbox: Sandbox) -> None:
    assert "--unshare-net" in bwrap_of(sandbox)
    assert "--unshare-net" not in bwrap_of(sandbox, network=True)


def test_every_other_namespace_is_always_unshared(sandbox: Sandbox) -> None:
    for arguments in ({}, {"network": True, "privileged": True}):
        bwrap = bwrap_of(sandbox, **arguments)
        for option in ("--unshare-ipc", "--unshare-pid", "--unshare-uts", "--die-with-parent", "--clearenv"):
            assert option in bwrap


def test_environment_is_the_clean_one_and_what_is_asked_for(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    bwrap = bwrap_of(sandbox, env={"SOURCE_DATE_EPOCH": "1", "HOME": "/tmp"})
    assert dict(options(bwrap, "--setenv", 2)) == {**CLEAN_ENVIRONMENT, "SOURCE_DATE_EPOCH": "1", "HOME": "/tmp"}


def test_capabilities(sandbox: Sandbox) -> None:
    """Without privileges a step may read what is bound, whoever owns it, and nothing else."""
    assert options(bwrap_of(sandbox), "--cap-add", 1) == [("CAP_DAC_READ_SEARCH",)]
    assert options(bwrap_of(sandbox), "--cap-drop", 1) == [("ALL",)]
    assert options(bwrap_of(sandbox, privileged=True), "--cap-add", 1) == [("ALL",)]


def test_binds_are_read_only_unless_writable(sandbox: Sandbox) -> None:
    binds = [Bind(Path("/in"), "/run/in"), Bind(Path("/out"), "/run/out", writable=True)]
    binds.append(Bind(Path("/dev/kvm"), "/dev/kvm", device=True))
    bwrap = bwrap_of(sandbox, binds=binds)
    assert options(bwrap, "--bind", 2) == [("/out", "/run/out")]
    assert options(bwrap, "--dev-bind", 2) == [("/dev/kvm", "/dev/kvm")]
    assert options(bwrap, "--ro-bind", 2) == [(str(sandbox.scratch / "sdk"), "/"), ("/in", "/run/in")]


def test_binds_come_after_the_empty_directories_that_hold_them(sandbox: Sandbox) -> None:
    bwrap = bwrap_of(sandbox, binds=[Bind(Path("/in"), "/run/in")])
    assert bwrap.index("/run/in") > bwrap.index("/run") > bwrap.index("--tmpfs")


def test_root_enters_a_mount_namespace_and_users_a_user_namespace_too(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parts(sandbox.argv(["true"]))[0] == ["unshare", "--mount", "--propagation", "private"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    prefix = parts(sandbox.argv(["true"]))[0]
    assert prefix[:4] == ["unshare", "--mount", "--propagation", "private"]
    assert {"--user", "--map-root-user", "--map-auto"} <= set(prefix)


@pytest.mark.parametrize(("user", "extended"), [(0, False), (1000, True)])
def test_overlay(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, user: int, extended: bool) -> None:
    """Only an overlay in a user namespace keeps its own attributes in user.*: overlayfs has no other choice there."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    layers = {"/run/tree": Layers((Path("/b"), Path("/a")), Path("/up"), Path("/work"))}
    _prefix, script, bwrap = parts(sandbox.argv(["true"], layers=layers))
    assert "lowerdir=/b:/a,upperdir=/up,workdir=/work" in script
    assert ("userxattr" in script) is extended
    assert options(bwrap, "--bind", 2) == [(str(sandbox.scratch / "overlay-run-tree"), "/run/tree")]


def test_single_lower_tree_is_shown_read_only(sandbox: Sandbox) -> None:
    script = parts(sandbox.argv(["true"], layers={"/run/tree": Layers((Path("/a"),))}))[1]
    assert "overlay -o" not in script
    assert f"remount,bind,ro {sandbox.scratch}/overlay-run-tree" in script


def test_tree_as_root_still_has_the_sdk_at_hand(sandbox: Sandbox) -> None:
    bwrap = bwrap_of(sandbox, root=Layers((Path("/base"),), Path("/up"), Path("/work")))
    assert options(bwrap, "--bind", 2) == [(str(sandbox.scratch / "overlay-"), "/")]
    assert (str(sandbox.scratch / "sdk"), SDK_IN_TREE) in options(bwrap, "--ro-bind", 2)
    assert ("/run/vauban",) in options(bwrap, "--dir", 1)


@pytest.mark.parametrize("name", ["with space", "with'quote", "$(touch x)", "semi;colon"])
def test_odd_paths_stay_one_word(tmp_path: Path, name: str) -> None:
    scratch = tmp_path / name
    scratch.mkdir()
    script = parts(Sandbox(tmp_path, scratch).argv(["true"]))[1]
    words = [line for line in script.splitlines() if line.startswith("mkdir ")]
    assert words == [f"mkdir {shlex.quote(f'{scratch}/sdk')}"]


@pytest.mark.parametrize("name", ["with:colon", "with,comma", "with\\backslash"])
def test_paths_that_overlayfs_would_split_are_refused(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(FleetError, match="overlayfs"):
        sandbox.argv(["true"], root=Layers((Path("/base"),), Path(f"/{name}/up"), Path("/work")))


def test_image_is_mounted_read_only(tmp_path: Path) -> None:
    (tmp_path / "sdk.erofs").touch()
    (tmp_path / "scratch").mkdir()
    script = parts(Sandbox(tmp_path / "sdk.erofs", tmp_path / "scratch").argv(["true"]))[1]
    assert f"mount -o loop,ro,nosuid,nodev {tmp_path}/sdk.erofs" in script


def test_missing_sdk(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="nowhere: the SDK is not there\nRemedy: run 'make build'"):
        Sandbox(tmp_path / "nowhere", tmp_path).argv(["true"])


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An ordinary user without namespaces, on a machine whose /etc and /proc/sys lie below the returned path."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(_sandbox, "_user_name", lambda: "builder")
    monkeypatch.setattr(_sandbox, "_ETC", tmp_path)
    monkeypatch.setattr(_sandbox, "_SYSCTL", tmp_path)
    monkeypatch.setattr(_sandbox.shutil, "which", lambda *_words, **_options: "/usr/bin/newuidmap")
    failed = Completed(("unshare",), 1, b"", b"unshare: unshare failed: Operation not permitted")
    monkeypatch.setattr(_sandbox, "run", lambda *_words, **_options: failed)
    return tmp_path


def _grant(etc: Path, line: str) -> None:
    for name in ("subuid", "subgid"):
        (etc / name).write_text(line)


def test_user_without_newuidmap(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox.shutil, "which", lambda *_words, **_options: None)
    with pytest.raises(FleetError, match="install package uidmap"):
        require_namespaces()


@pytest.mark.parametrize(
    ("present", "first"), [("", 100000), ("other:100000:65536\n", 165536), ("builder:200000:10\n", 200010)]
)
def test_user_without_subordinate_ids_is_told_which_are_free(user: Path, present: str, first: int) -> None:
    _grant(user, present)
    ids = f"{first}-{first + 65535}"
    with pytest.raises(FleetError) as failure:
        require_namespaces()
    assert failure.value.where == str(user / "subuid")
    assert failure.value.remedy == f"sudo usermod --add-subuids {ids} --add-subgids {ids} builder"


@pytest.mark.parametrize("line", ["builder:100000:65536\n", "12345:100000:65536\n"])
@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces="),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_machine_that_forbids_user_namespaces(user: Path, line: str, name: str, value: str, remedy: str) -> None:
    _grant(user, line)
    (user / name).parent.mkdir()
    (user / name).write_text(f"{value}\n")
    with pytest.raises(FleetError, match=re.escape(remedy)):
        require_namespaces()


def test_failed_step_names_the_machine_only_when_that_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    failed = Completed(("unshare",), 32, b"", b"mount: /x: unknown filesystem type 'y'.")
    probe = Completed(("unshare",), 0, b"", b"")
    answers = iter([failed, probe, failed, failed])
    monkeypatch.setattr(_sandbox, "run", lambda *_words, **_options: next(answers))
    with pytest.raises(CommandError, match="unknown filesystem type"):
        sandbox.run(["true"])
    with pytest.raises(FleetError, match="root may not mount here"):
        sandbox.run(["true"])


def test_tree_of_another_user_is_another_tree(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _grant(user, "builder:100000:65536\n")
    first = owner()
    _grant(user, "builder:300000:65536\n")
    second = owner()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert len({first, second, owner()}) == 3
