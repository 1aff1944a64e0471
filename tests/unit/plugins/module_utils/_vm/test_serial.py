# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ansible_collections.vauban.fleet.plugins.module_utils._vm.serial import (
    DEFAULT_FAILURES,
    KERNEL_FAILURES,
    Serial,
    SerialError,
    Transcript,
)

COLOURED = (
    "\x1b[2J\x1b[01;01H[\x1b[0;32m  OK  \x1b[0m] Reached\x1b]8003;start=x\x1b\\ targ\u00e9t\x1bP+q6E\x1b\\.\x1b(B\r\n"
).encode()


@pytest.mark.parametrize("size", range(1, len(COLOURED) + 1))
def test_text_does_not_depend_on_how_the_bytes_were_cut(size: int) -> None:
    transcript = Transcript()
    for start in range(0, len(COLOURED), size):
        transcript.feed(COLOURED[start : start + size])
    assert transcript.text == "[  OK  ] Reached targ\u00e9t.\n"


def test_pattern_is_found_across_pieces() -> None:
    transcript = Transcript()
    transcript.feed(b"host log")
    assert transcript.find([r"login: "], ()) is None
    transcript.feed(b"in: ")
    found = transcript.find([r"login: "], ())
    assert found is not None
    assert not found.failed


def test_only_what_follows_the_last_match_counts() -> None:
    transcript = Transcript()
    transcript.feed(b"one ready\n")
    assert transcript.find([r"ready"], ()) is not None
    assert transcript.find([r"ready"], ()) is None
    transcript.feed(b"two ready\n")
    assert transcript.find([r"ready"], ()) is not None


def test_earlier_failure_goes_before_later_pattern() -> None:
    transcript = Transcript()
    transcript.feed(b"kernel: Oops: 0000 [#1]\nhost login: ")
    found = transcript.find([r"login:"], DEFAULT_FAILURES)
    assert found is not None
    assert found.failed
    assert found.match[0] == "Oops"


@pytest.mark.parametrize("cut", range(60))
def test_expected_refusal_is_no_failure_wherever_its_line_is_cut(cut: int) -> None:
    line = b"BdsDxe: failed to load Boot0001 from PciRoot(0x0): Access Denied\r\n"
    transcript = Transcript()
    for piece in (line[:cut], line[cut:]):
        transcript.feed(piece)
        found = transcript.find([r"BdsDxe: failed to load .*Access Denied"], DEFAULT_FAILURES)
        assert found is None or not found.failed
    assert found is not None


@pytest.mark.parametrize("text", ["DEBUG: all is well\n", "Oopsie\n", "panic=-1\n"])
def test_harmless_words_are_no_failures(text: str) -> None:
    transcript = Transcript()
    transcript.feed(text.encode())
    assert transcript.find([], DEFAULT_FAILURES) is None


@pytest.mark.parametrize("failure", ["Kernel panic - not syncing: VFS", "BUG: unable to handle", "Oops: 0002 [#1]"])
def test_kernel_failures_are_found(failure: str) -> None:
    transcript = Transcript()
    transcript.feed(f"[    2.8] {failure}\n".encode())
    assert transcript.find([], KERNEL_FAILURES) is not None


def test_wait_begins_where_this_boot_began(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_text("ready (of the last boot)\n")
    serial = Serial(log, None, lambda: True)
    with log.open("a") as stream:
        stream.write("ready again\n")
    assert serial.wait_for(r"ready.*\n", timeout=5)[0] == "ready again\n"


def test_wait_sees_what_is_printed_meanwhile(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.touch()
    serial = Serial(log, None, lambda: True)
    timer = threading.Timer(0.2, log.write_text, ["login: "])
    timer.start()
    match = serial.wait_for([r"never", r"login: "], timeout=5)
    timer.join()
    assert match.re.pattern == r"login: "


def test_failure_ends_the_wait_with_its_line(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    serial = Serial(log, None, lambda: True)
    log.write_text("[    2.8] Kernel panic - not syncing: VFS\n" + "trace\n" * 50)
    with pytest.raises(SerialError, match="Kernel panic - not syncing: VFS' before 'login'") as caught:
        serial.wait_for("login", timeout=60)
    assert str(log) in str(caught.value)


def test_last_words_of_a_machine_that_ended_are_read(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    serial = Serial(log, None, lambda: False)
    log.write_text("Power down\n")
    assert serial.wait_for("Power down", timeout=60)
    with pytest.raises(SerialError, match="the machine ended before 'more'"):
        serial.wait_for("more", timeout=60)


def test_time_passing_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(SerialError, match=r"(?s)0 s passed before 'login'.*\(nothing\)") as caught:
        Serial(tmp_path / "serial.log", None, lambda: True).wait_for("login", timeout=0)
    assert caught.value.remedy


def test_typing_needs_a_console_of_ours(tmp_path: Path) -> None:
    with pytest.raises(SerialError, match="on the terminal"):
        Serial(tmp_path / "serial.log", None, lambda: True).send("root\n")
    with pytest.raises(SerialError, match="did not take"):
        Serial(tmp_path / "serial.log", tmp_path / "socket", lambda: True).send("root\n")
