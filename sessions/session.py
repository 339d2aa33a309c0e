"""`cherrypy.session`: the session of one request as pages see it."""

from __future__ import annotations

import math
from typing import ClassVar

from .backends.cookie import CookieStore
from .backends.file import FileStore
from .backends.functions import FunctionStore
from .backends.memcached import MemcachedStore
from .backends.postgresql import PostgresqlStore
from .backends.ram import RamStore
from .limits import Limits
from .record import reference
from .signing import Signed
from .store import Store
from .stored import Stored, ask


class Session(Signed):
    """A dict-like session. It loads and locks itself when it is first used, and is saved by the tool. `Life` documents
    the arguments.

    Attributes:
        settings: the options of the tool.
        timeout: minutes it lives without being used.
        regenerated: whether `regenerate` was called in this request.
        locked: whether this request alone may use the session now.
        loaded: whether the values are here.
        touched: whether the request used the session at all; if so its answer depends on the cookie.
        on_first_use: called when it does.
        cookie: what has happened to the browser's cookie: None, 'new', 'renewed' or 'expired'.
    """

    store_class: ClassVar[type[Store]]

    @property
    def originalid(self) -> str | None:
        """The id as the browser sent it. May be malformed, unknown or hostile: never show or store it."""
        self.read_cookie()
        return self._originalid

    @property
    def lifetime(self) -> float | None:
        """Minutes it lives at most since it began, or None."""
        return self.settings.lifetime

    @property
    def when_remembered(self) -> Limits:
        """Both limits for a user who asked to stay signed in."""
        return self.settings.when_remembered

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
    def key(self) -> str | None:
        """What the store knows this session by, once it is proved that it does."""
        return self._stored.key if self._stored and self._stored.record else None

    @property
    def claimed_key(self) -> str:
        """The key of the session that the browser claims or has; empty where there is none. Nothing is proved by it."""
        self.read_cookie()
        return self._stored.key if self._stored else ""

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

    @property
    def known(self) -> dict[str, str]:
        """What is known of this session without asking the store: its masked reference, that of its next id if it is
        about to get one, and its account."""
        key = self.store.key_of(self._next_id) if self._next_id else self.key
        return {"session": reference(key) if key else "", "account": self._owner.user}

    def clean_up(self) -> None:
        """Remove every expired session of the store; a thread of its own does this every `clean_freq` minutes."""
        while self.store.purge(1000) == 1000:
            pass

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
    """A session in the browser's cookie, encrypted. CookieSession cannot revoke or lock across processes, cannot list
    the sessions of a user, and cannot resist replay: a copy of an old cookie works until it expires."""

    store_class = CookieStore


class FunctionSession(Session):
    """A session wherever two functions of the site put it. FunctionSession cannot lock across processes or list the
    sessions of a user: two functions give it no means to."""

    store_class = FunctionStore


class PostgresqlSession(Session):
    """A session in a row of a PostgreSQL table. PostgresqlSession cannot end a session at once that another request
    holds: it waits for that request, 10 seconds at most."""

    store_class = PostgresqlStore


class MemcachedSession(Session):
    """A session in Memcached, shared by several machines. MemcachedSession may evict: the server drops sessions when
    its memory is full or it restarts. Where it drops the list of a user's sessions, each is hidden from that user until
    it is next renewed."""

    store_class = MemcachedStore
