# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The enrolment service's two applications in the test's own process, on a database that outlives them.

That is a file of SQLite, or on the PostgreSQL server that the environment names as FLEET_ENROLMENT_DATABASE.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from certificates import P256, Authority, ec_key, pem
from cryptography import x509
from enrolment import Clock, FakeVerifier, expectation
from fastapi.testclient import TestClient
from postgresql import new_database
from sqlalchemy import create_engine, text

from vauban_enrolment.app import admin_app, machines_app
from vauban_enrolment.service import Service
from vauban_enrolment.settings import Settings
from vauban_enrolment.storage import Storage
from vauban_enrolment.verifier import Verifier

POSTGRESQL = os.environ.get("FLEET_ENROLMENT_DATABASE")

_UNLOCK = {
    "sqlite": ("DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete"),
    "postgresql": ("SET session_replication_role = replica",),
}


def _database(file: Path) -> str:
    return new_database(POSTGRESQL) if POSTGRESQL else f"sqlite:///{file}"


@dataclass
class Server:
    """Both sides of the service."""

    file: Path
    stack: ExitStack
    authorities: Sequence[x509.Certificate]
    verifier: Verifier = field(default_factory=FakeVerifier)
    clock: Clock = field(default_factory=Clock)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = _database(self.file)

    @property
    def backups(self) -> Path:
        """Where backups are kept."""
        return self.file.parent / "backups"

    def start(self, **settings: Any) -> None:
        """Begin with nothing but the database. As often as wanted: that is a restart."""
        self.settings.update(settings)
        paths = {"database": self.database, "backups": str(self.backups)}
        read = Settings.model_validate({**paths, **self.settings})
        self.service = Service(Storage(read.database), read, self.verifier, self.authorities, self.clock)
        self.stack.callback(self.service.storage.close)
        # The sweep of the running application would be a second clock; tests call it.
        self.machines = TestClient(machines_app(self.service), raise_server_exceptions=False)
        self.admin = TestClient(admin_app(self.service), raise_server_exceptions=False)

    def request(self, method: str, url: str, **keywords: Any) -> Any:
        """To the machines' side that runs now."""
        return self.machines.request(method, url, **keywords)

    def put_host(self, name: str = "one", **changes: Any) -> Any:
        return self.admin.put(f"/admin/v1/hosts/{name}", json=expectation(**changes))

    def log(self, **query: Any) -> list[dict[str, Any]]:
        """The audit log, which is whole."""
        answer = self.admin.get("/admin/v1/audit", params=query).json()
        assert answer["intact"], answer["fault"]
        return list(answer["records"])

    def change(self, statement: str) -> None:
        """Change the database as somebody does who owns it: nothing keeps him from anything."""
        engine = create_engine(self.database)
        with engine.begin() as connection:
            for each in (*_UNLOCK[engine.dialect.name], statement):
                connection.execute(text(each))
        engine.dispose()

    def last(self) -> dict[str, Any]:
        return self.log()[-1]


@contextmanager
def served(
    server: Server,
    directory: Path,
    name: str = "localhost",
    *,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    listener: socket.socket | None = None,
) -> Iterator[int]:
    """The machines' side by TLS on the loopback interface; yields the port.

    :param directory: gets ``site.pem``, the authority that certifies the server.
    :param name: that the server's certificate bears.
    :param newest: version of TLS that it speaks.
    :param listener: to take connections from, if not at a free port of this machine.
    """
    site = Authority.root("Site", ec_key(P256))
    own = site.issue(name, ec_key(P256))
    for file, content in (("site.pem", site.pem), ("own.pem", own.pem), ("own.key", pem(own.key))):
        (directory / file).write_bytes(content)
    files = {"ssl_certfile": directory / "own.pem", "ssl_keyfile": str(directory / "own.key")}
    config = uvicorn.Config(machines_app(server.service), log_level="warning", lifespan="off", **files)  # type: ignore[arg-type]
    config.load()
    assert isinstance(config.ssl, ssl.SSLContext)
    config.ssl.maximum_version = newest
    running = uvicorn.Server(config)
    with listener or socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.01)
        try:
            yield int(listening.getsockname()[1])
        finally:
            running.should_exit = True
            thread.join(30)
