"""What the store has, or may have, under one session id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import cherrypy

from . import codec
from .errors import StoreError, TooLarge, Unreadable
from .events import publish, watchers
from .record import Record, reference
from .store import Hold, Store, log

T = TypeVar("T")
_ASIDE_TIMEOUT = 10.0  # seconds


class StoreHTTPError(cherrypy.HTTPError):
    """What a page answers when its store could not do what it asked: 503 with Retry-After where it did not answer, or
    the session stayed locked; 413 where the session is too large. `__cause__` is the StoreError."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(error.status, error.public)
        self.retry_after = error.retry_after

    def set_response(self) -> None:
        """Make the response that error."""
        super().set_response()  # removes Retry-After, as CherryPy does from every error
        if self.code == 503:
            cherrypy.serving.response.headers["Retry-After"] = str(self.retry_after)


def ask(method: Callable[..., T], *args: Any) -> T:
    """Call a method of a store; where it cannot answer, the page is a 503 and nothing else is touched (rule 15)."""
    try:
        return method(*args)
    except StoreError as error:
        log.warning("%s: %s", type(error).__name__, error)
        if watchers:
            publish("failed", why=type(error).__name__)
        raise StoreHTTPError(error) from error


class Stored:
    """One id and its record. The id is a claim of the browser's until `record` proves it.

    Attributes:
        id: the session id.
        key: what the store knows it by.
        record: what the store had when it was last asked, or what was stored since; None before, and if it had nothing.
        held: whether the store keeps everybody else away from it.
    """

    __slots__ = ("_hold", "_store", "id", "key", "record")

    def __init__(self, store: Store, id: str, key: str) -> None:
        self._store = store
        self._hold: Hold | None = None
        self.id = id
        self.key = key
        self.record: Record | None = None

    @classmethod
    def named_by(cls, store: Store, cookie: str | None) -> Stored | None:
        """What a cookie's value claims to be; None if it is no id of ours at all."""
        found = store.find(cookie) if cookie else None
        return cls(store, *found) if found else None

    @property
    def cookie_value(self) -> str:
        """What the browser has to send to find it again."""
        return self._store.cookie_value(self.id, self.key)

    @property
    def held(self) -> bool:
        return self._hold is not None

    def acquire(self, timeout: float) -> Record | None:
        """Lock and load, waiting `timeout` seconds at most."""
        if watchers:
            publish("asked", self.key)
        self._hold = ask(self._store.acquire, self.key, timeout)
        if watchers:
            publish("locked", self.key)
        return self._hold.record

    def load(self) -> Record | None:
        """Load without a lock."""
        try:
            return ask(self._store.load, self.key)
        except Unreadable:
            hold = ask(self._store.acquire, self.key, _ASIDE_TIMEOUT)  # takes it out of the way
            ask(hold.release)
            return hold.record

    def create(self, record: Record) -> None:
        """Store the first record of this id."""
        self._save(self._store.create, record, self.key)
        if watchers:
            self._tell_saved(self.record, record)
        self.record = record

    def overwrite(self, record: Record) -> bool:
        """Store `record` in place of the one that is there and let go. False if it was deleted meanwhile."""
        before, (hold, self._hold) = self.record, (self._hold, None)
        saved = self._save(hold.commit, record) if hold else self._save(self._store.replace, record, self.key)
        if saved:
            self.record = record
        if watchers:
            self._tell_saved(before, record) if saved else publish("unsaved", self.key, why="it was deleted meanwhile")
            if hold:
                publish("unlocked", self.key)
        return saved

    def _tell_saved(self, before: Record | None, record: Record) -> None:
        changed = before is None or record.data != before.data
        how = "moved" if not record.data else "created" if before is None else "changed" if changed else "renewed"
        publish("saved", self.key, record=record, how=how)

    def _save(self, method: Callable[..., T], record: Record, *key: str) -> T:
        try:
            return ask(method, *key, record)
        except StoreHTTPError as error:
            if isinstance(error.__cause__, TooLarge):
                error.__cause__.args = (f"{error.__cause__}; its largest values: {codec.sizes(record.data)}",)
                log.warning("session %s is too large: %s", reference(self.key), error.__cause__)
            raise

    def delete(self) -> None:
        """Destroy the record and let go."""
        hold, self._hold = self._hold, None
        if hold:
            ask(hold.delete)
        else:
            ask(self._store.delete, self.key)
        if watchers:
            publish("deleted", self.key)
            if hold:
                publish("unlocked", self.key)

    def set_aside(self, unreadable: Record, error: Exception, timeout: float) -> None:
        """Take a record that makes no sense out of the way, unless somebody else has done so, and let go."""
        hold, self._hold = self._hold or ask(self._store.acquire, self.key, timeout), None
        ask(hold.set_aside, error) if hold.record == unreadable else ask(hold.release)

    def leave(self) -> None:
        """Let go, and tell the store that this request is over."""
        try:
            self.release()
        finally:
            self._store.leave(self.key)

    def release(self) -> None:
        """Let go without saving."""
        hold, self._hold = self._hold, None
        if hold:
            ask(hold.release)
            if watchers:
                publish("unlocked", self.key)
