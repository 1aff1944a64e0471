# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tasks do, and what they leave behind, in a tree under construction."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from .conftest import Play, Task


def command(*argv: str, **keywords: Any) -> Task:
    return {"ansible.builtin.command": {"argv": list(argv)}, "changed_when": False, **keywords}


def copy(dest: str, content: str, **arguments: Any) -> Task:
    return {"ansible.builtin.copy": {"dest": dest, "content": content, "mode": "0644", **arguments}}


def as_user(name: str) -> dict[str, Any]:
    return {"become": True, "become_user": name}


ALICE: Task = {"ansible.builtin.user": {"name": "alice", "uid": 4711, "create_home": False, "shell": "/bin/sh"}}


def files(layer: Path) -> set[str]:
    """What the layer holds, relative, directories left out."""
    upper = layer / "upper"
    return {str(path.relative_to(upper)) for path in upper.rglob("*") if not path.is_dir()}


def test_command_runs_in_the_tree(play_in_tree: Play, layer: Path) -> None:
    done = play_in_tree(command("id", "-u"), command("cat", "/proc/net/dev"), command("printenv"), command("pwd"))
    user, network, environment, directory = (result["stdout"] for result in done.results)
    assert user == "0"
    assert [line.split(":")[0].strip() for line in network.splitlines()[2:]] == ["lo"]
    assert "ANSIBLE_COLLECTIONS_PATH" not in environment
    assert directory == "/"
    assert files(layer) == set()


def test_check_do_check_do(play_in_tree: Play, layer: Path, tmp_path: Path) -> None:
    (tmp_path / "x.conf.j2").write_text("name = {{ inventory_hostname }}\n")
    tasks = [
        copy("/etc/x", "content\n"),
        {"ansible.builtin.template": {"src": str(tmp_path / "x.conf.j2"), "dest": "/etc/x.conf", "mode": "0600"}},
        ALICE,
        {"ansible.builtin.file": {"path": "/srv/data", "state": "directory", "owner": "root", "mode": "0750"}},
        {"ansible.builtin.file": {"path": "/etc/debian_version", "state": "absent"}},
    ]
    foreseen = play_in_tree(*tasks, options=("--check",)).changed
    assert files(layer) == set()
    first = play_in_tree(*tasks).changed
    again = play_in_tree(*({**task, "check_mode": True} for task in tasks), *tasks).changed
    assert [set(foreseen), set(first), set(again)] == [{True}, {True}, {False}]
    upper = layer / "upper"
    assert (upper / "etc/x.conf").read_text() == "name = product\n"
    assert stat.S_IMODE((upper / "etc/x.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE((upper / "srv/data").stat().st_mode) == 0o750
    assert "alice:x:4711" in (upper / "etc/passwd").read_text()
    assert stat.S_ISCHR((upper / "etc/debian_version").stat().st_mode)  # how overlayfs says "deleted"


def test_base_tree_is_only_read(play_in_tree: Play, base: Path, tmp_path: Path) -> None:
    before = (base / "etc/passwd").read_bytes()
    play_in_tree(ALICE, copy("/etc/new-file-of-the-test", "x"))
    assert (base / "etc/passwd").read_bytes() == before
    assert not (base / "etc/new-file-of-the-test").exists()


def test_diff_shows_content(play_in_tree: Play) -> None:
    printed = play_in_tree(copy("/etc/x", "alpha = 1\n"), copy("/etc/x", "alpha = 2\n"), options=("--diff",)).printed
    assert "+alpha = 1" in printed
    assert "-alpha = 1" in printed
    assert "+alpha = 2" in printed


def test_files_come_back(play_in_tree: Play, tmp_path: Path) -> None:
    """Bytes that are no text among them."""
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 4000)
    done = play_in_tree(
        {"ansible.builtin.copy": {"src": str(tmp_path / "binary"), "dest": "/srv/binary", "mode": "0644"}},
        {"ansible.builtin.fetch": {"src": "/srv/binary", "dest": str(tmp_path / "fetched"), "flat": True}},
        copy("/srv/text", "täxt\n"),
        {"ansible.builtin.slurp": {"src": "/srv/text"}},
        {"ansible.builtin.fetch": {"src": "/srv/absent", "dest": str(tmp_path / "absent"), "flat": True}},
    )
    assert (tmp_path / "fetched").read_bytes() == (tmp_path / "binary").read_bytes()
    assert done.results[3]["content"] == "dMOkeHQK"
    assert "the remote file does not exist" in done.results[4]["msg"]
    assert not (tmp_path / "absent").exists()


def test_become_really_changes_the_user(play_in_tree: Play, layer: Path) -> None:
    own = {"path": "/srv/alice", "state": "directory", "owner": "alice", "mode": "0755"}
    done = play_in_tree(
        ALICE,
        {"ansible.builtin.file": own},
        command("id", "-u", **as_user("alice")),
        {**copy("/srv/alice/file", "hers\n"), **as_user("alice")},
        {**copy("/etc/forbidden", "x\n"), **as_user("alice")},
        command("cat", "/etc/shadow", **as_user("alice")),
        command("id", "-u", **as_user("root")),
        command("id", "-u", **as_user("nobody-of-this-name")),
    )
    results = done.results
    assert results[2]["stdout"] == "4711"
    assert (layer / "upper/srv/alice/file").stat().st_uid == 4711
    assert [result["failed"] for result in results] == [False, False, False, False, True, True, False, True]
    assert "Permission denied" in results[5]["stderr"]
    assert "nobody-of-this-name does not exist" in json.dumps(results[7])
    assert not (layer / "upper/etc/forbidden").exists()


def test_become_method_of_the_user_does_not_matter(play_in_tree: Play) -> None:
    done = play_in_tree(ALICE, command("id", "-u", **as_user("alice"), become_method="ansible.builtin.su"))
    assert done.results[1]["stdout"] == "4711"


def test_failing_command_reports_status_and_stderr(play_in_tree: Play) -> None:
    raw = {"ansible.builtin.raw": "echo reason >&2; exit 3"}
    done = play_in_tree(command("sh", "-c", "echo reason >&2; exit 3"), raw, command("/no/such/program"))
    for result in done.results[:2]:
        assert (result["failed"], result["rc"], result["stderr"].strip()) == (True, 3, "reason")
    assert (done.results[2]["failed"], done.results[2]["rc"]) == (True, 2)


def test_async_is_refused(play_in_tree: Play, layer: Path) -> None:
    done = play_in_tree(command("touch", "/srv/late", **{"async": 10, "poll": 1}))
    assert done.results[0]["failed"]
    assert "async is not possible here" in done.results[0]["msg"]
    assert not (layer / "upper/srv/late").exists()


def test_tree_that_is_not_there(play_in_tree: Play, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for base in ("empty", "absent"):
        result = play_in_tree(command("true"), rootfs_base=str(tmp_path / base)).results[0]
        assert result["unreachable"]
        assert f"{tmp_path / base}: not a root tree. Remedy" in result["msg"]


def test_tree_without_a_shell(play_in_tree: Play, tmp_path: Path) -> None:
    for name in ("dev", "proc", "run", "tmp", "usr", "var/tmp"):
        (tmp_path / "bare" / name).mkdir(parents=True)
    result = play_in_tree(command("true"), rootfs_base=str(tmp_path / "bare")).results[0]
    assert result["unreachable"]
    assert f"{tmp_path / 'bare'}: no command runs in this tree: " in result["msg"]
    assert "/bin/sh" in result["msg"]


def test_missing_sdk(play_in_tree: Play, tmp_path: Path) -> None:
    result = play_in_tree(command("true"), rootfs_sdk=str(tmp_path / "absent")).results[0]
    assert result["unreachable"]
    assert "the SDK is not there" in result["msg"]


def test_nothing_of_the_connection_stays(play_in_tree: Play, layer: Path) -> None:
    """No interpreter, no transferred module, no temporary file, no bytecode: only what the tasks wanted."""
    (layer / "upper").mkdir(parents=True)
    tasks = [ALICE, copy("/etc/x", "x\n"), {"ansible.builtin.setup": {"gather_subset": "!all"}}]
    tasks.append({**copy("/tmp/thrown-away", "x\n"), **as_user("alice")})
    tasks.append({"ansible.builtin.script": {"cmd": str(_script(layer.parent))}})
    done = play_in_tree(*tasks)
    assert not [result for result in done.results if result["failed"]]
    accounts = {"group", "gshadow", "passwd", "shadow", "subgid", "subuid"}
    allowed = {"etc/x", "etc/.pwd.lock", *(f"etc/{name}{end}" for name in accounts for end in ("", "-"))}
    assert files(layer) <= allowed
    directories = {str(path.relative_to(layer / "upper")) for path in (layer / "upper").rglob("*") if path.is_dir()}
    assert directories == {"etc"}
    assert not (layer / "tmp").exists() or not list((layer / "tmp").iterdir())


def _script(directory: Path) -> Path:
    path = directory / "script.sh"
    path.write_text('#!/bin/sh\ntest -e "$0"\n')
    return path


def test_umask_of_the_caller_does_not_reach_the_tree(play_in_tree: Play, layer: Path, tmp_path: Path) -> None:
    (tmp_path / "root/etc/deep").mkdir(parents=True)
    (tmp_path / "root/etc/deep/x").write_text("x\n")
    before = os.umask(0o077)
    try:
        play_in_tree(command("mkdir", "/srv/made"), {"vauban.fleet.config_tree": {"src": str(tmp_path / "root")}})
    finally:
        os.umask(before)
    for name in ("srv/made", "etc/deep"):
        assert stat.S_IMODE((layer / "upper" / name).stat().st_mode) == 0o755
    assert stat.S_IMODE((layer / "upper/etc/deep/x").stat().st_mode) == 0o644
