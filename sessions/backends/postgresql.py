"""Sessions in PostgreSQL: they survive a restart, and processes on any number of machines share them.

A session is one row. The request that uses it holds it by a row lock of its own transaction, from the first access to
the end: BEGIN and SELECT ... FOR UPDATE go in one send, UPDATE and COMMIT in another. The lock dies with its
connection, so a crashed process blocks nobody. (A machine that loses its power does until the server has noticed: set
tcp_keepalives_idle there if the site runs on another machine.)

Behind PgBouncer: pool_mode = transaction (or session; statement cannot hold a lock), default_pool_size not below the
number of requests that use a session at the same time, idle_transaction_timeout 0 or longer than the slowest page.
Nothing else, for no state is left in a connection: nothing is prepared, SET is always SET LOCAL, and a search_path has
to come from the role or the name of the table.

Values are part of the statements. A server that logs statements logs what is in the sessions; the ids it never has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, Unavailable
from ..facts import Facts
from ..record import Record
from ..store import Hold, Store

if TYPE_CHECKING:
    from .pglink import Link, Links

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}(\.[A-Za-z_][A-Za-z0-9_]{0,49})?", re.ASCII)
_WRITE_TIMEOUT = 10.0  # seconds for which delete and replace wait for the holder of a session
_START_TIMEOUT = 10.0  # seconds for which a start waits for another process that is making the table

# A page is filled to 70 %, so that the next version of a row fits on it. Such an update is "heap-only" (HOT): it
# touches no index and is tidied up by the next reader, as long as no indexed column changes. So the deadline, which has
# an index for the cleaner, is moved seldom (rule 7), and the data has no index at all.
_TABLE = """\
CREATE TABLE IF NOT EXISTS {table} (
    key text COLLATE "C" PRIMARY KEY,    -- the application's prefix and the SHA-256 of the session id
    data text NOT NULL,                  -- JSON; empty for a session that has moved to another key
    created double precision NOT NULL,   -- epoch seconds
    deadline double precision NOT NULL   -- epoch seconds
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS {index} ON {table} (deadline);
"""
_RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
_USABLE = """SELECT key, data, created, deadline FROM {table} LIMIT 0;
SELECT bool_and(has_table_privilege('{table}', privilege)) FROM unnest(string_to_array(%s, ', ')) AS privilege"""

_LOAD = "SELECT data, created, deadline FROM {table} WHERE key = %s"
_ACQUIRE = _LOAD + " FOR UPDATE"
# An upsert, for a create is asked twice where the connection broke, and the first may have arrived.
_CREATE = """INSERT INTO {table} (data, created, deadline, key) VALUES (%s, %s, %s, %s)
ON CONFLICT (key) DO UPDATE SET data = excluded.data, created = excluded.created, deadline = excluded.deadline"""
_UPDATE = "UPDATE {table} SET data = %s, created = %s, deadline = %s WHERE key = %s AND data <> ''; COMMIT"
_DELETE = "DELETE FROM {table} WHERE key = %s; COMMIT"
_SET_ASIDE = "UPDATE {table} SET key = 'unreadable:' || key WHERE key = %s; COMMIT"
# The array is worked out once; a plain IN (SELECT ...) may be run again for each row, and then deletes too many.
_PURGE = """DELETE FROM {table} WHERE key = ANY(ARRAY(
SELECT key FROM {table} WHERE deadline <= %s ORDER BY deadline LIMIT %s FOR UPDATE SKIP LOCKED))"""
_COUNT = "SELECT count(*) FROM {table} WHERE key LIKE %s AND deadline > %s AND data <> ''"


def table_sql(table: str = "sessions") -> str:
    """The SQL that makes the table, for an administrator who does it by hand. Running it again changes nothing.

    Args:
        table: its name, with its schema before a dot if need be.

    Raises:
        ConfigError: it is no name for a table.
    """
    return _TABLE.replace("{table}", _quoted(table)).replace("{index}", f'"{table.split(".")[-1]}_deadline"')


def _quoted(table: Any) -> str:
    if not isinstance(table, str) or not _NAME.fullmatch(table):
        raise ConfigError(
            f"table is {table!r}: it must be letters, digits and _, not a digit first, at most 50, "
            "with a schema before a dot if need be"
        )
    return ".".join(f'"{part}"' for part in table.split("."))


class PostgresqlStore(Store):
    """Keeps each session in a row.

    Deleting or replacing a session that a request holds (both without holding it oneself) waits until that request has
    ended, 10 seconds at most: its row is locked.

    Args:
        dsn: the server, database and user, as a URL (postgresql://user@host:5432/database) or a string of libpq.
        table: name of the table, with its schema before a dot if need be. It is made if it is missing and the user may.

    Raises:
        ConfigError: no such name or string; the driver is missing; the table is missing and cannot be made, or is not
            one of ours.
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

    def __init__(self, *, dsn: str, table: str = "sessions") -> None:
        super().__init__()
        self._table = _quoted(table)
        self._name = table
        if not isinstance(dsn, str):
            raise ConfigError("dsn must be text, such as postgresql://user@localhost:5432/database")
        try:
            from .pglink import Links
        except ImportError as error:
            raise ConfigError(f"{error}: pip install 'psycopg[binary]' psycopg_pool") from error
        self._links: Links = Links(dsn)
        try:
            self._prepare()
        except Unavailable as error:
            raise Unavailable(f"{error} (`make services` starts a server for development)") from error

    def _prepare(self) -> None:
        """Look at the table, which needs no right but to use it, and make it if it is missing."""
        from psycopg import errors

        with self._links.alone() as link:
            try:
                try:
                    usable = self._is_usable(link)
                except errors.UndefinedTable:
                    self._make_table(link)
                    usable = self._is_usable(link)
            except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as error:
                raise self._wrong_table(str(error)) from error
            except errors.UndefinedColumn as error:
                raise self._wrong_table("it is there, and has other columns") from error
        if not usable:
            raise self._wrong_table(f"its user needs the rights {_RIGHTS}")

    def _is_usable(self, link: Link) -> bool:
        return link.ask(self._sql(_USABLE), _RIGHTS).set_result(1).fetchone() == (True,)

    def _make_table(self, link: Link) -> None:
        """IF NOT EXISTS is not enough where two processes start at once: both find nothing, and one fails."""
        link.ask_for_lock(
            f"SELECT pg_advisory_xact_lock(hashtext(%s)); {table_sql(self._name)} COMMIT",
            f"sessions table {self._name}", timeout=_START_TIMEOUT,
        )  # fmt: skip

    def _wrong_table(self, why: str) -> ConfigError:
        return ConfigError(
            f"table {self._name} in PostgreSQL at {self._links.address} cannot be used: {why.splitlines()[0]}; "
            f"its SQL: python -m sessions sql --table {self._name}"
        )

    def _sql(self, statement: str) -> str:
        return statement.replace("{table}", self._table)

    def _hold(self, key: str, timeout: float) -> Hold:
        def lock_and_load(link: Link) -> Record | None:
            return _record(link.ask_for_lock(self._sql(_ACQUIRE), key, timeout=timeout).fetchone())

        link, record = self._links.begin(lock_and_load)
        hold = PostgresqlHold(self, key, record, link)
        if record is None:
            hold._unlock()  # there is no row to lock
        return hold

    def load(self, key: str) -> Record | None:
        return self._links.ask(lambda link: _record(link.ask(self._sql(_LOAD), key).fetchone()))

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
        pattern = self.namespace + "%"  # hexadecimal digits and a hyphen: nothing that LIKE takes for a wildcard

        def number(link: Link) -> int:
            row = link.ask(self._sql(_COUNT), pattern, self.clock()).fetchone()
            return int(row[0]) if row else 0

        return self._links.ask(number)

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


def _record(row: tuple[Any, ...] | None) -> Record | None:
    return Record(row[0].encode(), row[1], row[2]) if row else None


def _values(record: Record) -> tuple[str, float, float]:
    return record.data.decode(), record.created, record.deadline
