"""The life of a session within one request: the rules of loading, locking and saving stand here, none in a backend.

    new       nothing is stored; there is nothing to lock either, for nobody else can know the id
    held      loaded and locked
    loaded    without a lock, in the explicit mode and in a streamed body
    let go    saved and unlocked; touching it again acquires and loads again
    gone      deleted, here or by somebody else: what is written now is never stored

`Session` is the face that pages see.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from . import codec, limits
from .errors import SessionClosed, Unreadable
from .record import Record, reference
from .store import Store, log
from .stored import Stored
from .values import Values

_MOVED_SECONDS = 60.0  # how long a session that moved leaves word of it, for requests that were under way by then
_MOVED_SLACK = 1.0  # such a request may have been sent before, and have come in this much after the move


class Life(Values):
    """Loads, locks and saves; `Session` documents the arguments and attributes."""

    # What every session begins with; each is set on the instance when it changes.
    regenerated = False
    locked = False
    loaded = False
    touched = False
    cookie: str | None = None
    _next_id: str | None = None  # the id after a regenerate() that is not saved yet, or of a new session
    _missing = False
    on_first_use: Callable[[], None] | None = None
    _wanted = False  # an explicit load() makes a session worth storing though it is empty
    _moved = False  # it has gone on under another id; this request knows the old one only
    _gone = False
    _sealed = False  # the answer is on its way
    _depth = 0  # of session_lock() blocks
    _safe: bytes | None = None  # what session_lock() blocks inside a held session must not lose

    def __init__(
        self,
        id: str | None,
        store: Store,
        timeout: float,
        lifetime: float | None,
        locking: str,
        lock_timeout: float,
        arrived: float | None,
        debug: bool,
    ) -> None:
        self.store = store
        self.timeout = timeout
        self.lifetime = lifetime
        self.locking = locking
        self.lock_timeout = lock_timeout
        self.debug = debug
        self.originalid = id
        self._arrived = store.clock() if arrived is None else arrived
        self._told = id  # the cookie that the browser has
        self._stored = Stored.named_by(store, id)  # a claim, until a record proves it
        self._used = [self._stored] if self._stored else []
        self._missing = bool(id) and self._stored is None
        self._data: dict[Any, Any] = {}

    def generate_id(self) -> str:
        """A new id: 256 random bits as 43 URL-safe characters (ASVS 7.2.3 asks for 128)."""
        return secrets.token_urlsafe(32)

    def _log(self, what: str) -> None:
        if self.debug:
            log.info("session %s: %s", reference(self._stored.key) if self._stored else "(new)", what)

    # ---------------------------------------------------------------- lock and load

    def _use(self) -> None:
        if not self.touched:
            self.touched = True
            if self.on_first_use:
                self.on_first_use()

    def acquire_lock(self) -> None:
        """Make the session this request's own, and load it afresh. Does nothing if it is already.

        Raises:
            cherrypy.HTTPError: 503, it stayed locked for `lock_timeout` seconds, or the store does not answer.
        """
        self._use()
        if self.locked:
            return
        if self.loaded and not self._sealed:
            self._write()  # what an explicit-mode page wrote before it asked for the lock
        if self._stored is None or self._gone:
            self.loaded = self.locked = True
            return
        self._log("waiting for the lock")
        record = self._stored.acquire(self.lock_timeout)
        self.locked = True
        self._take(self._stored, record)

    def release_lock(self) -> None:
        """Save what changed and let go. Touching the session again acquires and loads again."""
        if self.locked:
            self.save()

    def _touch(self) -> None:
        """Before each access: whatever it takes to have the values here."""
        self._use()
        if self.loaded:
            return
        if self._stored is None or self._gone:
            self.loaded = True
            self.locked = self.locking != "explicit"  # nobody else can know the id
        elif self.locking == "explicit" or self._sealed:
            self._take(self._stored, self._stored.load())
        else:
            self.acquire_lock()

    def _take(self, stored: Stored, record: Record | None) -> None:
        """Adopt what the store had, or find that it had nothing."""
        self.loaded = True
        if record is None:
            self._forget(stored)
        elif not record.data:
            # A request that was under way while the session moved must not answer with a cookie of its own: the
            # browser would put it over the new one, and a visitor who has just signed in would be signed out.
            self._moved = self._arrived <= record.created + _MOVED_SLACK
            self._forget(stored)
        elif limits.expired(record, self.store.clock(), self.lifetime):
            self._log("expired")
            if stored.held:  # else another request may just be renewing it, and the cleaner will come
                stored.delete()
            self._forget(stored)
        else:
            try:
                self._data = codec.decode(record.data)
            except Unreadable as error:
                stored.set_aside(record, error, self.lock_timeout)
                self._forget(stored)
            else:
                stored.record = record
                self._check_cookie(stored)
                self._log("locked and loaded" if stored.held else "loaded")

    def _forget(self, stored: Stored) -> None:
        """The store does not have this session: it is new, or gone if it was there a moment ago."""
        stored.release()
        self._gone = stored.record is not None
        self._missing = not self._gone
        self._stored = None
        self._data = {}

    # ---------------------------------------------------------------- save and let go

    def save(self) -> None:
        """Save what changed, and let go of the lock. Touching the session again acquires and loads again.

        Raises:
            UnstorableValue: a value cannot be stored; the stored session stays as it was.
            cherrypy.HTTPError: 503, the store does not answer.
        """
        try:
            self._write()
        finally:
            self.discard()

    def discard(self) -> None:
        """Let go without saving what this request changed since the last save or session_lock() block."""
        stored, safe, self._safe = self._stored, self._safe, None
        try:
            if safe is not None:  # under the next id, if there is one: a login must not stay under a planted id
                self._data = codec.decode(safe)
                self._write()
        finally:
            self.locked = self.loaded = False
            self._data = {}
            if stored:
                self._next_id = None if stored.record else self._next_id
                stored.release()

    def end(self) -> None:
        """The request is over."""
        try:
            self.discard()
        finally:
            while self._used:
                self._used.pop().leave()

    def seal(self) -> None:
        """The answer is on its way: from now on values change inside session_lock() only (rule 19)."""
        self._sealed = True
        if self._stored and self._stored.record:
            self._told = self._stored.cookie_value

    def _write(self) -> None:
        if self._gone or not self.loaded:
            return
        data = codec.encode(self._data)
        self._safe = None
        if self._stored is None or self._stored.record is None:
            if (self._data or self._wanted) and not self._moved:
                self._create(data)
        elif self._next_id:
            self._move(data, self._stored, self._stored.record, self._next_id)
        else:
            self._update(data, self._stored, self._stored.record)

    def _create(self, data: bytes) -> None:
        """A first save. It needs no lock: nobody can know the id before the answer has gone out."""
        if self._sealed:
            raise SessionClosed("a session cannot begin in a streamed body: its cookie would have had to go before it")
        now = self.store.clock()
        stored = self._new(self._next_id or self.generate_id())
        stored.create(Record(data, now, limits.deadline(now, now, self.timeout, self.lifetime)))
        self._become(stored)
        self._log("created")

    def _move(self, data: bytes, old: Stored, before: Record, id: str) -> None:
        """Store the session under its next id, then leave word under the old one that it has moved (rule 9)."""
        if self._sealed:
            raise SessionClosed("a session cannot get a new id in a streamed body: its cookie has gone before it")
        now = self.store.clock()
        new = self._new(id)
        new.create(Record(data, before.created, limits.deadline(before.created, now, self.timeout, self.lifetime)))
        if old.overwrite(Record(b"", now, now + _MOVED_SECONDS)):
            self._log("moves to a new id")
            self._become(new)
        else:
            new.delete()
            self._lose(old)

    def _new(self, id: str) -> Stored:
        stored = Stored(self.store, id, self.store.key_of(id))
        self._used.append(stored)
        return stored

    def _become(self, stored: Stored) -> None:
        self._stored, self._next_id, self.cookie = stored, None, "new"

    def _update(self, data: bytes, stored: Stored, before: Record) -> None:
        """Write if the values changed, or a tenth of the timeout has passed since the deadline was set (rule 7)."""
        renewed = limits.renewed(before, self.store.clock(), self.timeout, self.lifetime)
        if data == before.data and renewed is None:
            self._log("unchanged")
        elif not stored.overwrite(Record(data, before.created, renewed or before.deadline)):
            self._lose(stored)
        else:
            if renewed:
                self.cookie = self.cookie or "renewed"
            self._check_cookie(stored)
            self._log("saved and renewed" if renewed else "saved")

    def _check_cookie(self, stored: Stored) -> None:
        """Where the cookie is the store, it has changed with what is in it."""
        if stored.cookie_value != self._told:
            if self._sealed:
                raise SessionClosed("the session is in its cookie, which has gone before the streamed body")
            self.cookie = "new"

    def _lose(self, stored: Stored) -> None:
        """The session was deleted while this request used it. What it wrote is not stored: that would revive it."""
        log.info("session %s was deleted meanwhile; nothing was saved", reference(stored.key))
        self._gone = True
