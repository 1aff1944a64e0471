# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

REPLY_TIMEOUT = 60.0  # seconds; a loaded host is slow to answer, a dead QEMU hangs up at once
POLL_INTERVAL = 0.1


class Qmp:
    """QEMU's machine protocol (qemu-qmp-ref(7)), one command after the other.

    Not for use inside a running event loop.

    :param connection: connected to QEMU's socket; taken over.
    :raises FleetError: no connection, or the Python package qemu.qmp is missing.
    """

    def __init__(self, connection: socket.socket) -> None:
        try:
            from qemu.qmp import QMPClient
        except ImportError as exc:
            raise FleetError("the Python package qemu.qmp is missing", remedy="run 'make venv'") from exc
        logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())  # a hang-up is reported by our own errors
        self._runner = asyncio.Runner()
        self._client = QMPClient()
        try:
            self._runner.run(asyncio.wait_for(self._client.connect(connection), REPLY_TIMEOUT))
        except BaseException as exc:
            self._runner.close()
            if isinstance(exc, Exception):
                raise FleetError(f"QEMU's control socket does not answer: {exc}") from exc
            raise

    def execute(self, command: str, **arguments: Any) -> Any:
        """Send one command and return its reply.

        :raises FleetError: QEMU refused it, ended or did not answer.
        """
        from qemu.qmp import QMPError

        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            return self._runner.run(asyncio.wait_for(self._client.execute(command, words), REPLY_TIMEOUT))
        except (QMPError, TimeoutError) as exc:
            raise FleetError(f"QEMU did not do '{command}': {exc or 'no answer'}") from exc

    def status(self) -> str:
        """Run state: ``running``, ``paused``, ``inmigrate``, ``guest-panicked``, ..."""
        return str(self.execute("query-status")["status"])

    def stop(self) -> None:
        """Halt the vCPUs."""
        self.execute("stop")

    def cont(self) -> None:
        """Let the vCPUs run (again)."""
        self.execute("cont")

    def powerdown(self) -> None:
        """Press the power button (ACPI)."""
        self.execute("system_powerdown")

    def quit(self) -> None:
        """End QEMU, orderly."""
        with contextlib.suppress(FleetError):  # it may hang up before it answers
            self.execute("quit")

    def migrate(self, uri: str) -> None:
        """Write the machine's state to ``uri``, as QEMU sees it, and wait for the end.

        :raises FleetError: it failed; carries QEMU's reason.
        """
        self.execute("migrate", uri=uri)
        while True:
            state = self.execute("query-migrate")
            if state["status"] == "completed":
                return
            if state["status"] in ("failed", "cancelled"):
                raise FleetError(f"the machine's state was not saved: {state.get('error-desc', state['status'])}")
            self._runner.run(asyncio.sleep(POLL_INTERVAL))

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(Exception):  # also reports how an earlier connection was lost; no news by now
            self._runner.run(asyncio.wait_for(self._client.disconnect(), REPLY_TIMEOUT))
        self._runner.close()
