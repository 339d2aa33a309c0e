"""`cherrypy.session`: the session of one request as pages see it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from . import codec
from .backends.cookie import CookieStore
from .backends.file import FileStore
from .backends.functions import FunctionStore
from .backends.memcached import MemcachedStore
from .backends.postgresql import PostgresqlStore
from .backends.ram import RamStore
from .errors import SessionClosed
from .life import Life
from .store import Store
from .stored import Stored, ask


class Session(Life):
    """A dict-like session. It loads and locks itself when it is first used, and is saved by the tool.

    Args:
        id: what the browser sent as its session id, or None. Nothing is believed of it before the store knows it.
        store: where the session is kept.
        timeout: minutes it lives without being used; fractions are fine.
        lifetime: minutes it lives at most since it was made, or None.
        locking: 'implicit' (from the first access to the end of the handler), 'early' (before the body is read),
            'explicit' (`acquire_lock`, `release_lock`, `session_lock`).
        lock_timeout: seconds to wait for the lock before the answer is 503.
        arrived: when the request came in, epoch seconds; now if None.
        debug: log each step.

    Attributes:
        originalid: the id as the browser sent it. May be malformed, unknown or hostile: never show or store it.
        regenerated: whether `regenerate` was called in this request.
        locked: whether this request alone may use the session now.
        loaded: whether the values are here.
        touched: whether the request used the session at all; if so its answer depends on the cookie.
        on_first_use: called when it does.
        cookie: what has happened to the browser's cookie: None, 'new', 'renewed' or 'expired'.
    """

    store_class: ClassVar[type[Store]]

    def __init__(
        self,
        id: str | None = None,
        *,
        store: Store,
        timeout: float = 60,
        lifetime: float | None = None,
        locking: str = "implicit",
        lock_timeout: float = 10,
        arrived: float | None = None,
        debug: bool = False,
    ) -> None:
        super().__init__(id, store, timeout, lifetime, locking, lock_timeout, arrived, debug)

    @property
    def id(self) -> str:
        """The id of this session. Where the browser sent one, the store is asked first: an id that it does not know is
        never adopted (rule 2, CherryPy issue 709)."""
        stored = self._proved()
        if self._next_id is None and stored is None:
            self._next_id = self.generate_id()
        return self._next_id or (stored.id if stored else "")

    @property
    def missing(self) -> bool:
        """Whether the browser sent an id that no live session has."""
        self._proved()
        return self._missing

    def _proved(self) -> Stored | None:
        self._use()
        if self._stored and self._stored.record is None:
            self._touch()
        return self._stored

    @property
    def cookie_value(self) -> str:
        """What the browser's cookie must hold for the session to be found again."""
        return self._stored.cookie_value if self._stored else ""

    @property
    def cookie_age(self) -> int:
        """Seconds until the stored session ends if nobody renews it, rounded up: what Max-Age says."""
        record = self._stored.record if self._stored else None
        return max(0, math.ceil(record.deadline - self.store.clock())) if record else 0

    def load(self) -> None:
        """Load the stored values, or begin a session that will be stored even if it stays empty."""
        self.loaded = self.loaded and self.locked  # without a lock the stored values may have changed
        self._touch()
        self._wanted = True

    def delete(self) -> None:
        """Destroy the stored session, now, and expire its cookie. Final for this request: what is written later is
        never stored, and who sends the old id again is a stranger (rule 8, ASVS 7.4.1)."""
        self._use()
        if self._stored:
            self._stored.delete()
        self.cookie = "expired" if self._stored or self.originalid else None
        self._gone = True
        self._stored = self._next_id = self._safe = None
        self._data = {}

    def regenerate(self) -> None:
        """Give the session a new id, keep its values, and end the old id when the request is saved.

        Call it wherever somebody's rights change, above all at login: whoever planted or saw the old id must not have
        the new one (session fixation; ASVS 7.2.4). CherryPy's own drops the values that were not loaded yet.
        """
        self._check_open()
        self.acquire_lock()  # in every mode: two requests must not move one session
        self.regenerated = True
        self._moved = False
        if not self._gone:
            self._next_id = self.generate_id()

    def clean_up(self) -> None:
        """Remove every expired session of the store; a thread of its own does this every `clean_freq` minutes."""
        while self.store.purge(1000) == 1000:
            pass

    @contextmanager
    def lock(self) -> Iterator[Session]:
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
        before = codec.encode(self._for_reading())
        self._depth += 1
        try:
            yield
        except BaseException:
            if not self._gone:
                self._data = codec.decode(before)
            raise
        else:
            after = codec.encode(self._for_reading())
            if self._depth == 1:  # else the block around this one may still fail, and this one with it
                self._safe = after
        finally:
            self._depth -= 1

    def _check_open(self) -> None:
        if self._sealed and not self._depth:
            raise SessionClosed(
                "the session was saved before the answer began; to change it in a streamed body, write inside "
                "`with sessions.session_lock():`"
            )

    def _for_writing(self) -> dict[Any, Any]:
        self._check_open()
        if not self.loaded:
            self._touch()
        return self._data

    def _for_reading(self) -> dict[Any, Any]:
        if not self.loaded:
            self._touch()
        return self._data

    def __len__(self) -> int:
        """How many live sessions there are, as in CherryPy.

        Raises:
            NotImplementedError: the backend cannot count.
        """
        return ask(self.store.count)


class RamSession(Session):
    """A session in the memory of this process. Gone when it ends, unless `snapshot_path` is given."""

    store_class = RamStore


class FileSession(Session):
    """A session in a file under `storage_path`. Survives a restart; shared by all processes of the machine."""

    store_class = FileStore


class CookieSession(Session):
    """A session in the browser's cookie, encrypted. CookieSession cannot revoke or lock across processes, and cannot
    resist replay: a copy of an old cookie works until it expires."""

    store_class = CookieStore


class FunctionSession(Session):
    """A session wherever two functions of the site put it. FunctionSession cannot lock across processes: two functions
    give it no means to."""

    store_class = FunctionStore


class PostgresqlSession(Session):
    """A session in a row of a PostgreSQL table. PostgresqlSession cannot end a session at once that another request
    holds: it waits for that request, 10 seconds at most."""

    store_class = PostgresqlStore


class MemcachedSession(Session):
    """A session in Memcached, shared by several machines. MemcachedSession may evict: the server drops sessions when
    its memory is full or it restarts."""

    store_class = MemcachedStore
