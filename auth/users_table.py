"""What has changed of the accounts since they were configured: a table in SQLite that the processes of a site share."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import sessions

_TIMEOUT = 5.0  # seconds to wait for another process, or thread

_TABLE = """CREATE TABLE accounts (
    name TEXT PRIMARY KEY,
    seed TEXT NOT NULL DEFAULT '',
    hash TEXT NOT NULL DEFAULT '',
    valid_since REAL NOT NULL DEFAULT 0
) WITHOUT ROWID"""


class AccountsUnavailable(sessions.Unavailable):
    """The changes cannot be read or written just now."""

    public = "The accounts do not answer. Please try again in a moment."


class UserRow(NamedTuple):
    """What the table has of an account.

    Attributes:
        seed: digest of the configured hash that `hash` took the place of; empty if the password has not changed.
        hash: of the password in force.
        valid_since: epoch seconds of the last revocation; 0.0 for none.
    """

    seed: str = ""
    hash: str = ""
    valid_since: float = 0.0


class UsersTable:
    """The table, at `path`. The first write makes it, for its owner alone; a site that only reads needs no such place.

    Every request of somebody signed in reads once. All threads share one open connection for that: it takes 11 us, and
    73 us when one is opened each time. A write has a connection of its own, and waits for the disk.
    """

    _reader: sqlite3.Connection | None = None

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = Path(path), clock
        self._turn = threading.Lock()
        self._file: tuple[int, int] | None = None  # which one the reader has open: device and inode

    def row(self, name: str) -> UserRow:
        """Return what has changed of an account; nothing, where nothing was ever written.

        Raises:
            AccountsUnavailable: it cannot be read, or is gone although it was there before.
        """
        if not self._turn.acquire(timeout=_TIMEOUT):
            raise AccountsUnavailable(f"other threads wait for {self._path}")
        try:
            with self._errors("read"):
                reader = self._opened()
                query = "SELECT seed, hash, valid_since FROM accounts WHERE name = ?"
                rows = reader.execute(query, (name,)).fetchall() if reader else []
            return UserRow(*rows[0]) if rows else UserRow()
        finally:
            self._turn.release()

    def exists(self) -> bool:
        """Tell whether anything was ever written, as far as the disk knows."""
        return os.path.exists(self._path)  # not Path.exists(): a folder that is closed to us is no reason not to start

    def write(self, statement: str, values: Mapping[str, object]) -> bool:
        """Run one statement, in which now() is the time, and return when it is on the disk: whether it changed a row.

        Nobody reads from before now() is asked until the row is written. With the time taken before, whoever read the
        old row in between would have read it at a later time than the one that is written.

        Raises:
            AccountsUnavailable: nothing was written.
        """
        with self._errors("written"):
            if self._file is None:
                self._make()
            with closing(self._connect(self._path)) as writer:
                writer.create_function("now", 0, self._clock)
                writer.execute("BEGIN EXCLUSIVE")
                changed = writer.execute(statement, values).rowcount
                writer.execute("COMMIT")
                return changed > 0

    def __del__(self) -> None:
        self._close()

    def _opened(self) -> sqlite3.Connection | None:
        """The reader, on the file that has the name now; a backup may have been put in its place."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            if self._file is None:
                return None
            raise  # revoked sessions would come to life again
        file = (status.st_dev, status.st_ino)
        if self._reader is None or file != self._file:
            self._close()
            self._reader, self._file = self._connect(self._path), file
        return self._reader

    def _close(self) -> None:
        if self._reader:
            self._reader.close()
        self._reader = None

    def _make(self) -> None:
        """Make the table, complete as soon as it has its name. Of two processes at once, the first one's stays."""
        if self._path.exists():
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with closing(self._connect(new)) as database:
                database.execute(_TABLE)
            with contextlib.suppress(FileExistsError):
                os.link(new, self._path)
        finally:
            new.unlink(missing_ok=True)

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        # mode=rw: a file that is gone is an error, not a new one. Where it may not be written, SQLite opens it to read.
        uri = f"{path.resolve().as_uri()}?mode=rw"
        return sqlite3.connect(uri, uri=True, timeout=_TIMEOUT, isolation_level=None, check_same_thread=False)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise AccountsUnavailable(f"{self._path} cannot be {what}: {error}") from error
