"""The contract of a backend: what a `Store` keeps, and how a `Hold` keeps everybody else away from it.

A store knows nothing of cookies, requests or CherryPy. It keeps a `Record` under a key. A backend of your own is a
subclass of `Store` with four methods (load, save, remove, purge); locks between the threads of one process, the rule
that a deleted session stays deleted, quarantine, and the index of a user's sessions come with the base class. One that
several processes share overrides `_hold` as well, and returns a subclass of `Hold` that unlocks. `sessions.testing` has
the tests it must pass.

Lock and load are one step (`acquire`), and so are save and unlock (`Hold.commit`): that is what keeps a request at two
round trips to a server.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import CannotCount, CannotList, ConfigError, CorruptRecord, LockTimeout, NoRoom, StoreError, Unavailable
from .events import log, publish
from .locks import FairLocks
from .record import INDEX, SESSION, TOMBSTONE, Record, reference

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9_-]{20,200}")
_TIMEOUT = 10.0  # seconds to wait for a session that somebody else ends, or for the index of a user
_USER = "user-"  # what the key of an index has before its hash; a session's key has nothing there
_UNCHECKED = 16  # sessions that an index may have gained since all of them were looked at, beyond twice as many


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a backend can do, and what it cannot (rule 20): one declaration in each backend's file.

    The pages and documents quote it, and the contract suite proves it. No rule of a session asks for it: what a backend
    does differently stands in its own methods.
    """

    survives_restart: bool  # sessions are there again after every process of the site was restarted
    shared: bool  # several processes see the same sessions
    locks_threads: bool = True  # two requests in one process keep each other away from a session in use
    locks_processes: bool  # two processes do
    revokes: bool = True  # a deleted session is dead, whoever kept a copy of its cookie
    counts: bool = True  # it can tell how many live sessions there are
    lists: bool = True  # it can list the live sessions of a user, and so end one of them, or all others
    purges: bool = True  # the cleaner of the site removes expired sessions; else they go by themselves, or not at all
    max_bytes: int | None = None  # of encoded values, about; None for no limit of its own
    keeps: str  # where the sessions are, in words
    sharing: str  # who can share them
    locking: str  # how two requests on one session are kept apart
    cleaning: str = "A thread of the site removes them every few minutes, a batch at a time."  # what has expired
    outage: str  # what happens while the store is down
    needs: str = "Nothing."  # what has to be there for it
    limitations: str = ""  # what it cannot do


class Hold:
    """A session that nobody else, in any process that shares the store, reads or writes until it is released."""

    __slots__ = ("_released", "_store", "key", "record")

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._released = store, False
        self.key = key  # saving changes it where the key itself holds the record
        self.record: Record | None = None  # what was stored when the hold began

    def commit(self, record: Record) -> bool:
        """Save `record` and release, also where that fails. Return False, and save nothing, if the session was deleted
        or has moved meanwhile: it would come back (rule 8)."""
        before = self.record
        if self._released or before is None or before.kind == TOMBSTONE:
            self.release()
            return False
        if not self._finish(self._commit, record):
            return False
        if record.user and record.deadline != before.deadline and record.kind == SESSION:
            try:
                self._store.enter(self.key, record)
            except StoreError as error:  # the record is saved, which is what was asked; the next renewal tries again
                log.warning("session %s may be missing in the index of its user: %s", reference(self.key), error)
        return True

    def delete(self) -> None:
        """Destroy the stored record and release. Nobody can read it again."""
        self._finish(self._remove)
        if self.record and self.record.user and self.record.kind == SESSION:
            self._store.leave(self.key, self.record.user)

    def quarantine(self, reason: Exception) -> None:
        """Take a record that cannot be read out of the way, say so once, and release (rule 13)."""
        publish("quarantined", self.key, why=str(reason))
        self.record = None
        self._finish(self._quarantine)

    def release(self) -> None:
        """Release without saving. Doing it again does nothing."""
        if not self._released:
            self._released = True
            try:
                self._unlock()
            finally:
                self._store.locks.release(self.key)

    def _finish(self, step: Callable[..., T], *args: Any) -> T:
        """Take the last step and release. If the store does not answer, those who wait for the session fail as well."""
        try:
            return step(*args)
        except Unavailable as error:
            self._store.locks.refuse(self.key, error)
            raise
        finally:
            self.release()

    # What a backend with locks of its own overrides:

    def _read(self) -> Record | None:
        """Return what is stored, now that it is locked, or raise CorruptRecord."""
        return self._store.load(self.key)

    def _commit(self, record: Record) -> bool:
        """Save. Return False, and save nothing, if another process has the session by now."""
        self._store.save(self.key, record)
        return True

    def _remove(self) -> None:
        self._store.remove(self.key)

    def _quarantine(self) -> None:
        self._store.quarantine(self.key)

    def _unlock(self) -> None:
        pass


class Store(ABC):
    """Where the sessions of one application are kept. Its options are the keyword parameters of its `__init__`.

    Every method may raise `Unavailable` (the store did not answer) and none may block without a bound.
    """

    capabilities: Capabilities  # each backend sets its own

    def __init__(self) -> None:
        if not hasattr(self, "capabilities"):
            raise TypeError(f"{type(self).__name__} must declare its capabilities: see sessions.Capabilities")
        self.locks = FairLocks()
        self.clock: Callable[[], float] = time.time  # epoch seconds
        self.namespace = ""  # what the keys of the application begin with
        self.cookie_name = "session_id"  # of the cookies that open these sessions

    # ---------------------------------------------------------------- what a backend writes

    @abstractmethod
    def load(self, key: str) -> Record | None:
        """Return the record of `key` without a lock, or None. It may have expired: the session decides. Raise
        CorruptRecord if what is stored is no record; whoever holds it quarantines it."""

    @abstractmethod
    def save(self, key: str, record: Record) -> None:
        """Store `record` under `key`, whole or not at all, in place of one that is there."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Destroy the record of `key`, which is held. A key that is not there is no error."""

    @abstractmethod
    def purge(self, limit: int) -> int:
        """Remove up to `limit` records whose deadline has passed, and what they left behind, and call `ended` for each.
        Return the number removed. It never waits for a held session and goes on past a record it cannot read."""

    def _hold(self, key: str, timeout: float) -> Hold:
        """Lock the session between processes, for the one thread of this process that has the lock of `key`, or raise
        LockTimeout if another process held it for `timeout` seconds."""
        return Hold(self, key)

    def quarantine(self, key: str) -> None:
        """Take a record that cannot be read out of the way. A backend that has a place for it keeps a copy there."""
        self.remove(key)

    def count(self) -> int:
        """Return how many live sessions the application has, or raise CannotCount."""
        raise CannotCount(f"{type(self).__name__} cannot count its sessions")

    def scan(self) -> Iterator[tuple[str, Record]]:
        """Return the key and the record of each session of the application, maybe also of some that have expired, or
        raise CannotList."""
        self._check_lists()
        raise CannotList(f"{type(self).__name__} cannot list everybody's sessions. Ask for those of one user")

    def _check_lists(self) -> None:
        if not self.capabilities.lists:
            raise CannotList(f"{type(self).__name__} cannot list sessions. {self.capabilities.limitations}".strip())

    def load_all(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of those of the keys that have one. A backend that can ask for many at once does."""
        found = {}
        for key in keys:
            with suppress(CorruptRecord):  # whoever holds it next quarantines it
                if record := self.load(key):
                    found[key] = record
        return found

    def ping(self) -> None:
        """Do nothing if the store answers, or raise Unavailable."""
        self.load(self.new_key())

    def start(self) -> None:  # noqa: B027 -- most stores have nothing to do here
        """Take what only one process may have, in the one that serves, or raise Unavailable if another has it. Where no
        server calls it, the first request waits for it."""

    def checkpoint(self) -> None:  # noqa: B027 -- nor here
        """Called every few minutes by the cleaner, after it has cleaned."""

    def close(self) -> None:  # noqa: B027
        """Close connections and files. The store is not used again."""

    # ---------------------------------------------------------------- holding

    def acquire(self, key: str, timeout: float) -> Hold:
        """Lock the session and load it, in one step, or raise LockTimeout if somebody else held it for `timeout`
        seconds, in this process and outside of it together."""
        left, hold = self.locks.acquire(key, timeout), None
        try:
            hold = self._hold(key, left)
            hold.record = hold._read()
        except BaseException as error:
            if hold and isinstance(error, CorruptRecord):
                hold.quarantine(error)
                return hold
            if isinstance(error, Unavailable):
                self.locks.refuse(key, error)
            hold.release() if hold else self.locks.release(key)
            raise
        return hold

    def create(self, key: str, record: Record) -> str:
        """Store the record of a new session. Keys are not guessable, so nobody else can be using this one. Return the
        key under which it is found from now on: this one, unless the key itself holds the record."""
        if record.user:
            self.enter(key, record, new=True)
        else:
            self.save(key, record)
        return key

    def delete(self, key: str, timeout: float = _TIMEOUT) -> None:
        """Destroy the record of `key`, as soon as whoever holds it has released it, or raise LockTimeout."""
        self.acquire(key, timeout).delete()

    def purge_one(self, key: str) -> bool:
        """Remove the record of `key` if it has expired and nobody holds it. Return whether it was."""
        try:
            hold = self.acquire(key, 0)
        except LockTimeout:  # whoever holds it may be renewing it
            return False
        record = hold.record
        if record is None or record.deadline > self.clock():
            hold.release()
            return False
        hold._finish(hold._remove)
        self.ended(key, record)
        return True

    def ended(self, key: str, record: Record) -> None:
        """Note that the cleaner has removed an expired record."""
        if record.kind == SESSION:
            publish("expired", key, record=record)

    # ---------------------------------------------------------------- the sessions of a user

    # The index of a user is a record, too: its data are the number of sessions that were there when all of them were
    # last looked at, and the hashes of their keys. A request that holds its session may take an index, never the
    # reverse. A new session is stored while its index is held: one that was stored before might be entered by a
    # process that was stopped meanwhile, and one that is stored after would be taken for one that has ended. A renewal
    # enters its session anew, so an index that the store has lost grows again, and it lasts as long as they do.

    def enter(self, key: str, record: Record, *, new: bool = False) -> None:
        """Put a session into the index of its user, and store it if it is new."""
        with self._index(record.user) as (hold, checked, keys):
            if new:
                self.save(key, record)
            try:
                if key not in keys:
                    keys.append(key)
                if len(keys) > 2 * checked + _UNCHECKED:
                    try:
                        keys = list(self._alive(keys, record.user))
                        checked = len(keys)
                    except Unavailable as error:  # one of several servers, maybe: its sessions may be there again
                        log.warning("an index keeps the sessions that have ended, for now: %s", error)
                deadline = max(record.deadline, hold.record.deadline if hold.record else 0.0)
                self._put_index(hold, record.user, checked, keys, deadline)
            except BaseException:
                if new:  # nobody has its id: it can be made again, but one that is in no index could not be ended
                    self.remove(key)
                raise

    def leave(self, key: str, user: str) -> None:
        """Take a session that has ended out of the index of its user. An entry too many does no harm: what has been
        done does not fail because of it."""
        try:
            with self._index(user) as (hold, checked, keys):
                if hold.record and key in keys:
                    keys.remove(key)
                    self._put_index(hold, user, checked, keys, hold.record.deadline)
        except (Unavailable, LockTimeout) as error:
            log.warning("session %s stays in the index of its user until that is listed: %s", reference(key), error)

    def live(self, user: str) -> dict[str, Record]:
        """Return the sessions of a user by key, and drop from the index what has ended, or raise CannotList."""
        self._check_lists()
        with self._index(user) as (hold, _, keys):
            found = self._alive(keys, user)
            if len(found) < len(keys):
                deadline = max((record.deadline for record in found.values()), default=0.0)
                try:
                    self._put_index(hold, user, len(found), found, deadline)
                except NoRoom as error:
                    log.warning("an index keeps the sessions that have ended, for now: %s", error)
            return found

    @contextmanager
    def _index(self, user: str) -> Iterator[tuple[Hold, int, list[str]]]:
        """Hold the index of a user, and read what is in it."""
        hold = self.acquire(self.user_key(user), _TIMEOUT)
        try:
            checked, *hashes = hold.record.data.split(" ") if hold.record else ["0"]
            yield hold, int(checked), [self.namespace + one for one in hashes]
        finally:
            hold.release()

    def _alive(self, keys: Iterable[str], user: str) -> dict[str, Record]:
        now, found = self.clock(), self.load_all(keys)
        return {key: one for key, one in found.items() if one.user == user and one.deadline > now}

    def _put_index(self, hold: Hold, user: str, checked: int, keys: Collection[str], deadline: float) -> None:
        data = " ".join([str(checked), *(key.removeprefix(self.namespace) for key in keys)])
        index = Record(data, self.clock(), deadline, user, kind=INDEX)
        if not keys:
            hold.delete()
        elif not hold.record:
            self.save(hold.key, index)
        elif not hold.commit(index):
            raise Unavailable("the index of a user was taken by another process meanwhile")

    # ---------------------------------------------------------------- keys and cookies

    def key_of(self, id: str) -> str:
        """Return the key of a session id. The store never sees the id: what is read there cannot be used (rule 3)."""
        return self.namespace + hashlib.sha256(id.encode()).hexdigest()

    def user_key(self, user: str) -> str:
        """Return the key of the index of a user. It is no session's: no id has a space in it."""
        return f"{self.namespace}{_USER}{hashlib.sha256(f'user {user}'.encode()).hexdigest()}"

    @staticmethod
    def is_index(key: str) -> bool:
        """Return whether a key is that of an index."""
        return key[-69:-64] == _USER

    def find(self, cookie: str) -> tuple[str, str] | None:
        """Return the id and the key that a cookie's value stands for, or None if it cannot be one of ours, which is
        unknown without asking the store (rule 2)."""
        if _ID.fullmatch(cookie) is None:
            return None
        return cookie, self.namespace + hashlib.sha256(cookie.encode()).hexdigest()

    def cookie_value(self, id: str, key: str) -> str:
        """Return what the browser is given to find the session by: the id, unless the cookie is the store."""
        return id

    def new_key(self) -> str:
        """Return a key that no session has."""
        return self.key_of(secrets.token_urlsafe(32))

    def describe_location(self, key: str) -> str:
        """Return where the record of `key` is, for a person who wants to find it: a path, a row, an item."""
        return f"{key} in a {type(self).__name__}"

    def describe_record(self, key: str, record: Record) -> str:
        """Return what a person finds there, as text."""
        return record.pack(key).decode()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers that the store talks to, each as host:port; empty for a store without any."""
        return ()


def timeout_option(given: float | None, most: float) -> float:
    """Return the option `server_timeout` of a store with a server, in seconds, or raise ConfigError; None is `most`,
    which the backend's capabilities promise for a 503."""
    seconds = most if given is None else given
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= most:
        what = f"a number of seconds above 0, at most {most:g}, or None"
        raise ConfigError(f"server_timeout is {given!r}: it must be {what}")
    return float(seconds)
