"""How `postgresql.py` talks to its server: bounded waits, a bounded pool, errors told apart.

This is the one file that imports the driver, so a site without PostgreSQL needs none.

psycopg waits for an answer as long as it takes: a server that hangs would keep the threads of the site until the last
one is gone. TCP does not notice (the kernel of a hanging server goes on acknowledging), and `statement_timeout` is kept
by the very server that hangs. So `Link` gives up by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, errors, pq
from psycopg_pool import ConnectionPool, PoolTimeout

from ..errors import ConfigError, LockTimeout, Unavailable
from ..events import publish, watchers

T = TypeVar("T")
Row = tuple[Any, ...]

ANSWER = 3.0  # seconds in which the server answers
CONNECT = 3  # seconds for a new connection
FREE = 3.0  # seconds to wait for a connection that is free
LOCK_STEP = 1.0  # seconds for which a lock is waited for in one piece
MOST = 16  # connections of one store at most
HOLDS = 12  # of these, how many may wait for a lock or hold a session; see Links


class Link(psycopg.Connection[Row]):
    """A connection that waits for its server in bounded time.

    Attributes:
        answer: seconds in which the server has to answer; those of the store.
        patience: seconds until the answer under way has to be there.
        hung: whether one was not.
    """

    answer = ANSWER
    patience = ANSWER
    hung = False

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, but not for ever. A connection whose answer has not come is closed: what the server
        sends later would be taken for the answer to the next question.

        Raises:
            psycopg.OperationalError: the server did not answer.
        """
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                self.hung = True
                self.close()
            raise

    def ask(self, sql: str, *params: Any, extra: float = 0) -> psycopg.Cursor[Row]:
        """Send one or several statements at once, wait once; the cursor is at the first one's result.

        Args:
            extra: seconds that the statements may take beyond the usual.
        """
        self.patience = self.answer + extra
        answer = self.execute(sql, params)
        if watchers:
            publish("trip", to="PostgreSQL", what=sql)
        return answer

    def ask_for_lock(self, sql: str, *params: Any, timeout: float, extra: float = 0) -> psycopg.Cursor[Row]:
        """Begin a transaction and send statements of which one waits for a lock that somebody else may hold.

        A wait for a lock and a server that hangs look the same from here. So it is waited for in steps: a hanging
        server is noticed after one of them, `answer` and `extra`, however long `timeout` is. The cursor is at the
        result of the first of `sql`'s statements.

        Raises:
            psycopg.errors.LockNotAvailable: it was held for `timeout` seconds.
        """
        left = max(timeout, 0.001)  # 0 would mean: without a bound
        while True:
            step = min(left, LOCK_STEP)
            left -= step
            begin = f"BEGIN; SET LOCAL lock_timeout = {max(1, round(step * 1000))}; "
            try:
                return self.ask(begin + sql, *params, extra=step + extra).set_result(2)
            except errors.LockNotAvailable:
                self.ask("ROLLBACK")
                if left <= 0:
                    raise


class Links:
    """A bounded number of connections to one server, opened when they are needed. Their pool logs as psycopg.pool.

    A request that holds a session keeps its connection while the page runs, and may want a second one, to store the
    session under its next id. If holders could take every connection, each would wait for the second one until all of
    them fail. So some are kept for what is done in a moment.

    Args:
        dsn: a connection string or URL of libpq.
        patience: seconds in which the server has to answer.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, dsn: str, patience: float = ANSWER) -> None:
        try:
            given = conninfo.conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:  # its text may quote the password
            raise ConfigError(
                "dsn is no connection string of PostgreSQL, such as postgresql://user@localhost:5432/database"
            ) from None
        defaults = {option.keyword.decode(): option.val for option in pq.Conninfo.get_defaults()}
        options = {name: (value or b"").decode() for name, value in defaults.items()} | given
        self.server, self.address = _address(options)
        self._dsn = dsn
        self._options: dict[str, Any] = {
            "autocommit": True,  # a transaction begins where a statement says BEGIN
            "cursor_factory": psycopg.ClientCursor,  # several statements in one send; nothing is prepared
            "prepare_threshold": None,
            "client_encoding": "UTF8",
            "connect_timeout": given.get("connect_timeout") or CONNECT,
            "application_name": given.get("application_name") or "sessions",
        }
        self._holds = threading.BoundedSemaphore(HOLDS)
        self._away = False  # it did not answer when it was last asked
        self._scout = threading.Lock()
        link: type[Link] = type("Link", (Link,), {"answer": patience})
        self._pool = ConnectionPool(
            dsn, connection_class=link, kwargs=self._options, open=False, min_size=1, max_size=MOST,
            timeout=min(FREE, patience), name="sessions",
            reconnect_timeout=1,  # then it is tried again whenever somebody asks
        )  # fmt: skip

    @contextmanager
    def alone(self) -> Iterator[Link]:
        """A connection of its own, for the start of the site.

        The pool has threads, which a server that forks its workers after the start would leave behind.
        """
        with self._errors(), Link.connect(self._dsn, **self._options) as link:
            yield link

    def ask(self, question: Callable[[Link], T]) -> T:
        """Let `question`, which waits for no lock, use a connection; twice if the first one had been closed.

        Raises:
            Unavailable: the server does not answer.
        """
        with self._errors():
            link, answer = self._first(question, True)
            self._put_back(link)
            return answer

    def ask_for_lock(self, question: Callable[[Link], T], *, again: bool) -> T:
        """Let `question`, which may wait for a lock, use a connection.

        Args:
            again: whether it may be asked twice.

        Raises:
            LockTimeout: it was not free in time.
            Unavailable: the server does not answer.
        """
        link, answer = self.begin(question, again=again)
        self.end(link)
        return answer

    def begin(self, question: Callable[[Link], T], *, again: bool = True) -> tuple[Link, T]:
        """Let `question` use a connection on which a session may be held, and keep it for `end`."""
        if not self._holds.acquire(timeout=FREE):
            raise Unavailable(f"all {HOLDS} connections to {self.address} that may hold sessions are in use")
        try:
            with self._errors():
                return self._first(question, again)
        except BaseException:
            self._holds.release()
            raise

    def end(self, link: Link, sql: str = "", *params: Any) -> int:
        """Send the last statements on the connection that `begin` gave, and give it back, whatever happens; how many
        rows the first of them changed. Without any, what is under way is rolled back. Never sent twice: the first may
        have arrived."""
        try:
            with self._errors():
                return link.ask(sql, *params).rowcount if sql else 0
        finally:
            self._put_back(link)
            self._holds.release()

    def close(self) -> None:
        """Close every connection; one that is in use, as soon as it is given back."""
        self._pool.close()

    def _first(self, question: Callable[[Link], T], again: bool) -> tuple[Link, T]:
        """Ask on a connection from the pool, where it may have been closed by the server long ago."""
        link = self._free()
        try:
            return link, question(link)
        except BaseException as error:
            stale = isinstance(error, psycopg.OperationalError) and link.closed and not link.hung
            self._put_back(link)
            if not (stale and again):
                raise
        self._pool.drain()  # after a restart of the server the others are closed, too
        return self._first(question, False)

    def _free(self) -> Link:
        """A connection that is free. While the server is away, one thread at a time finds out whether it is back. The
        others are refused at once: they would soon be all the threads of the site."""
        if self._pool.closed:
            self._pool.open()
        if not self._away:
            try:
                return self._pool.getconn()
            except PoolTimeout:
                self._away = True
                raise
        if not self._scout.acquire(blocking=False):
            raise psycopg.OperationalError("it did not answer, and another request is looking whether it is back")
        try:
            link = self._pool.getconn()
            with suppress(psycopg.Error):  # whoever asks on a connection that is closed will see it, too
                link.ask("SELECT 1")
            self._away = link.hung
            return link
        finally:
            self._scout.release()

    def _put_back(self, link: Link) -> None:
        self._away = self._away or link.hung
        if link.pgconn.transaction_status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR):
            with suppress(psycopg.Error):  # then it is closed, and the server lets go as well
                link.ask("ROLLBACK")
        self._pool.putconn(link)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever the server or the driver says, except that a lock is held, is "unavailable": never "missing"."""
        try:
            yield
        except errors.LockNotAvailable as error:
            raise LockTimeout("the session was locked by another process for too long") from error
        except psycopg.Error as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Unavailable(f"PostgreSQL at {self.address}: {cause}") from error


def _address(options: dict[str, Any]) -> tuple[str, str]:
    """Where the server is, and with its database, for logs: never with a password."""
    host, port = options.get("host") or options.get("hostaddr") or "(local socket)", options.get("port") or "5432"
    return f"{host}:{port}", f"{host}:{port}/{options.get('dbname') or options.get('user')}"
