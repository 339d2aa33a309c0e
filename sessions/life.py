"""The life of a session within one request: the rules of locking and loading stand here, none in a backend.

    new       nothing is stored; there is nothing to lock either, for nobody else can know the id
    held      loaded and locked
    loaded    without a lock, in the explicit mode and in a streamed body
    let go    saved and unlocked; touching it again acquires and loads again
    gone      deleted, here or by somebody else: what is written now is never stored

`saving.py` has the rules of saving, `signing.py` those of whose the session is; `Session` is the face that pages see.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import codec
from .audit import note
from .errors import SessionClosed, Unreadable
from .events import publish, watchers
from .limits import Limits
from .owner import NOBODY, Owner, is_revoked
from .record import Record
from .store import Store
from .stored import Stored
from .values import Values

if TYPE_CHECKING:
    from .settings import Settings

_MOVED_SLACK = 1.0  # seconds after a move in which a request may still come in that was sent before it


class Life(Values):
    """Locks and loads.

    Args:
        presented: reads what the browser sent as its session id, or None. It is called when the session is first used:
            most pages use none. Nothing is believed of it before the store knows it.
        store: where the session is kept.
        settings: the options of the tool.
        arrived: when the request came in, epoch seconds; now if None.

    `Session` documents the attributes.
    """

    # What every session begins with; each is set on the instance when it changes.
    regenerated = False
    locked = False
    loaded = False
    touched = False
    cookie: str | None = None
    _read = False  # whether the browser's cookie was looked at
    _originalid: str | None = None
    _told: str | None = None  # the cookie that the browser has
    _stored: Stored | None = None  # a claim, until a record proves it
    _next_id: str | None = None  # the id after a regenerate() that is not saved yet, or of a new session
    _missing = False
    on_first_use: Callable[[], None] | None = None
    _wanted = False  # an explicit load() makes a session worth storing though it is empty
    _moved = False  # it has gone on under another id; this request knows the old one only
    _gone = False
    _sealed = False  # the answer is on its way
    _written = False  # somebody may have changed a value since it was loaded
    _owner = NOBODY

    def __init__(
        self, presented: Callable[[], str | None], *, store: Store, settings: Settings, arrived: float | None = None
    ) -> None:
        self.store = store
        self.settings = settings
        self.timeout = settings.timeout
        self._presented = presented
        self._arrived = store.clock() if arrived is None else arrived
        self._used: list[Stored] = []
        self._data: dict[Any, Any] = {}

    def read_cookie(self) -> None:
        """Find out what the browser claims. Doing it again does nothing."""
        if not self._read:
            self._read = True
            self._originalid = self._told = id = self._presented()
            if id:
                self._stored = Stored.named_by(self.store, id)
                self._missing = self._stored is None
            if self._stored:
                self._used.append(self._stored)

    def generate_id(self) -> str:
        """A new id: 256 random bits as 43 URL-safe characters (ASVS 7.2.3 asks for 128)."""
        return secrets.token_urlsafe(32)

    def _limits(self, remembered: bool) -> Limits:
        return self.settings.when_remembered if remembered else self.settings.limits

    def _use(self) -> None:
        if not self.touched:
            self.touched = True
            self.read_cookie()
            if self._missing:
                note("malformed id presented")
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
        record = self._stored.acquire(self.settings.lock_timeout)
        self.locked = True
        try:
            self._take(self._stored, record)
        except BaseException:  # the accounts do not answer, for one: nothing is known, and nothing may be saved
            self.discard()
            raise

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
            self.locked = self.settings.locking != "explicit"  # nobody else can know the id
        elif self.settings.locking == "explicit" or self._sealed:
            self._take(self._stored, self._stored.load())
        else:
            self.acquire_lock()

    def _take(self, stored: Stored, record: Record | None) -> None:
        """Adopt what the store had, or find that it had nothing."""
        if record is None:
            if stored.record is None:
                note("unknown id presented", stored.key)
            self._forget(stored, "the store has none of this id")
        elif not record.data:
            # A request that was under way while the session moved must not answer with a cookie of its own: the
            # browser would put it over the new one, and a visitor who has just signed in would be signed out.
            self._moved = self._arrived <= record.created + _MOVED_SLACK
            if not self._moved:  # somebody has kept the old cookie
                note("unknown id presented", stored.key)
            self._forget(stored, "it has moved to another id")
        elif self._is_over(stored, record):
            if stored.held:  # else another request may just be renewing it, and the cleaner will come
                stored.delete()
            self._forget(stored, "it has expired, or was revoked")
        else:
            try:
                self._data = codec.decode(record.data)
            except Unreadable as error:
                stored.set_aside(record, error, self.settings.lock_timeout)
                self._forget(stored, "its record cannot be read")
            else:
                stored.record = record
                self._owner, self._written = Owner(record.user, record.remembered), False
                self._check_cookie(stored)
                if watchers:
                    publish("loaded", stored.key, record=record, locked=stored.held)
        self.loaded = True

    def _is_over(self, stored: Stored, record: Record) -> bool:
        if self._limits(record.remembered).expired(record, self.store.clock()):
            note("session has expired", stored.key, account=record.user)
        elif is_revoked(record, self.settings.accounts):
            note("session was revoked", stored.key, account=record.user)
        else:
            return False
        return True

    def _forget(self, stored: Stored, why: str) -> None:
        """The store does not have this session: it is new, or gone if it was there a moment ago."""
        if watchers:
            publish("unknown", stored.key, why=why)
        stored.release()
        self._gone = stored.record is not None
        self._missing = not self._gone
        self._stored = None
        self._data, self._owner = {}, NOBODY

    def _check_cookie(self, stored: Stored) -> None:
        """Where the cookie is the store, it has changed with what is in it."""
        if stored.cookie_value != self._told:
            if self._sealed:
                raise SessionClosed("the session is in its cookie, which has gone before the streamed body")
            self.cookie = "new"

    def _for_writing(self) -> dict[Any, Any]:
        self._check_open()
        if not self.loaded:
            self._touch()
        self._written = True
        return self._data

    def _for_reading(self) -> dict[Any, Any]:
        if not self.loaded:
            self._touch()
        return self._data

    # The other half: see saving.py.

    @abstractmethod
    def save(self) -> None:
        """Save what changed, and let go of the lock."""

    @abstractmethod
    def discard(self) -> None:
        """Let go without saving."""

    @abstractmethod
    def _write(self) -> None:
        """Save what changed, and keep the lock."""

    @abstractmethod
    def _check_open(self) -> None:
        """Refuse a change that would come too late."""
