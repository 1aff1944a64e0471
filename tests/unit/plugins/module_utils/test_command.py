# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._command import (
    CLEAN_ENVIRONMENT,
    LAST_LINES,
    CommandError,
    describe,
    pipeline,
    run,
)
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

SECRET = "correct horse battery staple"


def test_output_and_status() -> None:
    completed = run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (completed.stdout, completed.stderr, completed.returncode) == ("out\n", "err\n", 3)


def test_output_that_is_no_text() -> None:
    completed = run(["printf", r"\377"])
    assert completed.stdout_bytes == b"\xff"
    assert completed.stdout == "\ufffd"


def test_environment_of_the_caller_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    shown = dict(line.split("=", 1) for line in run(["env"], env={"MINE": "1"}).stdout.splitlines())
    assert shown == {**CLEAN_ENVIRONMENT, "MINE": "1"}


def test_umask_of_the_caller_does_not_reach_an_artifact(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run(["mkdir", tmp_path / "made"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o755


def test_nothing_to_read_means_end_of_file() -> None:
    assert run(["cat"], timeout=10).stdout == ""


def test_secret_on_standard_input_reaches_neither_arguments_nor_log(tmp_path: Path) -> None:
    script = "read -r secret; test -n \"$secret\"; tr '\\0' ' ' </proc/self/cmdline; env"
    completed = run(["sh", "-c", script], stdin=SECRET.encode() + b"\n", log=tmp_path / "log")
    assert SECRET not in completed.stdout
    assert SECRET not in (tmp_path / "log").read_text()


def test_secret_on_standard_input_is_not_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "cat >/dev/null; exit 1"], stdin=SECRET.encode(), log=tmp_path / "log")
    assert SECRET not in str(caught.value)
    assert SECRET not in (tmp_path / "log").read_text()


def test_descriptor_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    with (tmp_path / "key").open() as stream:
        number = stream.fileno()
        assert run(["cat", f"/proc/self/fd/{number}"], pass_fds=[number]).stdout == SECRET


def test_failure_shows_the_last_lines_and_names_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "step.log"
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "seq 100 >&2; exit 7"], log=log)
    message = str(caught.value)
    assert "ended with status 7" in message
    assert [line for line in message.splitlines() if line.startswith("  | ")] == [
        f"  | {number}" for number in range(101 - LAST_LINES, 101)
    ]
    assert f"read the whole log: {log}" in message
    assert caught.value.completed.returncode == 7


def test_failure_that_wrote_to_standard_output_only() -> None:
    with pytest.raises(CommandError, match=r"  \| the reason"):
        run(["sh", "-c", "echo the reason; exit 1"])


def test_silent_failure() -> None:
    with pytest.raises(CommandError, match=r"^false ended with status 1$"):
        run(["false"])


def test_killed_program_is_a_failure() -> None:
    with pytest.raises(CommandError, match="status -9"):
        run(["sh", "-c", "kill -9 $$"])


def test_program_that_is_not_installed() -> None:
    with pytest.raises(FleetError, match="program not found: no-such-program\nRemedy: run 'make host'"):
        run(["no-such-program", "--option"])


def test_program_that_must_not_be_run(tmp_path: Path) -> None:
    (tmp_path / "text").touch(mode=0o644)
    with pytest.raises(FleetError, match=r"text cannot be started: Permission denied"):
        run([tmp_path / "text"])


def test_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="missing: no such directory"):
        run(["true"], cwd=tmp_path / "missing")


def test_program_that_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"did not end within 0\.3 s"):
        run(["sh", "-c", "echo begun; exec sleep 60"], timeout=0.3, log=tmp_path / "log")
    assert "begun\n[status -9]" in (tmp_path / "log").read_text()


def test_log_is_appended_and_can_be_pasted(tmp_path: Path) -> None:
    for word in ("a b", "$c"):
        run(["echo", word], log=tmp_path / "log")
    assert (tmp_path / "log").read_text() == (
        "$ echo 'a b'\na b\n[status 0]\n"
        "$ echo '$c'\n$c\n[status 0]\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["ls", "/a b"], "ls '/a b'"),
        (["unshare", "--mount", "--", "/bin/sh", "-c", "x", "bwrap", "--", "mkfs.erofs", "/out"], "mkfs.erofs /out"),
        (["git", "log", "--"], "git log --"),
        (["x" * 200], "x" * 100 + " ..."),
    ],
)
def test_command_is_described_without_its_sandbox(argv: list[str], text: str) -> None:
    assert describe(argv) == text


def test_programs_feed_each_other_and_hold_no_more_than_pipes_do() -> None:
    with pipeline([["seq", "1000000"], ["tr", "0", "x"], ["tail", "-n", "1"]]) as stream:
        assert stream.read() == b"1xxxxxx\n"


def test_pipeline_has_the_environment_of_run_and_nothing_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    with pipeline([["sh", "-c", "cat; env"]]) as stream:
        assert b"LC_ALL=C.UTF-8\n" in stream.read()


@pytest.mark.parametrize(
    ("commands", "program", "status"),
    [
        ([["sh", "-c", "echo out; echo broken >&2; exit 3"], ["cat"]], "sh", 3),
        ([["yes"], ["sh", "-c", "echo broken >&2; exit 4"]], "sh", 4),
        ([["yes"], ["sh", "-c", "echo broken >&2; exit 5"], ["cat"]], "sh", 5),
    ],
)
def test_program_that_is_the_cause_is_named(commands: list[list[str]], program: str, status: int) -> None:
    with pytest.raises(CommandError, match="broken") as caught, pipeline(commands) as stream:
        stream.read()
    assert (caught.value.completed.argv[0], caught.value.completed.returncode) == (program, status)


def test_who_gives_up_reading_ends_the_programs() -> None:
    def divide() -> None:
        with pipeline([["yes"], ["cat"]]) as stream:
            assert 1 // (len(stream.read(1 << 20)) - (1 << 20))

    with pytest.raises(ZeroDivisionError):
        divide()
    assert subprocess.run(["pgrep", "--parent", str(os.getpid()), "--exact", "yes|cat"], check=False).returncode == 1


def test_program_of_a_pipeline_that_is_not_there() -> None:
    with pytest.raises(FleetError, match="no-such-program cannot be started"), pipeline([["yes"], ["no-such-program"]]):
        pass
