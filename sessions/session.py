"""The session of one request: a dictionary that loads itself, locks itself and knows what must be saved.

All rules about sessions stand in this file, none in a backend. In the life of a request a session is

    new       nothing is stored under its id; there is nothing to lock, for nobody else can know the id
    held      loaded and locked (`locked`, `loaded`)
    loaded    without a lock, in the explicit mode only
    let go    saved and unlocked; touching it again acquires and loads again
    gone      deleted, here or by somebody else; what is written now is never stored
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import cherrypy

from . import codec
from .backends.file import FileStore
from .backends.ram import RamStore
from .errors import SessionClosed, StoreError, Unreadable
from .store import Hold, Record, Store, log, reference

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9_-]{20,200}")
_MOVED_SECONDS = 60.0  # how long a session that moved leaves word of it, for requests that were under way by then
_MOVED_SLACK = 1.0  # such a request may have been sent before, and have come in this much after the move
_missing: Any = object()


class ServiceUnavailable(cherrypy.HTTPError):
    """503 with Retry-After: the store did not answer, or the session stayed locked. `__cause__` is the StoreError."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(503, error.public)
        self.retry_after = error.retry_after

    def set_response(self) -> None:
        super().set_response()  # removes Retry-After, as CherryPy does from every error
        cherrypy.serving.response.headers["Retry-After"] = str(self.retry_after)


def _ask(method: Callable[..., T], *args: Any) -> T:
    """Call a method of the store; where it cannot answer, the page is a 503 (rule 15)."""
    try:
        return method(*args)
    except StoreError as error:
        log.warning("%s: %s", type(error).__name__, error)
        raise ServiceUnavailable(error) from error


class Session:
    """A dict-like session; `cherrypy.session` is the one of the current request.

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
        cookie: what has happened to the browser's cookie: None, 'new', 'renewed' or 'expired'.
    """

    store_class: ClassVar[type[Store]]

    # What every session begins with; each is set on the instance when it changes.
    regenerated = False
    locked = False
    loaded = False
    touched = False
    cookie: str | None = None
    _next_id: str | None = None  # the id after a regenerate() that is not saved yet
    _record: Record | None = None
    _hold: Hold | None = None
    _wanted = False  # an explicit load() makes a session worth storing though it is empty
    _proven = False  # the store has known this id in this request
    _moved = False
    _gone = False
    _sealed = False
    _depth = 0  # of session_lock() blocks
    _safe: bytes | None = None  # what session_lock() blocks inside a held session must not lose

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
        self.store = store
        self.timeout = timeout
        self.lifetime = lifetime
        self.locking = locking
        self.lock_timeout = lock_timeout
        self.debug = debug
        self.originalid = id
        self._arrived = store.clock() if arrived is None else arrived
        self._id = id if id and self.is_well_formed(id) else None  # a claim, until a record proves it
        self._missing = bool(id) and self._id is None
        self._data: dict[Any, Any] = {}

    # ---------------------------------------------------------------- identity

    @property
    def id(self) -> str:
        """The id of this session. Where the browser sent one, the store is asked first: an id that it does not know is
        never adopted (rule 2, CherryPy issue 709)."""
        if self._id and not (self._proven or self._gone):
            self._touch()
        if self._next_id is None and self._id is None:
            self._next_id = self.generate_id()
        return self._next_id or self._id or ""

    @property
    def missing(self) -> bool:
        """Whether the browser sent an id that no live session has."""
        if self._id and not (self._proven or self._gone):
            self._touch()
        return self._missing

    @property
    def deadline(self) -> float | None:
        """When the stored session ends if nobody renews it, epoch seconds; None while nothing is stored."""
        return self._record.deadline if self._record else None

    @staticmethod
    def is_well_formed(id: str) -> bool:
        """Whether `id` could be one of ours. Any other is an unknown id without asking the store."""
        return _ID.fullmatch(id) is not None

    def generate_id(self) -> str:
        """A new id: 256 random bits as 43 URL-safe characters (ASVS 7.2.3 asks for 128)."""
        return secrets.token_urlsafe(32)

    def _key(self, id: str) -> str:
        """The store never sees the id: who reads the store cannot use what is read there (rule 3)."""
        return self.store.namespace + hashlib.sha256(id.encode()).hexdigest()

    def _log(self, what: str) -> None:
        if self.debug:
            name = reference(self._key(self._id)) if self._id else "new"
            log.info("session %s: %s", name, what)

    # ---------------------------------------------------------------- lock and load

    def load(self) -> None:
        """Load the stored values, or begin a session that will be stored even if it stays empty."""
        self.loaded = self.loaded and self.locked  # without a lock the stored values may have changed
        self._touch()
        self._wanted = True

    def acquire_lock(self) -> None:
        """Make the session this request's own, and load it afresh. Does nothing if it is already.

        Raises:
            cherrypy.HTTPError: 503, it stayed locked for `lock_timeout` seconds, or the store does not answer.
        """
        self.touched = True
        if self.locked or self._gone:
            return
        if self.loaded and not self._sealed:
            self._write()  # what an explicit-mode page wrote before it asked for the lock
        if self._gone or self._id is None:
            self.loaded = self.locked = True
            return
        self._log("waiting for the lock")
        self._hold = _ask(self.store.acquire, self._key(self._id), self.lock_timeout)
        self.locked = True
        self._log("locked")
        self._take(self._hold.record)

    def release_lock(self) -> None:
        """Save what changed and let go. Touching the session again acquires and loads again."""
        if self.locked:
            self.save()

    def _touch(self) -> None:
        """Before each access: whatever it takes to have the values here."""
        self.touched = True
        if self.loaded:
            return
        if self._gone or self._id is None:
            self.loaded = True
            self.locked = self.locking != "explicit"  # nobody else can know the id
        elif self.locking == "explicit" or self._sealed:
            self._take(_ask(self.store.load, self._key(self._id)))
        else:
            self.acquire_lock()

    def _take(self, record: Record | None) -> None:
        """Adopt what the store had under our id, or find that it had nothing."""
        self.loaded = True
        if record is not None and not record.data:
            # A request that was under way while the session moved must not answer with a cookie of its own: the
            # browser would put it over the new one, and a visitor who has just signed in would be signed out.
            self._moved = self._arrived <= record.created + _MOVED_SLACK
            self._forget()
        elif record is None or self._expired(record):
            if record is not None:
                self._log("expired")
                self._destroy()
            self._forget()
        else:
            try:
                self._data = codec.decode(record.data)
            except Unreadable as error:
                self._set_aside(error)
                self._forget()
            else:
                self._record = record
                self._proven = True
                self._log("loaded")

    def _forget(self) -> None:
        """The stored session does not exist (any more): this one is new, or gone if it was there a moment ago."""
        if self._hold:
            self._hold.release()
            self._hold = None
        self._gone = self._proven
        self._missing = not self._proven
        self._id = self._record = None
        self._data = {}

    def _set_aside(self, error: Unreadable) -> None:
        assert self._id is not None  # noqa: S101 -- only a stored session gets here
        hold = self._hold or _ask(self.store.acquire, self._key(self._id), self.lock_timeout)
        self._hold = None
        _ask(hold.set_aside, error)

    def _destroy(self) -> None:
        """Delete the stored record, through the hold if there is one."""
        hold, self._hold = self._hold, None
        if hold:
            _ask(hold.delete)
        elif self._id:
            _ask(self.store.delete, self._key(self._id))

    def _expired(self, record: Record) -> bool:
        now = self.store.clock()
        return now >= record.deadline or (
            self.lifetime is not None and now >= record.created + self.lifetime * 60
        )

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
        safe, self._safe = self._safe, None
        hold, self._hold = self._hold, None
        self.locked = self.loaded = False
        if hold:
            if safe is not None and hold.record and safe != hold.record.data:
                _ask(hold.commit, Record(safe, hold.record.created, hold.record.deadline))
            else:
                _ask(hold.release)

    def seal(self) -> None:
        """The answer is on its way: from now on values change inside session_lock() only (rule 19)."""
        self._sealed = True

    def _write(self) -> None:
        if self._gone or not self.loaded:
            return
        data = codec.encode(self._data)
        self._safe = None
        if self._record is None:
            if (self._data or self._wanted) and not self._moved:
                self._create(data)
        elif self._next_id:
            self._move(data)
        else:
            self._update(data, self._record)

    def _create(self, data: bytes) -> None:
        if self._sealed:
            raise SessionClosed("a session cannot begin in a streamed body: its cookie would have had to go before it")
        now = self.store.clock()
        id = self.id
        self._adopt(id, self._store_new(id, data, created=now, now=now))
        self._log("created")

    def _store_new(self, id: str, data: bytes, *, created: float, now: float) -> Record:
        record = Record(data, created, self._deadline(created, now))
        _ask(self.store.create, self._key(id), record)
        return record

    def _adopt(self, id: str, record: Record) -> None:
        self._id, self._next_id, self._record, self._proven = id, None, record, True
        self.cookie = "new"

    def _move(self, data: bytes) -> None:
        """Store the session under its next id, then leave word under the old one that it has moved."""
        assert self._record and self._next_id  # noqa: S101 -- see _write
        if self._sealed:
            raise SessionClosed("a session cannot get a new id in a streamed body: its cookie has gone before it")
        now = self.store.clock()
        new_id = self._next_id
        record = self._store_new(new_id, data, created=self._record.created, now=now)
        if self._overwrite(Record(b"", now, now + _MOVED_SECONDS)):
            self._log("moved to a new id")
            self._adopt(new_id, record)
        else:
            _ask(self.store.delete, self._key(new_id))
            self._lost()

    def _update(self, data: bytes, before: Record) -> None:
        """Write if the values changed, or a tenth of the timeout has passed since the deadline was set (rule 7)."""
        now = self.store.clock()
        deadline = self._deadline(before.created, now)
        # Counted from the deadline, so that nothing else has to be stored. At the absolute limit it stands still.
        last_renewal = before.deadline - self.timeout * 60
        renew = abs(now - last_renewal) >= self.timeout * 6 and abs(deadline - before.deadline) > 0.001
        if data == before.data and not renew:
            self._log("unchanged")
            return
        record = Record(data, before.created, deadline if renew else before.deadline)
        if self._overwrite(record):
            self._record = record
            if renew:
                self.cookie = self.cookie or "renewed"
            self._log("saved and renewed" if renew else "saved")
        else:
            self._lost()

    def _overwrite(self, record: Record) -> bool:
        assert self._id is not None  # noqa: S101 -- only a stored session gets here
        hold, self._hold = self._hold, None
        if hold:
            return _ask(hold.commit, record)
        return _ask(self.store.replace, self._key(self._id), record)

    def _lost(self) -> None:
        """The session was deleted while this request used it. What it wrote is not stored: that would revive it."""
        assert self._id is not None  # noqa: S101 -- only a stored session gets here
        log.info("session %s was deleted meanwhile; nothing was saved", reference(self._key(self._id)))
        self._gone = True

    def _deadline(self, created: float, now: float) -> float:
        idle = now + self.timeout * 60
        return idle if self.lifetime is None else min(idle, created + self.lifetime * 60)

    # ---------------------------------------------------------------- ends and new beginnings

    def delete(self) -> None:
        """Destroy the stored session, now, and expire its cookie. Final for this request: what is written later is
        never stored, and who sends the old id again is a stranger (rule 8, ASVS 7.4.1)."""
        self.touched = True
        self._destroy()
        self.cookie = "expired" if self._id or self.originalid else None
        self._gone = True
        self._data = {}
        self._record = self._id = self._next_id = self._safe = None
        self.locked = False

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
        before = codec.encode(self._data)
        self._depth += 1
        try:
            yield
        except BaseException:
            self._data = codec.decode(before)
            raise
        else:
            self._safe = codec.encode(self._data)
        finally:
            self._depth -= 1

    # ---------------------------------------------------------------- the dictionary

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

    def __getitem__(self, key: Any) -> Any:
        return self._for_reading()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._for_writing()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._for_writing()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._for_reading()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._for_reading())

    def __bool__(self) -> bool:
        """Whether the session holds data."""
        return bool(self._for_reading())

    def __len__(self) -> int:
        """How many live sessions there are, as in CherryPy.

        Raises:
            NotImplementedError: the backend cannot count.
        """
        return _ask(self.store.count)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of `key`, or `default`."""
        return self._for_reading().get(key, default)

    def pop(self, key: Any, default: Any = _missing) -> Any:
        """Remove `key` and return its value, or `default` if given.

        Raises:
            KeyError: no such key and no default.
        """
        data = self._for_writing()
        return data.pop(key) if default is _missing else data.pop(key, default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """The value of `key`, which becomes `default` if there is none."""
        return self._for_writing().setdefault(key, default)

    def update(self, other: Mapping[Any, Any] | None = None, /, **values: Any) -> None:
        """Take over all values of `other`, and the named ones."""
        self._for_writing().update(other or {}, **values)

    def clear(self) -> None:
        """Remove all values. The session itself stays; `delete` ends it."""
        self._for_writing().clear()

    def keys(self) -> KeysView[Any]:
        """The keys."""
        return self._for_reading().keys()

    def values(self) -> ValuesView[Any]:
        """The values."""
        return self._for_reading().values()

    def items(self) -> ItemsView[Any, Any]:
        """Pairs of key and value."""
        return self._for_reading().items()


class RamSession(Session):
    """A session in the memory of this process. Gone when it ends, unless `snapshot_path` is given."""

    store_class = RamStore


class FileSession(Session):
    """A session in a file under `storage_path`. Survives a restart; shared by all processes of the machine."""

    store_class = FileStore


def cookie_age(session: Session) -> int:
    """Seconds until the stored session ends, rounded up: what Max-Age says."""
    deadline = session.deadline
    return 0 if deadline is None else max(0, math.ceil(deadline - session.store.clock()))
