# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to a machine of an instrumented image, through the root shell on its serial port."""

from __future__ import annotations

import base64
from itertools import count
from typing import NamedTuple

from ansible_collections.vauban.fleet.plugins.module_utils._vm.machine import Machine

PROMPT = r"vauban#"
_LINE_LENGTH = 4000  # a terminal in canonical mode takes 4095 bytes (termios(3))


class Answer(NamedTuple):
    """What a command printed, errors included, and its exit status."""

    text: str
    status: int


class Shell:
    """The root shell of a machine that has printed its prompt."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._numbers = count(1)
        machine.serial.send("PS1=; PS2=; stty -echo; dmesg --console-level 1; ulimit -c 0\n")

    def ask(self, command: str, *, timeout: float = 120.0) -> Answer:
        """Run one line of shell. What the kernel prints meanwhile cannot get into the answer."""
        number = next(self._numbers)
        show = f"printf '@%s@%s@%s@\\n' {number} $? $(printf %s \"$o\" | base64 --wrap=0)"
        line = f"o=$({{ {command}; }} 2>&1); {show}\n"
        assert len(line) < _LINE_LENGTH
        self.machine.serial.send(line)
        pattern = rf"@{number}@(\d+)@([A-Za-z0-9+/=]*)@"
        found = self.machine.serial.wait_for(pattern, timeout=timeout, fail_on=[r"Kernel panic"])
        return Answer(base64.b64decode(found[2]).decode("utf-8", "replace"), int(found[1]))

    def __call__(self, command: str, *, timeout: float = 120.0) -> str:
        """The output of a command that must succeed."""
        answer = self.ask(command, timeout=timeout)
        assert answer.status == 0, f"'{command}' ended with status {answer.status}:\n{answer.text}"
        return answer.text
