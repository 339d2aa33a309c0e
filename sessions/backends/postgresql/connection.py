"""How the server is talked to: waits that are bounded, a bounded number of connections, errors told apart.

This is the one module that imports the driver, so a site without PostgreSQL needs none. psycopg waits for an answer as
long as it takes, TCP does not notice a server that hangs (its kernel goes on acknowledging), and `statement_timeout` is
kept by the very server that hangs. So `Connection` gives up by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any

import psycopg
from psycopg import conninfo, errors, pq
from psycopg_pool import ConnectionPool

from ...errors import ConfigError, LockTimeout, NoRoom, Unavailable
from ...events import publish, watchers
from ..outage import Outage
from .table import RIGHTS, Statements, table_sql

Cursor = psycopg.Cursor[tuple[Any, ...]]

SERVER_TIMEOUT = 3.0  # seconds in which the server answers, and in which a connection is free
CONNECT_TIMEOUT = 3  # seconds for a new connection
START_TIMEOUT = 10.0  # seconds for which a start waits for another one that is making the table
LOCK_STEP = 1.0  # seconds for which a lock is waited for in one piece
MAX_CONNECTIONS = 16  # of one store
MAX_HOLDS = 12  # of these, how many may wait for a lock or hold a session; see Pool

# What a transaction needs it says itself, in the send that begins it: a role, a database and the server may have other
# defaults, and a setting of the connection would be lost behind PgBouncer, or everybody's.
_NEEDS = (
    " ISOLATION LEVEL READ COMMITTED{}; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; "
    "SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL extra_float_digits = 1; "
)
# Finds out whether such a default made a transaction read-only. One in the server's configuration is not overridden: so
# a server is demoted, or stopped from writing while its disk is full.
_OWN_DEFAULT = """SELECT FROM pg_settings WHERE name = 'default_transaction_read_only' AND setting = 'on'
AND source IN ('global', 'database', 'user', 'database user', 'client', 'session')"""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait has a bound."""

    server_timeout = SERVER_TIMEOUT  # of its store
    timeout = SERVER_TIMEOUT  # of the answer under way
    hung = False  # whether one did not come
    access = ""  # of its transactions: READ WRITE where a default of the role is another

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, but not for ever. A connection whose answer has not come is closed: what the server
        sends later would be taken for the answer to the next statement."""
        try:
            return super().wait(gen, interval, self.timeout if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                self.hung = True
                self.close()
            raise

    def query(self, sql: str, params: Sequence[Any] = (), lock_timeout: float = 0) -> Cursor:
        """Send one or several statements at once, wait once, and return a cursor at the result of the first. They may
        take `lock_timeout` seconds more than the usual."""
        self.timeout = self.server_timeout + lock_timeout
        cursor = self.execute(sql, params)
        if watchers:
            publish("trip", to="PostgreSQL", what=sql)
        return cursor

    def transact(self, begin: str, sql: str, params: Sequence[Any] = (), lock_timeout: float = 0) -> Cursor:
        """Begin a transaction with BEGIN, or one of this send alone with SET TRANSACTION, and return a cursor at the
        last result. If the server is read-only the connection is closed: the next one may lead to its successor.

        The server ends a statement a little before it would be taken for hanging.
        """
        times = round(lock_timeout * 1000), round((0.8 * self.server_timeout + lock_timeout) * 1000)
        needs = _NEEDS.format(self.access, *times)
        if self.pgconn.server_version >= 170000:
            needs += "SET LOCAL transaction_timeout = 0; "
        try:
            return self.query(begin + needs + sql, params, lock_timeout).set_result(-1)
        except (errors.ReadOnlySqlTransaction, errors.FeatureNotSupported):  # the second: READ WRITE on a standby
            self.rollback()
            if self.access or not self.transact("SET TRANSACTION", _OWN_DEFAULT).rowcount:
                self.close()
                raise
        self.access = ", READ WRITE"
        return self.transact(begin, sql, params, lock_timeout)

    def query_locking(self, sql: str, params: Sequence[Any], timeout: float) -> Cursor:
        """Begin a transaction with statements of which one takes a lock; return a cursor at the last result.

        A wait for a lock and a server that hangs look the same, so the lock is waited for in steps: a hanging server is
        noticed after one step and `server_timeout`, however long `timeout` is.
        """
        end = monotonic() + timeout
        while True:
            step = max(min(end - monotonic(), LOCK_STEP), 0.001)  # 0 would mean: without a bound
            try:
                return self.transact("BEGIN", sql, params, step)
            except (errors.LockNotAvailable, errors.QueryCanceled):  # the second: it waited for several in a row
                self.query("ROLLBACK")
                if monotonic() >= end:
                    raise LockTimeout(f"the session was locked by another process for {timeout:.3g} seconds") from None


class Pool:
    """Connections to one server, opened when they are needed: a site without visitors has none.

    A request that holds a session keeps its connection while the page runs, and may want a second one, to store the
    session under its next id. If holders could take every connection, each would wait for the second one until all of
    them fail. So some are kept for what is done in a moment.
    """

    def __init__(self, dsn: str, server_timeout: float) -> None:
        try:
            given = conninfo.conninfo_to_dict(dsn)
        except (psycopg.ProgrammingError, AttributeError):  # it is no text, or the error's text may quote the password
            raise ConfigError("dsn must be text such as postgresql://user@localhost:5432/database") from None
        parts = {option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()} | given
        self.server = f"{parts.get('host') or parts.get('hostaddr') or '(local socket)'}:{parts.get('port') or 5432}"
        self.address = f"{self.server}/{parts.get('dbname') or parts.get('user')}"  # for logs: without a password
        options: dict[str, Any] = {
            "autocommit": True,  # a transaction begins where a statement says BEGIN
            "cursor_factory": psycopg.ClientCursor,  # several statements in one send; nothing is prepared
            "prepare_threshold": None,
            "client_encoding": "UTF8",
            "connect_timeout": given.get("connect_timeout") or CONNECT_TIMEOUT,
            "application_name": given.get("application_name") or "sessions",
        }
        self._connect = partial(Connection.connect, dsn, **options)
        self._server_timeout = server_timeout
        self._holds = threading.BoundedSemaphore(MAX_HOLDS)
        self._outage = Outage(f"PostgreSQL at {self.address}", psycopg.Error)
        self._pool = ConnectionPool(
            dsn, connection_class=Connection, kwargs=options, open=False, name="sessions",
            min_size=0, max_size=MAX_CONNECTIONS, timeout=server_timeout,
            reconnect_timeout=1,  # then it is tried again whenever somebody asks
        )  # fmt: skip

    @contextmanager
    def dedicated(self) -> Iterator[Connection]:
        """Open a connection outside of the pool, for the start of the site: the pool has threads, which a server that
        forks its workers after the start would leave behind."""
        try:
            with self._connect() as connection:
                yield connection
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def prepare(self, table: str, *params: Any) -> None:
        """Check that the table can be used by using it, with the parameters of `Statements.check`; make it if it is
        missing."""
        why, check = "", Statements(table).check
        with self.dedicated() as connection:
            try:
                try:
                    connection.transact("SET TRANSACTION", check, params)
                except errors.UndefinedTable:
                    # IF NOT EXISTS is not enough where two processes start at once: both find nothing, and one fails.
                    sql = table_sql(table).replace("BEGIN", "SELECT pg_advisory_xact_lock(hashtext(%s))", 1)
                    connection.query_locking(sql, [f"sessions table {table}"], START_TIMEOUT)
                connection.transact("BEGIN", check, params)  # open at its end: some poolers allow none
            except errors.UndefinedColumn:
                why = "it has other columns, those of an earlier version or of something else: rename it, or drop it"
            except (psycopg.ProgrammingError, psycopg.IntegrityError) as error:
                why = str(error).splitlines()[0]
            except LockTimeout:
                why = f"another process was making it for {START_TIMEOUT:g} s"
        if why:
            why += f"; its user needs the rights {RIGHTS}; its SQL: python -m sessions sql --table {table}"
            raise ConfigError(f"table {table} in PostgreSQL at {self.address} cannot be used: {why}")

    def query(self, sql: str, *params: Any) -> Cursor:
        """Run a statement that waits for no lock; again if its connection had been closed."""
        connection, cursor = self._run(Connection.transact, "SET TRANSACTION", sql, params)
        self.put_back(connection)
        return cursor

    def begin(self, sql: str, *params: Any, timeout: float) -> tuple[Connection, Cursor]:
        """Begin a transaction with a statement that takes a lock. Its connection is to be `put_back`, `held`."""
        if not self._holds.acquire(timeout=self._server_timeout):
            raise Unavailable(f"all {MAX_HOLDS} connections to {self.address} that may hold sessions are in use")
        try:
            return self._run(Connection.query_locking, sql, params, timeout)
        except BaseException:
            self._holds.release()
            raise

    def end(self, connection: Connection, sql: str, *params: Any) -> int:
        """Send the last statement of a transaction, commit, and return how many rows it changed. It is never sent
        twice, for the first may have arrived."""
        try:
            return connection.query(f"{sql}; COMMIT", params).rowcount
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def put_back(self, connection: Connection, held: bool = False) -> None:
        """Give a connection back, and roll its transaction back if that has not ended."""
        if held:
            self._holds.release()
        if connection.pgconn.transaction_status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR):
            with suppress(psycopg.Error):  # then it is closed, and the server releases the lock as well
                connection.query("ROLLBACK")
        self._outage.is_down |= connection.hung
        self._pool.putconn(connection)

    def close(self) -> None:
        """Close every connection; one that is in use, as soon as it is given back."""
        self._pool.close()

    def _run(self, method: Callable[..., Cursor], *args: Any, tries: int = 3) -> tuple[Connection, Cursor]:
        """Call a method of a connection from the pool; of another if the server had closed it long ago."""
        connection = self._take()
        try:
            return connection, method(connection, *args)
        except BaseException as error:
            self.put_back(connection)
            if not isinstance(error, psycopg.Error):
                raise
            if connection.hung or not (tries > 1 and connection.closed):
                raise self._unavailable(error) from error
        # After a restart of the server the others are closed, too, and so may one be that the pool is just opening.
        self._pool.drain()
        return self._run(method, *args, tries=tries - 1)

    def _take(self) -> Connection:
        """Return a connection that is free."""
        try:
            return self._outage.ask(self._free)
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def _free(self) -> Connection:
        if self._pool.closed:
            self._pool.open()
        connection = self._pool.getconn()
        connection.server_timeout = self._server_timeout
        if self._outage.is_down:
            try:
                connection.query("SELECT 1")
            except psycopg.Error:  # on a connection that is merely closed, the statement to come fails, too
                if connection.hung:
                    self._pool.putconn(connection)
                    raise
        return connection

    def _unavailable(self, error: psycopg.Error) -> Unavailable:
        """Return what the server or the driver says as an error of the store: "unavailable", never "missing"."""
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        kind = NoRoom if isinstance(error, errors.DiskFull) else Unavailable
        return kind(f"PostgreSQL at {self.address}: {cause}")
