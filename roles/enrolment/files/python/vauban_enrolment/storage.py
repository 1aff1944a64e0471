# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The database: all state of the service, and nothing that could open a machine."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    LargeBinary,
    String,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from vauban_enrolment.states import State

# Of this file's tables. Another number is another version of the service.
VERSION = 1
# One writer at a time, as with SQLite: the audit log is a chain, and names must be unique over several rows.
_LOCK = 0x7661756261
_PATIENCE = 15  # seconds for a lock of SQLite


class Time(TypeDecorator[datetime]):
    """A time in UTC. SQLite keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return value.astimezone(UTC).replace(tzinfo=None) if value and dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Time(),
        dict[str, Any]: JSON(),
        list[str]: JSON(),
        State: String(16),
    }


class Schema(Base):
    """The version of the tables, in one row."""

    __tablename__ = "schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class Host(Base):
    """A host of the inventory: what is expected of the machine, and which machine it is once it is installed."""

    __tablename__ = "hosts"
    name: Mapped[str] = mapped_column(primary_key=True)
    expectation: Mapped[dict[str, Any]]
    changed: Mapped[datetime]
    # Of the expectation, for looking hosts up.
    listed_ek: Mapped[str | None] = mapped_column(unique=True)
    serial: Mapped[str | None] = mapped_column(unique=True)
    # Of the machine that was installed as this host.
    ek_sha256: Mapped[str | None] = mapped_column(unique=True)
    ak_public: Mapped[bytes | None] = mapped_column(LargeBinary)
    installed: Mapped[datetime | None]


class HostMac(Base):
    """The MAC addresses of the expectation, for looking hosts up."""

    __tablename__ = "host_macs"
    mac: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("hosts.name"), index=True)


class Release(Base):
    """What a release has to measure."""

    __tablename__ = "releases"
    product: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    content: Mapped[dict[str, Any]]


class Enrolment(Base):
    """One try of one machine."""

    __tablename__ = "enrolments"
    id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(index=True)
    token_sha256: Mapped[str]
    address: Mapped[str] = mapped_column(index=True)
    created: Mapped[datetime]
    changed: Mapped[datetime]  # the state
    seen: Mapped[datetime]  # the machine
    product: Mapped[str]
    version: Mapped[str]
    manifest_sha256: Mapped[str]
    hardware: Mapped[dict[str, Any]]
    serial: Mapped[str | None]
    macs: Mapped[list[str]]
    ek_public: Mapped[bytes | None] = mapped_column(LargeBinary)
    ek_certificate: Mapped[bytes | None] = mapped_column(LargeBinary)
    ek_sha256: Mapped[str | None] = mapped_column(index=True)
    ak_public: Mapped[bytes | None] = mapped_column(LargeBinary)
    host: Mapped[str | None] = mapped_column(ForeignKey("hosts.name"), index=True)
    machine_class: Mapped[str | None]
    approved: Mapped[bool] = mapped_column(default=False)
    # The answer itself is not here: only who can compute it may have it.
    credential_sha256: Mapped[str | None]
    credential_blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    secret: Mapped[bytes | None] = mapped_column(LargeBinary)  # encrypted to the EK
    nonce: Mapped[bytes | None] = mapped_column(LargeBinary)
    nonce_expires: Mapped[datetime | None]
    phase: Mapped[str | None]
    percent: Mapped[int | None]
    line: Mapped[str | None]
    evidence: Mapped[dict[str, Any] | None]
    reports: Mapped[int] = mapped_column(default=0)


class Escrow(Base):
    """A recovery key as it came, encrypted to others. It outlives the enrolment: the disk may, too."""

    __tablename__ = "escrows"
    id: Mapped[str] = mapped_column(primary_key=True)
    enrolment: Mapped[str] = mapped_column(unique=True)
    host: Mapped[str] = mapped_column(ForeignKey("hosts.name"), index=True)
    document: Mapped[bytes] = mapped_column(LargeBinary)
    sha256: Mapped[str]
    time: Mapped[datetime]


class WipeOrder(Base):
    """That the machine with this TPM is to erase its disk. It is gone when that is done."""

    __tablename__ = "wipe_orders"
    ek_sha256: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("hosts.name"), index=True)
    disk: Mapped[dict[str, Any]]  # the rule, as it was when the order was given
    reason: Mapped[str]
    given: Mapped[datetime]
    begun: Mapped[dict[str, Any] | None]  # the disk itself, once its machine has chosen it


class RepairOrder(Base):
    """That the machine with this TPM is to repair its disk. It is gone when that is done, and counts until it ends."""

    __tablename__ = "repair_orders"
    ek_sha256: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("hosts.name"), index=True)
    reason: Mapped[str]
    thorough: Mapped[bool]
    given: Mapped[datetime]
    expires: Mapped[datetime]


class BackupOrder(Base):
    """That the machine with this TPM is to send its data. It is gone when that is done, and counts until it ends."""

    __tablename__ = "backup_orders"
    ek_sha256: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("hosts.name"), index=True)
    reason: Mapped[str]
    recipients: Mapped[list[str]]
    given: Mapped[datetime]
    expires: Mapped[datetime]


class Backup(Base):
    """A backup that came whole: a file beside the database, encrypted to others. It outlives the enrolment."""

    __tablename__ = "backups"
    enrolment: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("hosts.name"), index=True)
    file: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    recipients: Mapped[list[str]]
    time: Mapped[datetime]


class Unlock(Base):
    """A machine asks for the recovery key of its disk, and what somebody who could read the key has answered. Only that
    machine, in the same run of its installer, can read the answer."""

    __tablename__ = "unlocks"
    enrolment: Mapped[str] = mapped_column(ForeignKey("enrolments.id", ondelete="CASCADE"), primary_key=True)
    request: Mapped[dict[str, Any]]
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    time: Mapped[datetime]


class CertificateRequest(Base):
    """A request of a machine, and the certificate once there is one."""

    __tablename__ = "requests"
    enrolment: Mapped[str] = mapped_column(ForeignKey("enrolments.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    request: Mapped[str]
    time: Mapped[datetime]
    certificate: Mapped[str | None]


class GivenCertificate(Base):
    """A certificate that a machine has fetched: from then on its key is asked for, and not the token alone."""

    __tablename__ = "given_certificates"
    enrolment: Mapped[str] = mapped_column(ForeignKey("enrolments.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)


class Counter(Base):
    """Events that are counted and not logged one by one, since strangers make them."""

    __tablename__ = "counters"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


class Record(Base):
    """A line of the audit log. Triggers refuse to change or remove it; see ``audit.py``."""

    __tablename__ = "audit"
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    time: Mapped[str]
    actor: Mapped[str]
    action: Mapped[str]
    enrolment: Mapped[str | None]
    host: Mapped[str | None] = mapped_column(index=True)
    detail: Mapped[dict[str, Any]]
    previous: Mapped[str]
    digest: Mapped[str]


class Head(Base):
    """The last line of the audit log: a log that lost its end does not fit."""

    __tablename__ = "audit_head"
    id: Mapped[int] = mapped_column(primary_key=True)
    sequence: Mapped[int]
    digest: Mapped[str]
    __table_args__ = (ForeignKeyConstraint(["sequence"], ["audit.sequence"]),)


_TRIGGERS = {
    "sqlite": [
        f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$",
        "CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_only_grows()",
    ],
}


class Storage:
    """Opens the database, and makes its tables if there are none.

    :raises FleetError: it cannot be opened, or is of another version.
    """

    def __init__(self, url: str) -> None:
        self.engine = _open(url)
        try:
            self._prepare()
        except SQLAlchemyError as exc:
            reason = str(exc.__cause__ or exc).splitlines()[0]
            raise FleetError(f"the database cannot be opened: {reason}", where="database") from None

    def _prepare(self) -> None:
        with self.write() as session:
            connection = session.connection()
            new = not inspect(connection).has_table(Schema.__tablename__)
            if not new and (found := session.query(Schema).one().version) != VERSION:
                raise FleetError(
                    f"its tables are of version {found}, and not {VERSION}",
                    where="database",
                    remedy="use the version of the service that made it, or another database",
                )
            Base.metadata.create_all(connection)  # in a database that is there, those that came with a later release
            if new:
                for statement in _TRIGGERS[self.engine.dialect.name]:
                    connection.execute(text(statement))
                session.add(Schema(version=VERSION))

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Look at one moment of the database."""
        with Session(self.engine) as session:
            if self.engine.dialect.name == "sqlite":
                session.execute(text("BEGIN"))
            else:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Change it, alone; all or nothing. What is committed survives a power cut."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            if self.engine.dialect.name == "sqlite":
                session.execute(text("BEGIN IMMEDIATE"))
            else:
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield session

    def close(self) -> None:
        """Give connections back."""
        self.engine.dispose()


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in _TRIGGERS:
            raise ArgumentError("neither SQLite nor PostgreSQL")
        # Parameters of statements would show in messages.
        engine = create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
    except (ArgumentError, ImportError) as exc:
        raise FleetError(f"not usable: {exc}", where="database") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure)
    return engine


def _configure(connection: Any, _record: Any) -> None:
    # sqlite3 would begin transactions of its own, and none before a SELECT: two writers could read the same.
    connection.isolation_level = None
    for pragma in (f"busy_timeout={_PATIENCE * 1000}", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()
    _write_ahead(connection)


def _write_ahead(connection: Any) -> None:
    """Let readers go on while somebody writes.

    That changes a new database, whose tables the other side may be making now: SQLite waits for all of its locks but
    the one of this change.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
