"""The contract of a backend: what a `Store` keeps, and how a `Hold` keeps everybody else away from it.

A store knows nothing of cookies, requests or CherryPy. It keeps a `Record` under a key. A backend of your own is a
subclass of `Store` with five methods (load, create, replace, delete, purge); locks between the threads of one process
come with the base class. One that several processes share overrides `_hold` as well. `sessions.testing` has the tests
it must pass.

Lock and load are one step (`acquire`), and so are save and unlock (`Hold.commit`): that is what keeps a request at two
round trips to a server.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

from .errors import CannotCount, CannotList, ConfigError, Unreadable
from .facts import Facts
from .locks import FairLocks
from .record import Record, reference

log = logging.getLogger("sessions")

_ID = re.compile(r"[A-Za-z0-9_-]{20,200}")


def patience_of(given: float | None, most: float) -> float:
    """The option `patience` of a store with a server, in seconds; None is `most`. The facts of the backend promise a
    503 in time, so it may be less and never more.

    Raises:
        ConfigError: it is no number above 0, or more than `most`.
    """
    if given is None:
        return most
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given <= most:
        raise ConfigError(f"patience is {given!r}: it must be a number of seconds above 0, at most {most:g}, or None")
    return float(given)


class Hold:
    """A session that nobody else, in any process that shares the store, reads or writes until it is let go.

    Attributes:
        record: what was stored when the hold began, or None for a key the store does not know.
    """

    __slots__ = ("_key", "_store", "record")

    def __init__(self, store: Store, key: str, record: Record | None) -> None:
        self._store: Store | None = store
        self._key = key
        self.record = record

    def commit(self, record: Record) -> bool:
        """Save `record` and let go. False if the session was deleted or moved meanwhile: then nothing is stored.

        Raises:
            StoreError: nothing was saved; the hold is gone all the same.
        """
        try:
            return self.record is not None and bool(self.record.data) and self._commit(record)
        finally:
            self.release()

    def delete(self) -> None:
        """Destroy the stored record and let go. Nobody can read it again."""
        try:
            self._delete()
        finally:
            self.release()

    def set_aside(self, reason: Exception) -> None:
        """Take an unreadable record out of the way, say so once in the log, and let go."""
        log.warning("unreadable record of session %s set aside: %s", reference(self._key), reason)
        try:
            self._set_aside()
        finally:
            self.release()

    def release(self) -> None:
        """Let go without saving. Doing it again does nothing."""
        store, self._store = self._store, None
        if store is not None:
            try:
                self._unlock()
            finally:
                store.locks.release(self._key)

    # What a backend with locks of its own overrides:

    def _commit(self, record: Record) -> bool:
        assert self._store is not None, "the hold was released"  # noqa: S101 -- a programming error, not input
        return self._store.replace(self._key, record)

    def _delete(self) -> None:
        assert self._store is not None, "the hold was released"  # noqa: S101 -- a programming error, not input
        self._store.delete(self._key)

    def _set_aside(self) -> None:
        assert self._store is not None, "the hold was released"  # noqa: S101 -- a programming error, not input
        self._store.set_aside(self._key)

    def _unlock(self) -> None:
        pass


class Store(ABC):
    """Where the sessions of one application are kept. Its options are the keyword parameters of its `__init__`.

    Every method may raise `Unavailable` (the store did not answer) and none may block without a bound.
    """

    facts: Facts
    """What the backend can do and cannot; each sets its own."""

    finds_early: ClassVar[bool] = False
    """Whether `find` has to be called when a request comes in, and not only when it uses its session."""

    def __init__(self) -> None:
        if not hasattr(self, "facts"):
            raise TypeError(f"{type(self).__name__} must declare its facts: see sessions.Facts")
        self.locks = FairLocks()
        self.clock: Callable[[], float] = time.time
        self.namespace = ""  # of the application: what its keys begin with
        self.cookie_name = "session_id"

    def acquire(self, key: str, timeout: float) -> Hold:
        """Lock the session and load it, in one step.

        Args:
            timeout: seconds to wait at most, in the process and outside of it together.

        Raises:
            LockTimeout: somebody else held it for too long.
            Unavailable: the store did not answer.
        """
        end = time.monotonic() + timeout
        self.locks.acquire(key, timeout)
        try:
            return self._hold(key, end - time.monotonic())
        except BaseException:
            self.locks.release(key)
            raise

    def _hold(self, key: str, timeout: float) -> Hold:
        """Make the hold, for the one thread of this process that has the lock of `key`."""
        try:
            return Hold(self, key, self.load(key))
        except Unreadable as error:
            log.warning("unreadable record of session %s set aside: %s", reference(key), error)
            self.set_aside(key)
            return Hold(self, key, None)

    @abstractmethod
    def load(self, key: str) -> Record | None:
        """The record of `key` without a lock, or None. It may have expired: the session decides.

        Raises:
            Unreadable: what is stored is no record; `acquire` takes it out of the way.
        """

    @abstractmethod
    def create(self, key: str, record: Record) -> None:
        """Store the record of a new session. Keys are not guessable, so nobody else can be using this one."""

    @abstractmethod
    def replace(self, key: str, record: Record) -> bool:
        """Store `record` in place of the one that is there. False, and nothing stored, if there is none or one without
        data: a session that was deleted or has moved meanwhile must not come back."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Destroy the record of `key`, held or not. A key that is not there is no error."""

    def set_aside(self, key: str) -> None:
        """Take an unreadable record out of the way. Whoever has a place for it keeps a copy there."""
        self.delete(key)

    @abstractmethod
    def purge(self, limit: int) -> int:
        """Remove up to `limit` records whose deadline has passed, and what they left behind; how many it were.

        It never waits for a held session and goes on past a record it cannot read.
        """

    def count(self) -> int:
        """How many live sessions the application has.

        Raises:
            NotImplementedError: the backend cannot count.
        """
        raise CannotCount(f"{type(self).__name__} cannot count its sessions")

    def live(self, user: str | None) -> Iterator[tuple[str, Record]]:
        """The key and the record of each session of a user, or with None of everybody, within this application.

        Whose a session is stands in its record from `create` on, for a user gets a new key at each sign-in. A backend
        finds the sessions of one user by an index, never by looking at all. It may give expired ones, and passes over
        what it cannot read.

        Raises:
            CannotList: the backend cannot do this.
        """
        raise CannotList(f"{type(self).__name__} cannot list sessions. {self.facts.cannot}".strip())

    def ping(self) -> None:
        """Do nothing if the store answers.

        Raises:
            Unavailable: it does not.
        """
        self.load(self.new_key())

    def checkpoint(self) -> None:  # noqa: B027 -- most stores have nothing to do here
        """Called every few minutes by the cleaner, after it has cleaned."""

    def close(self) -> None:  # noqa: B027 -- nor here
        """Let go of connections and files. The store is not used again."""

    # ---------------------------------------------------------------- keys and cookies

    def is_well_formed(self, cookie: str) -> bool:
        """Whether a cookie's value could be one of ours. Any other is unknown without asking the store (rule 2)."""
        return _ID.fullmatch(cookie) is not None

    def key_of(self, id: str) -> str:
        """The key of a session id. The store never sees the id: what is read there cannot be used (rule 3)."""
        return self.namespace + hashlib.sha256(id.encode()).hexdigest()

    def user_key(self, user: str) -> str:
        """What an index of this application may know a user by: the name itself may hold anything."""
        return self.namespace + hashlib.sha256(user.encode()).hexdigest()

    def find(self, cookie: str) -> tuple[str, str] | None:
        """The id and the key that a cookie's value stands for, or None if it cannot be one of ours."""
        return (cookie, self.key_of(cookie)) if self.is_well_formed(cookie) else None

    def cookie_value(self, id: str, key: str) -> str:
        """What the browser is given to find the session by: the id, unless the cookie is the store."""
        return id

    def place(self, key: str) -> str:
        """Where the record of `key` is, in words by which a person can find it: a path, a row, an item of a server."""
        return f"{key} in a {type(self).__name__}"

    def as_stored(self, key: str, record: Record) -> str:
        """What a person finds there, as text."""
        return record.pack(key).decode()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers that it talks to, each as host:port; empty for a store without any."""
        return ()

    def leave(self, key: str) -> None:  # noqa: B027 -- nor here
        """The request that used `key` is over."""

    def new_key(self) -> str:
        """A key that no session has."""
        return self.key_of(secrets.token_urlsafe(32))
