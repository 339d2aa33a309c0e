"""The table of users and what belongs to it, in SQLite or PostgreSQL: columns, versions, connections."""

from __future__ import annotations

import itertools
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Double, ForeignKey, Integer, Table, Text, exc

import sessions
from web.settings import ROOT, StartError, one_line

metadata = sa.MetaData()
users = Table(
    "users", metadata,
    Column("name", Text, primary_key=True),  # as it was registered; a session has it as its user
    Column("folded", Text, nullable=False, unique=True),  # what it is compared by, see auth.names.folded()
    Column("email", Text),
    Column("folded_email", Text, unique=True),
    Column("hash", Text, nullable=False),  # argon2id
    Column("valid_since", Double, nullable=False),  # epoch seconds; whoever signed in before is signed out
    Column("created", Double, nullable=False),  # epoch seconds
    Column("disabled", Double),  # epoch seconds since when nobody may sign in as this user; NULL: one may
    Column("totp_secret", Text),  # NULL: no second factor
    Column("totp_step", Integer),  # the last one that was used, of 30 seconds each since 1970
    Column("demo", Text),  # the hash of the DEMO_PASSWORD that made this row, which counts in development only
)  # fmt: skip
recovery_codes = Table(
    "recovery_codes", metadata,
    Column("user", ForeignKey(users.c.name, ondelete="CASCADE"), primary_key=True),
    Column("hash", Text, primary_key=True),
)  # fmt: skip
tokens = Table(  # the links that were given to somebody, see auth.links
    "tokens", metadata,
    Column("hash", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("user", ForeignKey(users.c.name, ondelete="CASCADE"), index=True),  # NULL: nobody's yet
    Column("email", Text),  # that it was sent to
    Column("expires", Double, nullable=False),  # epoch seconds
)  # fmt: skip
_version = Table("users_version", metadata, Column("version", Integer, nullable=False))

# MIGRATIONS[n - 1] are the statements that lead from version n of the tables to n + 1, in words of both databases.
# Tables that are made new are the latest, as above: a change is made in both places.
MIGRATIONS: tuple[tuple[str, ...], ...] = ()

_SQLITE = "sqlite:///"
_TIMEOUT = 5.0  # seconds to wait for another process that writes to SQLite, or for a free connection
_CONNECTIONS = 5  # each is taken for a statement or a few, and never while a password is hashed
_BEGIN = {"sqlite": sa.text("BEGIN EXCLUSIVE"), "postgresql": sa.text("BEGIN ISOLATION LEVEL READ COMMITTED")}
_ALONE = {"sqlite": "SELECT 1", "postgresql": "SELECT pg_advisory_xact_lock(1431520594)"}  # any number, but this one


class AccountsUnavailable(sessions.Unavailable):
    """The users cannot be read or written just now."""

    public = "The accounts do not answer. Please try again in a moment."


class Database:
    """The tables, which the processes of a site share; made, or brought up to date, when it is opened.

    Connections are kept: every request of somebody signed in reads once. None is open when the constructor returns, so
    that a server may fork.

    Args:
        url: `sqlite:///PATH`, below the project's folder unless absolute; or PostgreSQL's, as the option `dsn` of its
            sessions.

    Attributes:
        path: of the SQLite file, or None.

    Raises:
        StartError: that is no such address, or a later version of the site has made the tables.
        AccountsUnavailable: they cannot be made, or the server does not answer. So do all methods.
    """

    path: Path | None = None

    def __init__(self, url: str) -> None:
        options = {
            "poolclass": sa.QueuePool, "pool_size": _CONNECTIONS, "max_overflow": 0, "pool_timeout": _TIMEOUT,
            "isolation_level": "AUTOCOMMIT", "hide_parameters": True,
        }  # fmt: skip
        if url.startswith(_SQLITE):
            self.path = ROOT / url.removeprefix(_SQLITE)
            self._place = str(self.path)
            self._engine = sa.create_engine("sqlite://", **options)
            _use_file(self._engine, self.path)
        else:
            self._place, connect = _server(url)
            options["use_native_hstore"] = False  # or it would look for that type at each start
            self._engine = sa.create_engine("postgresql+psycopg://", creator=connect, **options)
        weakref.finalize(self, self._engine.dispose)
        try:
            with self._errors("made"):
                if self.path and not self.path.exists():
                    _make_file(self.path)
                self._migrate()
        finally:
            self._engine.dispose()

    def rows(self, statement: sa.Executable, values: Mapping[str, object] | None = None) -> list[sa.Row[Any]]:
        """Return what a SELECT finds."""
        with self._errors("read"):
            connection, found = self._start(statement, values)
            with connection:
                return list(found)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Run a block as one transaction, which an exception rolls back. In SQLite nobody reads or writes meanwhile."""
        with self._errors("written"):
            connection, _ = self._start(_BEGIN[self._engine.name])
            with connection:
                yield connection
                connection.exec_driver_sql("COMMIT")

    def _start(self, statement: sa.Executable, *values: Any, again: bool = True) -> tuple[sa.Connection, Any]:
        """Run the first statement on a connection; on another one, if the server had closed that long ago. To ask
        before would be one more round trip for every request."""
        connection = self._engine.connect()
        try:
            return connection, connection.execute(statement, *values)
        except BaseException as error:
            connection.close()
            if again and getattr(error, "connection_invalidated", False):
                return self._start(statement, *values, again=False)
            raise

    def _migrate(self) -> None:
        """Make the tables, or bring them up to date; of processes that start together, one does."""
        latest = len(MIGRATIONS) + 1
        with self._engine.connect() as connection:
            if _version_of(connection) == latest:
                return
        with self.begin() as connection:
            connection.exec_driver_sql(_ALONE[self._engine.name])
            version = _version_of(connection)
            if version is None:
                metadata.create_all(connection, checkfirst=False)  # a table that is something else's is an error
                connection.execute(sa.insert(_version).values(version=latest))
                return
            if version > latest:
                raise StartError(
                    f"the users in {self._place} are of version {version}, and this site knows {latest}: start the "
                    "release that has been here, or give users.url another database"
                )
            for statement in itertools.chain(*MIGRATIONS[version - 1 :]):
                connection.exec_driver_sql(statement)
            connection.execute(sa.update(_version).values(version=latest))

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise
        except (exc.SQLAlchemyError, OSError) as error:
            cause = one_line(getattr(error, "orig", None) or error)
            raise AccountsUnavailable(f"the users in {self._place} cannot be {done}: {cause}") from error


def _use_file(engine: sa.Engine, path: Path) -> None:
    """Let an engine open a file that is there. Where it may not be written, SQLite opens it to read.

    Another one may have its name later, such as a backup: then a kept connection is let go. One that is gone is an
    error (OSError), and not an empty one, or revoked sessions would come to life again.
    """

    def identity() -> tuple[int, int]:
        status = path.stat()
        return status.st_dev, status.st_ino

    @sa.event.listens_for(engine, "do_connect")
    def connect(_: object, record: sa.pool.ConnectionPoolEntry, *__: object) -> sqlite3.Connection:
        record.info["file"] = identity()
        connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", _TIMEOUT, uri=True, check_same_thread=False)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    @sa.event.listens_for(engine, "checkout")
    def check(_: object, record: sa.pool.ConnectionPoolEntry, *__: object) -> None:
        if record.info["file"] != identity():
            raise exc.DisconnectionError


def _make_file(path: Path) -> None:
    """Make the file, for its owner alone. What root makes in the folder of another account, that account gets: the site
    could not read it."""
    made = [path, *(folder for folder in path.parents if not folder.exists())]
    owner = made[-1].parent.stat()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another process was first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            for one in made:
                os.chown(one, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _server(dsn: str) -> tuple[str, Callable[[], Any]]:
    """Return PostgreSQL's address, for the log, and a function that connects as its sessions do: every wait is bounded.
    Nothing is prepared, for PgBouncer's sake."""
    import psycopg  # only where it is needed

    from sessions.backends.postgresql.connection import CONNECT_TIMEOUT, Connection

    try:
        given: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # its text may quote the password
        raise StartError("users.url is neither sqlite:///PATH nor postgresql://user@host/database") from None
    given = {"connect_timeout": CONNECT_TIMEOUT, "application_name": "users", **given}
    connect = partial(Connection.connect, client_encoding="UTF8", prepare_threshold=None, **given)
    return f"PostgreSQL at {given.get('host', '(local socket)')}", connect


def _version_of(connection: sa.Connection) -> int | None:
    known = sa.inspect(connection).has_table(_version.name)
    return connection.scalar(sa.select(_version.c.version)) if known else None
