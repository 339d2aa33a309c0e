"""Moving house: from one store to another, without signing anybody out or losing a visit.

`tools.sessions.moving_from` lets a site take the sessions of its former store over, each at its first use: it is stored
in the new one, with its key, user and times, and then deleted in the former, while that is locked. A site of many
processes changes one after the other; those that are still to come have `tools.sessions.moving_to`, and use a session
where they find it. The order of the steps is in docs/operations.md.

A session moves in one direction only, and is in the new store before it goes from the former. So who looks into the
former and then into the new one finds it, whatever happens meanwhile.

A process that is killed between the two steps, or a former store that fails between them, leaves a copy there. It must
not come back when the session has ended (rule 8): whatever ends a session ends it in both.

Rejected: deleting first, for a process that is killed then has lost the session; copying everything before the start,
for what is used meanwhile changes in the former store only; processes that move back what they find in the new one, for
some stores lock only what they have, and a key that comes back would be locked twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain

from .errors import ConfigError, LockTimeout, StoreError, TooLarge
from .events import log, publish
from .locks import FairLocks
from .record import TOMBSTONE, Record, reference
from .store import Hold, Store

_PATIENCE = 10.0  # seconds that move_all waits for a session in use


class MovingHold(Hold):
    """Holds a session where it is, and sees to it that no copy elsewhere outlives it.

    Args:
        inner: the hold of the store that has it.
        elsewhere: the other store.
    """

    __slots__ = ("_elsewhere", "_inner")

    def __init__(self, store: MovingStore, inner: Hold, elsewhere: Store) -> None:
        super().__init__(store, inner.key)
        self._inner, self._elsewhere = inner, elsewhere

    def _read(self) -> Record | None:
        return self._inner.record

    def _commit(self, record: Record) -> bool:
        saved, before = self._inner.commit(record), self.record
        if saved and before and (record.kind == TOMBSTONE or record.deadline < before.deadline):
            self._forget()
        return saved

    def _remove(self) -> None:
        self._inner.delete()
        self._forget()

    def _quarantine(self) -> None:
        self._inner._finish(self._inner._quarantine)

    def _unlock(self) -> None:
        self._inner.release()

    def _forget(self) -> None:
        try:
            self._elsewhere.delete(self.key)
        except StoreError as error:  # the session has ended, which is what was asked
            _warn(self.key, error)


class MovingStore(Store):
    """Keeps the sessions of a site that moves in two stores.

    Args:
        former: where they were.
        new: where they are to be.
        takes_over: whether this process moves them, and makes new ones in the new store. One that does not lets them
            be where they are, and makes new ones in the former.

    Raises:
        ConfigError: one of the two cannot do it.
    """

    def __init__(self, former: Store, new: Store, takes_over: bool) -> None:
        for store in (former, new):
            if not store.capabilities.revokes:
                why = "a copy of a cookie that came in later would bring back who has signed out"
                raise ConfigError(f"a {type(store).__name__} can take no part in a move: {why}")
        if not former.capabilities.survives_restart:
            raise ConfigError(f"the sessions of a {type(former).__name__} end with its process: there is none to move")
        if not takes_over and not new.capabilities.shared:
            raise ConfigError(f"what another process has taken into a {type(new).__name__} cannot be used here")
        self.former, self.new, self._takes_over = former, new, takes_over
        self._home, self._other = (new, former) if takes_over else (former, new)
        self.capabilities = self._home.capabilities
        super().__init__()
        self.locks = FairLocks(stand_back=True)
        self.locks.max_waiting = new.locks.max_waiting
        self.clock, self.namespace, self.cookie_name = new.clock, new.namespace, new.cookie_name

    def _hold(self, key: str, timeout: float) -> Hold:
        end = time.monotonic() + timeout
        hold = self._home.acquire(key, timeout)
        if hold.record is not None:
            return MovingHold(self, hold, self._other)
        hold.release()
        there = self._other.acquire(key, end - time.monotonic())
        if not self._takes_over:
            return MovingHold(self, there, self._home)
        try:
            if there.record is not None:
                self._take_over(key, there, there.record)
        finally:
            there.release()
        return MovingHold(self, self._home.acquire(key, end - time.monotonic()), self._other)

    def _take_over(self, key: str, there: Hold, record: Record) -> None:
        """Store a session that is held in the former store, unless a process that was killed has, and delete it."""
        if self.new.load(key) is None:
            self.new.create(key, record)
            publish("taken_over", key, account=record.user)
        try:
            there.delete()
        except StoreError as error:  # it may be gone all the same: to undo the other step could lose the session
            _warn(key, error)

    def load(self, key: str) -> Record | None:
        return self._home.load(key) or self._other.load(key) or self._home.load(key)

    def load_all(self, keys: Iterable[str]) -> dict[str, Record]:
        keys = list(keys)
        return self.former.load_all(keys) | self.new.load_all(keys)

    def live(self, user: str) -> dict[str, Record]:
        return self.former.live(user) | self.new.live(user)

    def scan(self) -> Iterator[tuple[str, Record]]:
        return chain(self.former.scan(), self.new.scan())

    def count(self) -> int:
        return self.former.count() + self.new.count()

    def move_all(self) -> Iterator[tuple[str, StoreError | None]]:
        """Take every session over that the former store can list. Yield the reference of each, and why it could not be
        moved, or None. What has moved is not there any more: to go on with a move that was interrupted, call it again.

        Raises:
            CannotList: the former store cannot list its sessions.
            Unavailable: one of the two does not answer, or the new one is full.
        """
        for key, record in self.former.scan():
            if record.deadline > self.clock():
                try:
                    self.acquire(key, _PATIENCE).release()
                    yield reference(key), None
                except (LockTimeout, TooLarge) as error:
                    yield reference(key), error

    # New sessions are made at home; and both have to be looked after.

    def save(self, key: str, record: Record) -> None:
        self._home.save(key, record)

    def remove(self, key: str) -> None:
        self._home.remove(key)

    def create(self, key: str, record: Record) -> str:
        return self._home.create(key, record)

    def enter(self, key: str, record: Record, *, new: bool = False) -> None:
        pass  # the store that has it does

    def leave(self, key: str, user: str) -> None:
        self._home.leave(key, user)

    def purge(self, limit: int) -> int:
        removed = self._home.purge(limit)
        return removed + self._other.purge(limit - removed)

    def ping(self) -> None:
        self._home.ping()

    def start(self) -> None:
        self._home.start()
        self._other.start()

    def checkpoint(self) -> None:
        self._home.checkpoint()
        self._other.checkpoint()

    def close(self) -> None:
        with closing(self._other):  # also if the first cannot be closed
            self._home.close()

    def describe_location(self, key: str) -> str:
        return self._home.describe_location(key)

    def describe_record(self, key: str, record: Record) -> str:
        return self._home.describe_record(key, record)

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._home.addresses + self._other.addresses


def _warn(key: str, error: StoreError) -> None:
    log.warning("session %s: a copy of it may be left in the other store: %s", reference(key), error)
