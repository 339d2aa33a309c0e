"""Sessions in PostgreSQL: they survive a restart, and processes on any number of machines share them.

A session is one row. The request that uses it holds it by a row lock of its own transaction, from the first access to
the end: BEGIN and SELECT ... FOR UPDATE go in one send, UPDATE and COMMIT in another. The lock dies with its
connection, so a crashed process blocks nobody. (A machine that loses its power does until the server has noticed: set
tcp_keepalives_idle there if the site runs on another machine.)

Behind PgBouncer: pool_mode = transaction (or session; statement cannot hold a lock), default_pool_size not below the
number of requests that use a session at the same time, idle_transaction_timeout 0 or longer than the slowest page.
Nothing else, for no state is left in a connection: nothing is prepared, SET is always SET LOCAL, and a search_path has
to come from the role or the name of the table.

The sessions of a user are found by an index on the account that stands in each row. They, and those of everybody, are
read a hundred at a time, in the order of their keys, without a lock and without keeping a connection in between.

Values are part of the statements. A server that logs statements logs what is in the sessions; the ids it never has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from ..errors import ConfigError, Unavailable, Unreadable
from ..facts import Facts
from ..record import Record, reference
from ..store import Hold, Store, log, patience_of
from .pgtable import prepare, quoted

if TYPE_CHECKING:
    from .pglink import Link, Links

_WRITE_TIMEOUT = 10.0  # seconds for which delete and replace wait for the holder of a session
_BATCH = 100  # sessions that are listed at a time

_COLUMNS = "data, created, deadline, account, remembered"
_LOAD = "SELECT {columns} FROM {table} WHERE key = %s"
_ACQUIRE = _LOAD + " FOR UPDATE"
# An upsert, for a create is asked twice where the connection broke, and the first may have arrived.
_CREATE = """INSERT INTO {table} ({columns}, key) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (key) DO UPDATE
SET ({columns}) = (excluded.data, excluded.created, excluded.deadline, excluded.account, excluded.remembered)"""
_UPDATE = "UPDATE {table} SET ({columns}) = (%s, %s, %s, %s, %s) WHERE key = %s AND data <> ''; COMMIT"
_DELETE = "DELETE FROM {table} WHERE key = %s; COMMIT"
_SET_ASIDE = "UPDATE {table} SET key = 'unreadable:' || key WHERE key = %s; COMMIT"
# The array is worked out once; a plain IN (SELECT ...) may be run again for each row, and then deletes too many.
_PURGE = """DELETE FROM {table} WHERE key = ANY(ARRAY(
SELECT key FROM {table} WHERE deadline <= %s ORDER BY deadline LIMIT %s FOR UPDATE SKIP LOCKED))"""
_COUNT = "SELECT count(*) FROM {table} WHERE key LIKE %s AND deadline > %s AND data <> ''"
_LIVE = "SELECT {columns}, key FROM {table} WHERE key > %s AND key LIKE %s AND data <> '' ORDER BY key LIMIT %s"
_OF_USER = "account <> '' AND left(account, 500) = left(%s, 500) AND account = %s"  # as the index has it, and whole
_LIVE_OF = _LIVE.replace("ORDER", f"AND {_OF_USER} ORDER")


class PostgresqlStore(Store):
    """Keeps each session in a row.

    Deleting or replacing a session that a request holds (both without holding it oneself) waits until that request has
    ended, 10 seconds at most: its row is locked.

    Args:
        dsn: the server, database and user, as a URL (postgresql://user@host:5432/database) or a string of libpq.
        table: name of the table, with its schema before a dot if need be. It is made if it is missing and the user may,
            and brought up to date if an earlier version of this package made it and the user owns it.
        patience: seconds in which the server has to answer, at most 3; None for that. Where it may wait for a lock, one
            more.

    Raises:
        ConfigError: no such name or string; the driver is missing; the table is missing or out of date and the user
            may not change that; it is not one of ours.
        Unavailable: the server does not answer or refuses.
    """

    facts = Facts(
        survives_restart=True,
        shared=True,
        locks_processes=True,
        keeps="One row of a table for each session.",
        sharing="All processes, on any number of machines, that reach the database.",
        locking="A fair queue among the threads of a process; between processes a row lock, which the server drops "
        "with the connection that held it.",
        outage="503 while the server does not answer, after seconds at most; no session is lost.",
        needs="A PostgreSQL database, and the packages psycopg and psycopg_pool.",
        cannot="PostgresqlSession cannot end a session at once that another request holds: it waits for that request, "
        "10 seconds at most.",
    )

    def __init__(self, *, dsn: str, table: str = "sessions", patience: float | None = None) -> None:
        super().__init__()
        self._table = quoted(table)
        if not isinstance(dsn, str):
            raise ConfigError("dsn must be text, such as postgresql://user@localhost:5432/database")
        try:
            from .pglink import ANSWER, Links
        except ImportError as error:
            raise ConfigError(f"{error}: pip install 'psycopg[binary]' psycopg_pool") from error
        self._links: Links = Links(dsn, patience_of(patience, ANSWER))
        try:
            prepare(self._links, table)
        except Unavailable as error:
            raise Unavailable(f"{error} (`make services` starts a server for development)") from error

    def _sql(self, statement: str) -> str:
        return statement.replace("{table}", self._table).replace("{columns}", _COLUMNS)

    def _hold(self, key: str, timeout: float) -> Hold:
        sql = self._sql(_ACQUIRE)
        link, row = self._links.begin(lambda link: link.ask_for_lock(sql, key, timeout=timeout).fetchone())
        hold = PostgresqlHold(self, key, None, link)
        if row is None:
            hold._unlock()  # there is no row to lock
            return hold
        try:
            hold.record = _record(row)
        except Unreadable as error:
            log.warning("unreadable record of session %s set aside: %s", reference(key), error)
            hold._set_aside()
        return hold

    def load(self, key: str) -> Record | None:
        rows = self._rows(_LOAD, key)
        return _record(rows[0]) if rows else None

    def _rows(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        sql = self._sql(statement)
        return self._links.ask(lambda link: link.ask(sql, *params).fetchall())

    def create(self, key: str, record: Record) -> None:
        self._links.ask(lambda link: link.ask(self._sql(_CREATE), *_values(record), key))

    def replace(self, key: str, record: Record) -> bool:
        def update(link: Link) -> bool:
            sql = self._sql(_UPDATE)
            return link.ask_for_lock(sql, *_values(record), key, timeout=_WRITE_TIMEOUT).rowcount == 1

        return self._links.ask_for_lock(update, again=False)  # the first may have arrived

    def delete(self, key: str) -> None:
        sql = self._sql(_DELETE)
        self._links.ask_for_lock(lambda link: link.ask_for_lock(sql, key, timeout=_WRITE_TIMEOUT), again=True)

    def purge(self, limit: int) -> int:
        return self._links.ask(lambda link: link.ask(self._sql(_PURGE), self.clock(), limit).rowcount)

    def count(self) -> int:
        return int(self._rows(_COUNT, self._pattern, self.clock())[0][0])

    def live(self, user: str | None) -> Iterator[tuple[str, Record]]:
        sql, whose = (_LIVE, ()) if user is None else (_LIVE_OF, 2 * (_account(user),))
        key, more = self.namespace, True
        while more:
            rows = self._rows(sql, key, self._pattern, *whose, _BATCH)
            for *columns, key in rows:
                try:
                    record = _record(columns)
                except Unreadable:
                    continue  # whoever holds it next sets it aside
                yield key, record
            more = len(rows) == _BATCH

    def place(self, key: str) -> str:
        return f"the row of table {self._table} at {self._links.address} whose key is {key}"

    def as_stored(self, key: str, record: Record) -> str:
        return "\n".join(map("{}: {}".format, ["key", *_COLUMNS.split(", ")], [key, *_values(record)]))

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self._links.server,)

    @property
    def _pattern(self) -> str:
        """What the keys of this application are LIKE: hexadecimal digits and a hyphen, no wildcard but the last."""
        return self.namespace + "%"

    def close(self) -> None:
        self._links.close()


class PostgresqlHold(Hold):
    """Holds a session by the row lock of a transaction, which lives as long as its connection."""

    __slots__ = ("_link", "_postgresql")

    def __init__(self, store: PostgresqlStore, key: str, record: Record | None, link: Link) -> None:
        super().__init__(store, key, record)
        self._postgresql = store
        self._link: Link | None = link

    def _commit(self, record: Record) -> bool:
        return self._end(_UPDATE, *_values(record), self._key)

    def _delete(self) -> None:
        self._end(_DELETE, self._key)

    def _set_aside(self) -> None:
        self._end(_SET_ASIDE, self._key)

    def _unlock(self) -> None:
        self._end("")

    def _end(self, statement: str, *params: Any) -> bool:
        link, self._link = self._link, None
        if link is None:  # there was no row, or the last statement has been sent
            return False
        store = self._postgresql
        return store._links.end(link, store._sql(statement), *params) == 1


def _record(row: Sequence[Any]) -> Record:
    data, created, deadline, account, remembered = row
    try:
        return Record(data.encode(), created, deadline, unquote(account, errors="strict"), remembered)
    except UnicodeDecodeError as error:
        raise Unreadable("its account is not percent-quoted UTF-8") from error


def _values(record: Record) -> tuple[str, float, float, str, bool]:
    return record.data.decode(), record.created, record.deadline, _account(record.user), record.remembered


def _account(user: str) -> str:
    """The name of an account as it is stored: text of PostgreSQL can hold neither NUL nor, in some databases, letters
    beyond ASCII."""
    return quote(user, safe=" @+")
