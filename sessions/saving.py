"""When and how a session is saved: whole, only if it changed, never after it has ended (rules 5, 7 to 9, 11, 19)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from . import codec
from .audit import note
from .errors import SessionClosed
from .events import publish, watchers
from .life import Life
from .owner import NOBODY, Owner
from .record import Record, reference
from .stored import Stored

_MOVED_SECONDS = 60.0  # how long a session that moved leaves word of it, for requests that were under way by then


class Saving(Life):
    """Saves, and lets go."""

    _safe: tuple[bytes, Owner] | None = None  # what session_lock() blocks inside a held session must not lose
    _depth = 0  # of session_lock() blocks

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
                self._data, self._owner, self._written = codec.decode(safe[0]), safe[1], True
                self._write()
        finally:
            self.locked = self.loaded = False
            self._data, self._owner = {}, NOBODY
            if stored:
                self._next_id = None if stored.record else self._next_id
                stored.release()

    def end(self) -> None:
        """The request is over."""
        try:
            if self.loaded or self.locked:
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
        before = self._stored.record if self._stored else None
        data = before.data if before and self._is_as_loaded() else codec.encode(self._data)
        self._safe = None
        if self._stored is None or self._stored.record is None:
            if (self._data or self._wanted or self._owner.user) and not self._moved:
                self._create(data)
            elif watchers:
                publish("unsaved", why="there is nothing to keep")
        elif self._next_id:
            self._move(data, self._stored, self._stored.record, self._next_id)
        else:
            self._update(data, self._stored, self._stored.record)

    def _is_as_loaded(self) -> bool:
        """Whether nothing can have changed: nobody asked to write, and no value can be changed from within."""
        return not self._written and codec.FIXED.issuperset(map(type, self._data.values()))

    def _create(self, data: bytes) -> None:
        """A first save. It needs no lock: nobody can know the id before the answer has gone out."""
        if self._sealed:
            raise SessionClosed("a session cannot begin in a streamed body: its cookie would have had to go before it")
        now = self.store.clock()
        stored = self._new(self._next_id or self.generate_id())
        stored.create(self._record(data, now, now))
        self._become(stored)

    def _move(self, data: bytes, old: Stored, before: Record, id: str) -> None:
        """Store the session under its next id, then leave word under the old one that it has moved (rule 9)."""
        if self._sealed:
            raise SessionClosed("a session cannot get a new id in a streamed body: its cookie has gone before it")
        now = self.store.clock()
        new = self._new(id)
        new.create(self._record(data, before.created, now))
        if old.overwrite(Record(b"", now, now + _MOVED_SECONDS)):
            whose = self._owner.user or before.user  # also of a session that was signed out
            note("session has moved to a new id", new.key, account=whose, before=reference(old.key))
            self._become(new)
        else:
            new.delete()
            self._lose(old)

    def _record(self, data: bytes, began: float, now: float) -> Record:
        user, remembered, since = self._owner
        created = since or began
        return Record(data, created, self._limits(remembered).deadline(created, now), user, remembered)

    def _new(self, id: str) -> Stored:
        stored = Stored(self.store, id, self.store.key_of(id))
        self._used.append(stored)
        return stored

    def _become(self, stored: Stored) -> None:
        self._stored, self._next_id, self.cookie = stored, None, "new"

    def _update(self, data: bytes, stored: Stored, before: Record) -> None:
        """Write if the values changed, or a tenth of the timeout has passed since the deadline was set (rule 7)."""
        user, remembered, _ = self._owner
        renewed = self._limits(remembered).renewed(before, self.store.clock())
        record = Record(data, before.created, renewed or before.deadline, user, remembered)
        if watchers:
            publish("compared", stored.key, changed=data != before.data)
        if record == before:
            if watchers:
                publish("unsaved", stored.key, why="nothing has changed, and it was renewed not long ago")
        elif not stored.overwrite(record):
            self._lose(stored)
        else:
            if renewed:
                self.cookie = self.cookie or "renewed"
            self._check_cookie(stored)

    def _lose(self, stored: Stored) -> None:
        """The session was deleted while this request used it. What it wrote is not stored: that would revive it."""
        note("session was deleted meanwhile; nothing was saved", stored.key)
        self._gone = True

    @contextmanager
    def lock(self) -> Iterator[Self]:
        """`sessions.session_lock()` of this session; see there."""
        if self._depth or self.locked:
            with self._block_in_block():
                yield self
            return
        self.acquire_lock()
        self._depth += 1
        try:
            yield self
        except BaseException:
            self.discard()
            raise
        else:
            self.save()
        finally:
            self._depth -= 1

    @contextmanager
    def _block_in_block(self) -> Iterator[None]:
        """A block inside a session that is held already. The lock stays with whoever took it first, so the block is
        saved together with the rest; but it is saved for certain, even if the handler ends in a 5xx."""
        before, owner = codec.encode(self._for_reading()), self._owner
        self._depth += 1
        try:
            yield
        except BaseException:
            if not self._gone:
                self._data, self._owner = codec.decode(before), owner
            raise
        else:
            after = codec.encode(self._for_reading())
            if self._depth == 1:  # else the block around this one may still fail, and this one with it
                self._safe = after, self._owner
        finally:
            self._depth -= 1

    def _check_open(self) -> None:
        if self._sealed and not self._depth:
            raise SessionClosed(
                "the session was saved before the answer began; to change it in a streamed body, write inside "
                "`with sessions.session_lock():`"
            )
