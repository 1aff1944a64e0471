# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of settings, and what the service says if it cannot start."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from vauban_enrolment import server, settings
from vauban_enrolment.storage import Storage


def put(directory: Path, content: Any) -> Path:
    path = directory / "settings.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_empty_object_is_enough(tmp_path: Path) -> None:
    assert settings.read(put(tmp_path, {})) == settings.Settings()


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("{", ""),
        ("[]", ""),
        ({"databse": "x"}, "databse"),
        ({"limits": {"body_bytes": 0}}, "limits.body_bytes"),
        ({"limits": {"body_bytes": "many"}}, "limits.body_bytes"),
        ({"lifetimes": {"challenge": -1}}, "lifetimes.challenge"),
        ({"threads": 1000}, "threads"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, content: Any, where: str) -> None:
    path = put(tmp_path, content)
    with pytest.raises(FleetError) as caught:
        settings.read(path)
    assert caught.value.where == (f"{path}: {where}" if where else str(path))


def test_a_password_is_not_told(tmp_path: Path) -> None:
    path = put(tmp_path, {"database": ["postgresql://u:hunter2@h/d"]})
    with pytest.raises(FleetError) as caught:
        settings.read(path)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"nothing\.json: cannot be read"):
        settings.read(tmp_path / "nothing.json")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read_are_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ek.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FleetError, match=r"ek\.pem"):
        settings.Settings(ek_authorities=path).authorities()


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:hunter2@h/d", "sqlite:////nowhere/at/all.sqlite"])
def test_a_database_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(FleetError, match="database") as caught:
        Storage(url)
    assert "hunter2" not in str(caught.value)


def test_a_database_of_another_version_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.sqlite"
    Storage(f"sqlite:///{file}").close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE schema SET version = 99")
    connection.close()
    with pytest.raises(FleetError, match="its tables are of version 99, and not 1"):
        Storage(f"sqlite:///{file}")


def test_the_database_is_durable_and_checks_references(tmp_path: Path) -> None:
    storage = Storage(f"sqlite:///{tmp_path}/x.sqlite")
    with storage.engine.connect() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    assert found == ["wal", 2, 1]
    storage.close()


def test_without_a_socket_the_program_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    with pytest.raises(FleetError, match="no socket was handed over"):
        server.inherited()


def test_the_role_writes_the_services_own_defaults() -> None:
    """The role says why; the service applies them where a site says less."""
    values = yaml.safe_load((Path(server.__file__).parents[3] / "defaults/main.yml").read_text())
    own = settings.Settings()
    assert values["enrolment_limits"] == own.limits.model_dump()
    assert values["enrolment_lifetimes"] == own.lifetimes.model_dump()
    assert (values["enrolment_database"], values["enrolment_threads"]) == (own.database, own.threads)


def test_both_sides_may_be_the_first_to_open_a_new_database(tmp_path: Path) -> None:
    """One makes its tables while the other comes."""
    file = tmp_path / "x.sqlite"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE another (x)")
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, other.rollback)
    timer.start()
    Storage(f"sqlite:///{file}").close()
    timer.join()
    other.close()
    with contextlib.closing(sqlite3.connect(file)) as new:
        assert new.execute("PRAGMA journal_mode").fetchone() == ("wal",)
