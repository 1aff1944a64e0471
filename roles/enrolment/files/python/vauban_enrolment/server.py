# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The program: serves one of the two applications on a Unix socket."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import uvicorn

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from vauban_enrolment import app, settings
from vauban_enrolment.service import Service
from vauban_enrolment.storage import Storage
from vauban_enrolment.verifier import Verifier

SIDES = {"machines": app.machines_app, "admin": app.admin_app}
_VERIFIER = "vauban_enrolment.verification"
_FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)
_CONNECTIONS = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="vauban-enrolment", description="Serve the enrolment of machines.")
    parser.add_argument("side", choices=sorted(SIDES))
    parser.add_argument("--settings", type=Path, default=settings.PATH)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
    try:
        serve(given.side, make_service(given.settings, _verifier()), inherited())
    except FleetError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def make_service(path: Path, verifier: Verifier) -> Service:
    """What both sides work with.

    :raises FleetError: names the file and the key.
    """
    os.umask(0o077)  # the database is nobody else's
    read = settings.read(path)
    return Service(Storage(read.database), read, verifier, read.authorities())


def inherited() -> socket.socket:
    """The socket of systemd.socket(5).

    :raises FleetError: there is none, or several.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise FleetError(
            "no socket was handed over", remedy="start it by its socket unit, or systemd-socket-activate(1)"
        )
    return socket.socket(fileno=_FIRST_DESCRIPTOR)


def serve(side: str, service: Service, listener: socket.socket) -> None:
    """Answer until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        SIDES[side](service),
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=10,
        loop="asyncio",
        http="h11",
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[listener])


def _verifier() -> Verifier:
    """Loaded here and nowhere else: its libraries are on servers only."""
    try:
        return cast(Verifier, importlib.import_module(_VERIFIER))
    except ImportError as exc:
        raise FleetError(f"what judges TPMs cannot be loaded: {exc}", remedy="install python3-tpm2-pytss") from exc


if __name__ == "__main__":
    raise SystemExit(main())
