"""Sessions in PostgreSQL: they survive a restart, and processes on any number of machines share them.

A session is one row. The request that uses it holds it by a row lock of its own transaction, from the first access to
the end: BEGIN and SELECT ... FOR UPDATE go in one send, UPDATE and COMMIT in another. The lock dies with its
connection, so a crashed process blocks nobody. (A machine that loses its power does until the server has noticed: set
tcp_keepalives_idle there if the site runs on another machine.)

Behind PgBouncer: pool_mode = transaction (or session; statement cannot hold a lock), default_pool_size not below the
number of requests that use a session at the same time, idle_transaction_timeout and query_timeout 0 or longer than the
slowest page. Nothing else, for no state is left in a connection: nothing is prepared, SET is always SET LOCAL, and a
search_path has to come from the role or the name of the table.

Each transaction is READ COMMITTED and sets its own time-outs, whatever the defaults of the role, the database and the
server are. A standby, or a server whose configuration has default_transaction_read_only, is Unavailable.

Values are part of the statements. A server that logs statements logs what is in the sessions; the ids it never has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...errors import ConfigError, CorruptRecord, Unavailable
from ...record import SESSION, TOMBSTONE, Record, unquote_user
from ...session import Session
from ...store import Capabilities, Hold, Store, timeout_option
from .table import COLUMNS, FORMAT, UNREADABLE, Statements

if TYPE_CHECKING:
    from .connection import Connection, Cursor, Pool

_BATCH = 100  # sessions that are listed at a time


class PostgresqlHold(Hold):
    """Holds a session by the row lock of a transaction."""

    __slots__ = ("_connection", "_cursor")
    _store: PostgresqlStore

    def __init__(self, store: PostgresqlStore, key: str, connection: Connection, cursor: Cursor) -> None:
        super().__init__(store, key)
        self._connection, self._cursor = connection, cursor

    def _read(self) -> Record | None:
        row = self._cursor.fetchone()
        return _record(row) if row else None

    def _commit(self, record: Record) -> bool:
        return self._end(self._store.sql.update, *_values(record), self.key) == 1

    def _remove(self) -> None:
        self._end(self._store.sql.remove, self.key)

    def _quarantine(self) -> None:
        self._end(self._store.sql.quarantine, self.key)

    def _end(self, statement: str, *params: Any) -> int:
        return 0 if self._released else self._store.pool.end(self._connection, statement, *params)

    def _unlock(self) -> None:
        self._store.pool.put_back(self._connection, held=True)
        if self._connection.hung:  # no error: this request has what it wanted
            self._store.locks.refuse(self.key, Unavailable(f"PostgreSQL at {self._store.pool.address} does not answer"))


class PostgresqlStore(Store):
    """Keeps each session in a row.

    Args:
        dsn: the server, database and user, as a URL (postgresql://user@host:5432/database) or a string of libpq.
        table: name of the table, with its schema before a dot if need be. It is made if it is missing and the user may.
        server_timeout: seconds in which the server has to answer, at most 3; None for that. Where it may wait for a
            lock, one more.
    """

    capabilities = Capabilities(
        survives_restart=True, shared=True, locks_processes=True,
        keeps="One row of a table for each session.",
        sharing="All processes, on any number of machines, that reach the database.",
        locking="A fair queue among the threads of a process; between processes a row lock, which the server drops "
        "with the connection that held it.",
        outage="503 while the server does not answer, after seconds at most; no session is lost.",
        needs="A PostgreSQL database, and the packages psycopg and psycopg_pool.",
    )  # fmt: skip

    def __init__(self, *, dsn: str, table: str = "sessions", server_timeout: float | None = None) -> None:
        super().__init__()
        self.sql = Statements(table)
        self._table = table
        try:
            from .connection import SERVER_TIMEOUT, Pool
        except ImportError as error:
            raise ConfigError(f"{error}: pip install 'psycopg[binary]' psycopg_pool") from error
        self.pool: Pool = Pool(dsn, timeout_option(server_timeout, SERVER_TIMEOUT))
        try:
            self.pool.prepare(table, *_values(Record("", 0, 0)), *3 * [self.new_key()])
        except Unavailable as error:
            raise Unavailable(f"{error} (`make services` starts a server for development)") from error

    def _hold(self, key: str, timeout: float) -> Hold:
        return PostgresqlHold(self, key, *self.pool.begin(self.sql.acquire, key, timeout=timeout))

    def load(self, key: str) -> Record | None:
        row = self.pool.query(self.sql.load, key).fetchone()
        return _record(row) if row else None

    def ping(self) -> None:
        self.pool.query(self.sql.acquire, self.new_key())  # a server that has become read-only still answers load()

    def save(self, key: str, record: Record) -> None:
        self.pool.query(self.sql.save, *_values(record), key)

    def remove(self, key: str) -> None:
        self.pool.query(self.sql.remove, key)

    def purge(self, limit: int) -> int:
        rows = self.pool.query(self.sql.purge, self.clock(), limit).fetchall()
        for *row, key in rows:
            if not key.startswith(UNREADABLE):
                with suppress(CorruptRecord):
                    self.ended(key, _record(row))
        return len(rows)

    def count(self) -> int:
        return int(self.pool.query(self.sql.count, self.namespace + "%", self.clock()).fetchall()[0][0])

    def scan(self) -> Iterator[tuple[str, Record]]:
        return self._listed(self.sql.scan)

    def enter(self, key: str, record: Record, *, new: bool = False) -> None:
        """Store the session if it is new. The index of users is one of the table, and keeps itself."""
        if new:
            self.save(key, record)

    def leave(self, key: str, user: str) -> None:
        pass

    def live(self, user: str) -> dict[str, Record]:
        return dict(self._listed(self.sql.live, *2 * (_account(user),)))

    def _listed(self, statement: str, *whose: str) -> Iterator[tuple[str, Record]]:
        """Read a batch at a time, in the order of the keys, without a lock and without keeping a connection between."""
        key, more, now = self.namespace, True, self.clock()
        pattern = key + "%"  # a hash and a hyphen: there is no other wildcard
        while more:
            rows = self.pool.query(statement, pattern, now, key, *whose, _BATCH).fetchall()
            for *row, key in rows:
                with suppress(CorruptRecord):  # whoever holds it next quarantines it
                    yield key, _record(row)
            more = len(rows) == _BATCH

    def describe_location(self, key: str) -> str:
        return f"the row of table {self._table} at {self.pool.address} whose key is {key}"

    def describe_record(self, key: str, record: Record) -> str:
        return "\n".join(map("{}: {}".format, f"key, {COLUMNS}".split(", "), (key, *_values(record))))

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.pool.server,)

    def close(self) -> None:
        self.pool.close()


class PostgresqlSession(Session):
    """A session in a row of a table. Survives a restart; shared by all machines that reach the database."""

    __slots__ = ()
    store_class = PostgresqlStore


def _record(row: Sequence[Any]) -> Record:
    version, kind, created, deadline, timeout, account, remembered, data = row
    if version != FORMAT:
        raise CorruptRecord(f"row format {version} is unknown: a later release may have written it")
    if kind != SESSION and kind != TOMBSTONE:
        raise CorruptRecord(f"{kind!r:.40} is no kind of record")
    return Record(data, created, deadline, unquote_user(account) if account else "", remembered, timeout, kind)


def _values(record: Record) -> tuple[Any, ...]:
    data, created, deadline, user, remembered, timeout, kind = record
    return FORMAT, kind, created, deadline, timeout, _account(user) if user else "", remembered, data


def _account(user: str) -> str:
    """Return the name of an account as it is stored: text of PostgreSQL can hold neither NUL nor, in some databases,
    letters beyond ASCII. Plain names can be read in the table."""
    return quote(user, safe=" @+")
