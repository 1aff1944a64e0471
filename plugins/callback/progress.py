# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: stdout
short_description: One line for each step of a build, and a table of what came out
version_added: 0.1.0
author: The vauban.fleet contributors (@vauban)
description:
  - Shows for each step of a build whether it was made or reused, why, and how long it took; other tasks only when they
    change something or fail, and what M(ansible.builtin.debug) says. A failure shows the step, the tool's last lines
    and the log.
  - With C(-v) everything is shown as P(ansible.builtin.default#callback) does.
requirements:
  - set as stdout in configuration (C(stdout_callback = vauban.fleet.progress))
extends_documentation_fragment:
  - default_callback
"""

import sys
import time
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.callback.default import CallbackModule as Default

_DEBUG = ("debug", "ansible.builtin.debug")
_UNITS = ("B", "KiB", "MiB", "GiB")


class CallbackModule(Default):
    """Compact by default, complete when asked."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "vauban.fleet.progress"

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()
        self._releases: dict[str, list[dict[str, Any]]] = {}

    @property
    def _compact(self) -> bool:
        return bool(self._display.verbosity == 0)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Say what runs."""
        if not self._compact:
            super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play is a heading."""
        if not self._compact:
            super().v2_playbook_on_play_start(play)
            return
        mode = " (check mode)" if play.check_mode else ""
        self._display.display(f"\n{play.get_name().strip()}{mode}", color=C.COLOR_HIGHLIGHT)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """On a terminal, show which step runs until its result takes the line."""
        if not self._compact:
            super().v2_playbook_on_task_start(task, is_conditional)
        elif sys.stdout.isatty():
            sys.stdout.write(f"\r\033[K  … {_name(task)}\r")
            sys.stdout.flush()

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """As any other task."""
        if self._compact:
            self.v2_playbook_on_task_start(task, False)
        else:
            super().v2_playbook_on_handler_task_start(task)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Only in full."""
        if not self._compact:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """A pattern without hosts must not pass for success."""
        text = "  no host matches: check --limit and the group 'products' of the inventory"
        self._display.display(text, color=C.COLOR_ERROR)

    def v2_runner_on_ok(self, result: Any) -> None:
        """A step, or a change."""
        if not self._compact:
            super().v2_runner_on_ok(result)
        elif "results" not in result._result:
            self._line(result, result._result)
        if "artifacts" in result._result:
            self._releases.setdefault(result._host.get_name(), []).append(result._result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """The same for one item of a loop."""
        if not self._compact:
            super().v2_runner_item_on_ok(result)
        else:
            self._line(result, result._result, item=result._result.get("_ansible_item_label"))

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Only in full."""
        if not self._compact:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Only in full."""
        if not self._compact:
            super().v2_runner_item_on_skipped(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """The step, and what it says; the message holds the tool's last lines and the log."""
        if not self._compact or ignore_errors:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        if "results" not in result._result:
            self._failure(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """The same for one item of a loop."""
        if self._compact:
            self._failure(result)
        else:
            super().v2_runner_item_on_failed(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """What came out, and what to type next."""
        if not self._compact:
            super().v2_playbook_on_stats(stats)
            return
        failed = sorted(set(stats.failures) | set(stats.dark))
        for host, results in self._releases.items():
            if host not in failed:
                self._table(host, results)
        seconds = time.monotonic() - self._started
        if failed:
            self._display.display(f"\nfailed after {seconds:.0f} s: {', '.join(failed)}", color=C.COLOR_ERROR)
        else:
            changed = sum(stats.changed.values())
            tasks = f"{changed} task{'s' if changed != 1 else ''}"
            what = f"{tasks} changed something" if changed else "nothing had to be done"
            self._display.display(f"\ndone in {seconds:.1f} s: {what}", color=C.COLOR_OK)

    def _line(self, result: Any, outcome: dict[str, Any], item: Any = None) -> None:
        changed = bool(outcome.get("changed"))
        if result._task.action in _DEBUG:
            said = outcome.get("msg", "")
            for line in said if isinstance(said, list) else str(said).splitlines():
                self._display.display(f"  {result._host.get_name():<12} {line}")
            return
        if "reason" not in outcome and not changed:
            return
        label = _name(result._task) + (f" ({item})" if item else "")
        if "reason" in outcome:
            done = "would be made" if result._task.check_mode else "made"
            text = f"{done if changed else 'reused'}: {outcome['reason']}"
        else:
            text = "would change" if result._task.check_mode else "changed"
        seconds = f"{outcome['seconds']:6.1f} s" if outcome.get("seconds", 0) >= 0.1 else " " * 8
        color = C.COLOR_CHANGED if changed else C.COLOR_OK
        clear = "\r\033[K" if sys.stdout.isatty() else ""
        self._display.display(f"{clear}  {result._host.get_name():<12} {label:<64} {seconds}  {text}", color=color)

    def _failure(self, result: Any) -> None:
        message = str(result._result.get("msg", "")).strip() or str(result._result)
        clear = "\r\033[K" if sys.stdout.isatty() else ""
        self._display.display(
            f"{clear}  {result._host.get_name():<12} {_name(result._task)}: FAILED", color=C.COLOR_ERROR, stderr=False
        )
        for line in message.splitlines():
            self._display.display(f"    {line}", color=C.COLOR_ERROR)
        if result._result.get("stderr"):
            for line in str(result._result["stderr"]).splitlines()[-15:]:
                self._display.display(f"    | {line}")

    def _table(self, host: str, results: list[dict[str, Any]]) -> None:
        self._display.display(f"\n{host}: {Path(results[0]['path']).parent}", color=C.COLOR_HIGHLIGHT)
        for artifact in [row for result in results for row in result["artifacts"]]:
            self._display.display(f"  {artifact['file']:<36} {_size(artifact['size']):>10}  {artifact['sha256']}")
        self._display.display(f"next: make try PRODUCT={host}")


def _name(task: Any) -> str:
    return str(task.get_name()).rpartition(" : ")[2]


def _size(size: int) -> str:
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
