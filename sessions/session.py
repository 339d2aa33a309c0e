"""`cherrypy.session`: the whole life of the session of one request.

What happens on `cherrypy.session["n"] += 1`, read downwards: `__getitem__` finds no values and calls `_load`, which
takes the id from the browser's cookie, has the store lock and load its record (`Store.acquire`), and applies that;
`__setitem__` changes a dictionary and notes it. When the page is made, the tool calls `save`, which encodes the values,
compares them with the record (`_update`), stores what has changed and unlocks, in one step (`Hold.commit`).
"""

from __future__ import annotations

import datetime as dt
import enum
import math
import secrets
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlencode

import cherrypy

from . import codec
from .cookies import presented
from .errors import CorruptRecord, CrossSiteRequest, LockTimeout, NoRoom, SessionClosed, StoreError, TooLarge
from .events import log, publish, watchers
from .options import LONGEST, Settings
from .record import SESSION, TOMBSTONE, Limits, Record, reference
from .store import Hold, Store
from .users import ANONYMOUS, Identity, is_revoked, valid_since

_CANDIDATES = 4  # cookies of the session's name that the store is asked for; malformed ones do not count
_MOVED_SLACK = 1.0  # seconds after a move in which a request may still come in that was sent before it


State = enum.Enum("State", "CLAIMED NEW HELD LOADED RELEASED DELETED")  # see `Session`
CLAIMED, NEW, HELD, LOADED, RELEASED, DELETED = State  # looked up once: each request asks a dozen times


class Session(MutableMapping[Any, Any]):
    """The values of a visitor, as a dictionary that locks and loads itself when it is first used, and is saved by the
    tool.

    ===========  ==========================  ==========================  =======================  ======================
    state        what it is                  a value is used             acquire_lock()           save(), release_lock()
    ===========  ==========================  ==========================  =======================  ======================
    CLAIMED      not used in this request    -> HELD, or LOADED in the   -> HELD, or NEW          stays
                 (the browser may name an    explicit mode and in a
                 id; the store was not       streamed body; NEW if the
                 asked)                      store knows no such id
    NEW          nothing is stored; nobody   stays                       stays                    -> RELEASED, stored if
                 else can know its id                                                             it has values
    HELD         loaded, and ours alone      stays                       stays                    -> RELEASED
    LOADED       loaded without a lock       stays                       saves, then -> HELD;     -> RELEASED;
                                                                         DELETED if it has gone   release_lock() stays
                                                                         meanwhile
    RELEASED     saved, or known to have     as CLAIMED; DELETED if it   as CLAIMED; DELETED if   stays
                 nothing to save; unlocked   has gone meanwhile          it has gone meanwhile
    DELETED      ended, here or by another   stays: empty, and never     stays                    stays
                 request; or the store       stored again
                 has failed
    ===========  ==========================  ==========================  =======================  ======================

    `delete()` leads from every state to DELETED. `rollback()` goes where `save()` goes and stores nothing. A save that
    finds the session deleted meanwhile ends in DELETED.
    """

    __slots__ = (
        "_arrived", "_data", "_depth", "_header", "_hold", "_id", "_identity", "_key", "_missing", "_moved_to",
        "_next_id", "_originalid", "_others", "_persist", "_record", "_savepoint", "_state", "_timeout", "_written",
        "cookie", "may_begin", "regenerated", "sealed", "settings", "store",
    )  # fmt: skip

    store_class: ClassVar[type[Store]]

    def __init__(self, store: Store, settings: Settings, cookie_header: str = "", arrived: float | None = None) -> None:
        self.store, self.settings = store, settings
        self.cookie: str | None = None  # what has happened to the browser's: 'new', 'renewed' or 'expired'
        self.regenerated = False  # whether `regenerate` was called in this request
        self.sealed = False  # whether the answer is on its way; from then on only session_lock() may write (rule 19)
        self.may_begin = True  # False: the browser may have a session, and was not to send it; see `CrossSiteRequest`
        self._state = CLAIMED
        self._header = cookie_header
        self._arrived = store.clock() if arrived is None else arrived  # epoch seconds
        self._originalid: str | None = None
        self._missing = False  # whether no live session has the id that the browser sent, as far as was asked
        self._id = self._key = ""  # a claim, until a record proves it
        self._others: list[tuple[str, str]] = []  # more ids that the browser named, with their keys
        self._moved_to = ""  # the key that the id which the browser named has moved to
        self._next_id = ""  # the id after a regenerate() that is not saved yet, or of a new session
        self._hold: Hold | None = None
        self._record: Record | None = None  # as the store had it last, as far as this request knows
        self._data: dict[Any, Any] | None = None  # None: not loaded
        self._identity = ANONYMOUS
        self._timeout: float | None = None  # minutes, where this session has its own
        self._written = False  # whether somebody may have changed a value since it was loaded
        self._savepoint: tuple[str, Identity, float | None] | None = None  # what session_lock() blocks must not lose
        self._depth = 0  # of session_lock() blocks
        # Whether a new session is stored. None: if it has values. True: in any case, for load() was called. False:
        # never, for it has gone on under another id, and its cookie would sign out who has just signed in.
        self._persist: bool | None = None

    # ---------------------------------------------------------------- the values

    def __getitem__(self, key: Any) -> Any:
        data = self._data
        return (self._load() if data is None else data)[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        data = self._data
        if data is None or self.sealed:
            data = self._open()
        self._written = True
        data[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._open()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def clear(self) -> None:
        """Remove all values, and who is signed in. The session itself stays; `delete` ends it."""
        self._open().clear()
        self._identity = ANONYMOUS

    def _loaded(self) -> dict[Any, Any]:
        """Return the values for reading."""
        return self._load() if self._data is None else self._data

    def _open(self) -> dict[Any, Any]:
        """Return the values for changing."""
        data = self._loaded()
        self._check_open()
        self._written = True
        return data

    def _check_open(self) -> None:
        if self._state is NEW and not self.may_begin:
            raise CrossSiteRequest
        if self.sealed and not self._depth:
            raise SessionClosed(
                "the session is saved: in a streamed body, or in a hook at on_end_resource or on_end_request, write "
                "inside `with sessions.session_lock():`; at before_finalize, with a priority below 90"
            )

    # ---------------------------------------------------------------- locking and loading

    def load(self) -> None:
        """Load the stored values, or begin a session that will be stored even if it stays empty."""
        if self._state is LOADED:  # without a lock the stored values may have changed
            self._release()
        self._loaded()
        if self._persist is None:
            self._persist = True

    def acquire_lock(self) -> None:
        """Make the session this request's own, and load it afresh. Does nothing if it is already."""
        if self._state is LOADED:  # what a page in the explicit mode wrote before it asked for the lock is saved
            self._release() if self.sealed else self.save()
        if not self.locked:
            self._load(locked=True)

    def release_lock(self) -> None:
        """Save what changed, and unlock, as `save` does."""
        if self.locked:
            self.save()

    def _read_cookie(self, use: bool = False) -> None:
        """Find out what the browser claims; `use` says that this request goes on to use it."""
        if self._state is not CLAIMED:
            return
        header, claim = self._header, None
        values = self.settings.cookie_pattern.findall(header) if header else []
        if "cookie" in cherrypy.serving.request.__dict__:  # somebody asked for the cookies, and may have set this one
            values = presented(self.settings.name, header, values)
        if values[1:]:  # a cookie with another Path or Domain, left over from a time with other settings
            found = filter(None, map(self.store.find, dict.fromkeys(values)))
            self._others = list(islice(found, _CANDIDATES))
            claim = self._others.pop(0) if self._others else None
        elif values:
            claim = self.store.find(values[0])
        self._originalid, self._missing = values[0] if values else None, values != [] and claim is None
        self._id, self._key = claim or ("", "")
        if use:
            self._state = RELEASED
            if self._missing:
                publish("malformed")

    def _load(self, locked: bool | None = None) -> dict[Any, Any]:
        """Find the session that the browser names, and return its values. Lock it if `locked`; None: if the option
        `locking` says so."""
        self._read_cookie(use=True)
        if locked is None:
            locked = self.settings.locking != "explicit" and not self.sealed
        while (key := self._key) and self._state is not DELETED:
            try:
                if locked:
                    if watchers:
                        publish("asked", key)
                    self._hold = hold = self.store.acquire(key, self.settings.lock_timeout)
                    if watchers:
                        publish("locked", key)
                    if hold.key is not key:
                        self._take_key(hold)
                    data = self._apply_record(hold.record, key)
                else:
                    data = self._apply_record(self.store.load(key), key)
            except CorruptRecord:
                locked = True  # whoever holds it quarantines it
                continue
            except BaseException:  # the accounts do not answer, for one: nothing is known, and nothing may be saved
                self._release()
                raise
            if data is not None:
                self._state = HELD if locked else LOADED
                self._data, self._missing = data, False
                return data
            self._give_up_claim()
        return self._begin()

    def _begin(self) -> dict[Any, Any]:
        """Go on with an empty session, which is stored when it is saved unless it has been deleted."""
        if self._state is not DELETED:
            self._state = NEW
            if not self.may_begin:
                self.sealed, self._persist = True, False
        self._data = {}
        return self._data

    def _give_up_claim(self) -> None:
        """Go on to the next id that the browser named, if this one was not the session's a moment ago."""
        self._release()
        if self._record:
            self._state = DELETED
        else:
            self._missing = True
            self._id, self._key = self._others.pop(0) if self._others else ("", "")

    def _take_key(self, hold: Hold) -> None:
        """Note under which key the session is found from now on: where the cookie is the store, it has changed."""
        if self.sealed:
            raise SessionClosed("the session is in its cookie, which has gone before the streamed body")
        self._key, self.cookie = hold.key, "new"

    def _apply_record(self, record: Record | None, key: str) -> dict[Any, Any] | None:
        """Return the values of the record if it is that of a live session, and adopt the rest of it."""
        if record is None:
            if self._record is None:
                publish("unknown", key, why="the store has none of this id")
            return None
        if record.kind != SESSION:
            if record.kind == TOMBSTONE:
                self._moved_to = record.data
            if record.kind == TOMBSTONE and self._arrived <= record.created + _MOVED_SLACK:
                self._persist = False
            else:  # somebody has kept the old cookie
                publish("unknown", key, why="it has moved to another id")
            return None
        settings, now = self.settings, self.store.clock()
        limits = settings.limits_of(record) if record.user or record.timeout else settings.limits
        if now >= record.deadline or (limits.lifetime and limits.expired(record, now)):
            self._end(record, key, "expired")
            return None
        if record.user and is_revoked(record, settings.accounts):
            self._end(record, key, "revoked")
            return None
        try:
            data = codec.decode(record.data)
        except CorruptRecord as error:
            self._end(record, key, error)
            return None
        self._record = record
        self._identity = Identity(record.user, record.remembered) if record.user else ANONYMOUS
        self._timeout, self._written = record.timeout, False
        if watchers:
            publish("loaded", key, record=record, locked=self._hold is not None)
        return data

    def _end(self, record: Record, key: str, why: str | CorruptRecord) -> None:
        """Destroy a record that is over, or quarantine it, unless another request has changed it meanwhile."""
        hold, self._hold = self._hold, None
        if hold is None:
            try:
                hold = self.store.acquire(key, 0)
            except LockTimeout:  # another request may just be renewing it
                return
        if hold.record != record:
            hold.release()
        elif isinstance(why, CorruptRecord):
            hold.quarantine(why)
        else:
            hold.delete()
            publish(why, key, record=record)

    # ---------------------------------------------------------------- saving and releasing

    def save(self) -> None:
        """Save what changed, and unlock. Using the session again acquires and loads it again.

        Raises:
            UnstorableValue: a value cannot be stored; the stored session stays as it was.
            StoreError: the store does not answer, or the values are too large; the page is a 503 or 413.
        """
        data, before = self._data, self._record
        if data is None:
            return
        self._savepoint = None
        try:
            if self._state is DELETED:
                return
            if before and not self._written and codec.IMMUTABLE.issuperset(map(type, data.values())):
                text = before.data  # nobody asked to write, and no value can be changed from within
            else:
                text = codec.encode(data)
            if before and not self._next_id:
                self._update(text, before)
            elif before or ((data or self._persist or self._identity.user) and self._persist is not False):
                self._create(text, before)
            elif watchers:
                publish("unsaved", why="there is nothing to keep")
        except TooLarge as error:
            error.args = (f"{error}; its largest values: {codec.sizes(codec.encode(data))}",)
            raise
        finally:
            self._release()

    def rollback(self) -> None:
        """Unlock without saving what this request changed since the last save or session_lock() block."""
        if self._savepoint is None:
            self._timeout = None
            self._release()
        else:  # under the next id, if there is one: a login must not stay under a planted id
            self._restore(self._savepoint)
            self.save()

    def abandon(self) -> None:
        """Be empty for the rest of this request, and store nothing: the store has failed, and would again."""
        with suppress(StoreError):
            self._release()
        self._state, self.sealed = DELETED, False

    def _release(self) -> None:
        hold, self._hold = self._hold, None
        self._data = self._savepoint = None
        self._identity = ANONYMOUS
        if self._state is not DELETED and self._state is not CLAIMED:
            self._state = RELEASED
        if self._record:
            self._next_id = ""
        if hold:
            hold.release()
            if watchers:
                publish("unlocked", hold.key)

    def _update(self, text: str, before: Record) -> None:
        """Save if the values changed, or a tenth of the timeout has passed since the deadline was set (rule 7)."""
        user, remembered, _ = self._identity
        key, now = self._key, self.store.clock()
        limits = self.limits if user or self._timeout else self.settings.limits
        if self._timeout == before.timeout and remembered == before.remembered:
            deadline = limits.renewed(before, now)
        else:
            deadline = limits.deadline(before.created, now)
        record = Record(text, before.created, deadline, user, remembered, self._timeout)
        if watchers:
            publish("compared", key, changed=text != before.data)
        if record == before:
            if watchers:
                publish("unsaved", key, why="nothing has changed, and it was renewed not long ago")
            return
        hold, self._hold = self._hold or self.store.acquire(key, self.settings.lock_timeout), None
        if not hold.commit(record):
            self._lose(key)
            return
        self._record = record
        if hold.key is not key:
            self._take_key(hold)
        if self.cookie is None and deadline != before.deadline:
            self.cookie = "renewed"
        if watchers:
            publish("saved", key, record=record, how="renewed" if text == before.data else "changed")
            publish("unlocked", key)

    def _create(self, text: str, before: Record | None) -> None:
        """Save under a new id, which nobody can know before the answer has gone out, and so without a lock; then leave
        a tombstone under the old id, if there is one (rule 9)."""
        if self.sealed:
            raise SessionClosed("a session cannot begin, or get a new id, when its cookie can no longer be sent")
        now, id, old = self.store.clock(), self._next_id or self.generate_id(), self._key
        user, remembered, proved_at = self._identity
        created = proved_at or (before.created if before else now)
        record = Record(text, created, self.limits.deadline(created, now), user, remembered, self._timeout)
        try:
            key = self.store.create(self.store.key_of(id), record)
            tombstone = Record.tombstone(key, now)
            moved = not before or self._leave_tombstone(tombstone)
        except NoRoom as error:
            if user or not before or (self._data and not before.user):
                raise
            log.warning("session %s: nothing is left of it, for nothing can be stored: %s", reference(old), error)
            self.delete()  # who signs out is signed out
            return
        if not moved:
            self._lose(old)
            return
        self._id, self._key, self._record, self._next_id, self.cookie = id, key, record, "", "new"
        if watchers:
            publish("saved", key, record=record, how="created")
        if before:
            if before.user:
                self.store.leave(old, before.user)
            publish("moved", key, account=user or before.user, before=reference(old))
            if watchers:
                publish("saved", old, record=tombstone, how="moved")
                publish("unlocked", old)

    def _leave_tombstone(self, tombstone: Record) -> bool:
        """Return whether the session has moved; if it has not, remove what is stored under its new id."""
        hold, self._hold, moved = self._hold, None, False
        try:
            moved = hold is not None and hold.commit(tombstone)
        finally:
            if not moved:
                with suppress(StoreError):
                    self.store.delete(tombstone.data)
        return moved

    def _lose(self, key: str) -> None:
        """The session was deleted while this request used it. What it wrote is not stored: that would revive it."""
        publish("lost", key)
        if watchers:
            publish("unlocked", key)
        self._state = DELETED

    @contextmanager
    def lock(self, completes: Callable[[BaseException], bool] = lambda error: False) -> Iterator[Self]:
        """Hold the session for a block; see `sessions.session_lock`. `completes` says whether a block that raises this
        error has done its work all the same.

        A block in a session that is held already leaves the lock to whoever took it first, and is saved together with
        the rest; but for certain, even if the handler ends in a 5xx.
        """
        before, done = self._snapshot() if self.locked else None, True
        self.acquire_lock()
        self._depth += 1
        try:
            yield self
        except BaseException as error:
            done = completes(error)
            raise
        finally:
            self._depth -= 1
            if before is None:
                self.save() if done else self.rollback()
            elif not done:
                self._restore(before)
            elif not self._depth:  # else the block around this one may still fail, and this one with it
                self._savepoint = self._snapshot()

    def _snapshot(self) -> tuple[str, Identity, float | None]:
        return codec.encode(self._loaded()), self._identity, self._timeout

    def _restore(self, snapshot: tuple[str, Identity, float | None]) -> None:
        if self._state is not DELETED:
            text, self._identity, self._timeout = snapshot
            self._data, self._written = codec.decode(text), True

    # ---------------------------------------------------------------- who it belongs to, and its end

    def regenerate(self) -> None:
        """Give the session a new id, keep its values, and end the old id when the request is saved.

        Call it wherever somebody's rights change, above all at login: whoever planted or saw the old id must not have
        the new one (session fixation; ASVS 7.2.4). CherryPy's own drops the values that were not loaded yet.
        """
        self._check_open()
        self.acquire_lock()  # in every mode: two requests must not move one session
        self._check_open()
        self.regenerated = True
        self._persist = self._persist or None
        if self._state is not DELETED:
            self._next_id = self.generate_id()

    def delete(self) -> None:
        """Destroy the stored session, now, and expire its cookie. Final for this request: what is written later is
        never stored, and a replay of the old id is anonymous (rule 8, ASVS 7.4.1)."""
        self._read_cookie(use=True)
        hold, self._hold = self._hold, None
        if self._key:
            self._destroy(self._key, hold)
        self._destroy_others()
        self.cookie = "expired" if self._record or self._originalid else None
        self._state, self._data, self._identity = DELETED, {}, ANONYMOUS
        self._id = self._key = self._next_id = ""
        self._record = self._savepoint = None

    def _destroy(self, key: str, hold: Hold | None = None) -> None:
        hold = hold or self.store.acquire(key, self.settings.lock_timeout)
        record = hold.record
        hold.delete()
        if record:
            publish("deleted", key, account=record.user or self._identity.user)
            if watchers:
                publish("unlocked", key)

    def _destroy_others(self) -> None:
        """Destroy what the browser's other cookies name: the next request would find one of them."""
        while self._others:
            self._destroy(self._others.pop()[1])

    def sign_in(self, user: str, remember: bool = False, proved: float | None = None) -> None:
        """Make this the session of `user`, under a new id, with both limits counted anew.

        Call it also when somebody has proved again who they are. The values stay, unless they are another user's. A
        page that checks the proof for long, by a slow hash, calls `acquire_lock` before: of a form that was sent twice,
        the browser keeps the answer that came last.

        Args:
            user: name of the account; ValueError if it is empty, or no text that can be stored.
            remember: the cookie outlives the browser, and the limits are `remember_timeout` and `remember_lifetime`.
                Otherwise the cookie ends with the browser, whatever `persistent` says.
            proved: epoch seconds at which the proof was looked at: what the account revokes while a password is
                checked, by a new one for instance, revokes this as well. Now if None.
        """
        if not user:
            raise ValueError("the name of a user cannot be empty")
        user.encode()  # a lone surrogate could not be
        self._loaded()
        if self._state is NEW and self._moved_to:
            self._follow(user)
        if self._identity.proved_at is None or self._identity.user != user:  # else it has a new id not yet sent
            self.regenerate()
        if self._identity.user not in ("", user):
            self._open().clear()
        if proved is None:  # a clock that went back must not sign in to a session that is revoked already
            since = valid_since(accounts, user) if (accounts := self.settings.accounts) else None
            proved = max(self.store.clock(), since or 0.0)
        self._identity = Identity(user, remember, proved)

    def _follow(self, user: str) -> None:
        """Go on with the session that the browser's has become, if it is the same user's: the form of a sign-in was
        sent twice, or the first answer never arrived. It moves once more, for nobody else may follow it."""
        for _ in range(_CANDIDATES):
            key, self._moved_to = self._moved_to, ""
            if not key:
                return
            hold = self.store.acquire(key, self.settings.lock_timeout)
            record, data = hold.record, None
            try:
                if record and record.kind == TOMBSTONE:
                    self._moved_to = record.data
                elif record and record.user == user:
                    self._hold = hold
                    data = self._apply_record(record, key)
            finally:
                if data is None:
                    self._hold = None
                    hold.release()
            if data is not None:  # what this request has written stays
                data |= self._data or {}
                self._key, self._data, self._state = key, data, HELD
                self._written, self._missing = True, False

    def sign_out(self) -> None:
        """Remove all values and who is signed in, and move what is left to a new id: the old one is dead, also for
        whoever kept a copy of its cookie (ASVS 7.4.1)."""
        self.regenerate()
        self.clear()
        self._destroy_others()

    @property
    def user(self) -> str | None:
        """The account that is signed in, or None."""
        self._loaded()
        return self._identity.user or None

    @property
    def remembered(self) -> bool:
        """Whether the user asked to stay signed in."""
        self._loaded()
        return self._identity.remembered

    @property
    def signed_in_at(self) -> float | None:
        """When the user last proved who they are, epoch seconds; None for an anonymous session."""
        if self.user is None:
            return None
        return self._identity.proved_at or (self._record.created if self._record else None)

    def require_recent(self, minutes: float) -> None:
        """Go on if the user has signed in within so many minutes; otherwise send the browser to the page of the option
        `proof_page`, and back to what that finds in `next` and has to check: this address, or where a POST came from.

        Raises:
            cherrypy.HTTPRedirect: 303 to that page (ASVS 7.5.1, 7.5.2).
            cherrypy.HTTPError: 403, or 401 if nobody is signed in, where there is no such page or JSON is asked for.
        """
        proved, accounts, page = self.signed_in_at, self.settings.accounts, self.settings.proof_page
        if proved is not None and self.store.clock() <= proved + minutes * 60:
            if not accounts or proved != valid_since(accounts, self._identity.user):  # see end_other_sessions
                return
        request = cherrypy.serving.request
        accept, referer = request.headers.get("Accept", ""), request.headers.get("Referer", "")
        if page and ("text/html" in accept or "application/json" not in accept):
            mounted, path = (quote(part, safe="/!$&'()*+,:=@") for part in (request.script_name, request.path_info))
            here = f"{path}?{request.query_string}" if request.query_string else path
            if request.method not in ("GET", "HEAD"):  # it is not sent again
                here = f"/{referer.partition('://')[2].partition('/')[2]}".removeprefix(mounted)
            raise cherrypy.HTTPRedirect(f"{request.base}{mounted}{page}?{urlencode({'next': here})}", 303)
        if not page and proved is not None:
            log.warning("require_recent has nowhere to send a browser: set tools.sessions.proof_page")
        cherrypy.serving.response.headers["WWW-Authenticate"] = 'Cookie realm="account"'  # RFC 9110 section 11.6.1
        raise cherrypy.HTTPError(*(401, "Sign in first.") if proved is None else (403, "Sign in again for this."))

    # ---------------------------------------------------------------- what it is

    @property
    def state(self) -> State:
        """Where the session is in its life within this request."""
        return self._state

    @property
    def accessed(self) -> bool:
        """Whether this request used the session at all; if so, its answer depends on the cookie."""
        return self._state is not CLAIMED

    @property
    def loaded(self) -> bool:
        """Whether the values are here."""
        return self._data is not None

    @property
    def locked(self) -> bool:
        """Whether this request alone may use the session now."""
        return self._state is HELD or self._state is NEW

    @property
    def originalid(self) -> str | None:
        """The id as the browser sent it. May be malformed, unknown or hostile: never show or store it."""
        self._read_cookie()
        return self._originalid

    @property
    def missing(self) -> bool:
        """Whether the browser sent an id that no live session has."""
        if self._record is None:
            self._loaded()
        return self._missing

    @property
    def id(self) -> str:
        """The id of this session. Where the browser sent one, the store is asked first: an unknown id is never adopted
        (rule 2, CherryPy issue 709)."""
        if not (self._next_id or self._record):
            self._loaded()
        if not (self._next_id or self._record):
            self._next_id = self.generate_id()
        return self._next_id or self._id

    @property
    def key(self) -> str | None:
        """What the store knows this session by, once it is proved that it does."""
        return self._key if self._record else None

    @property
    def claimed_key(self) -> str:
        """The key of the session that the browser claims or has; empty where there is none. It proves nothing."""
        self._read_cookie()
        return self._key

    @property
    def cookie_value(self) -> str:
        """What the browser's cookie must hold for the session to be found again; empty for one that is not stored."""
        return self.store.cookie_value(self._id, self._key) if self._record else ""

    @property
    def cookie_age(self) -> int:
        """Seconds until the stored session ends if nobody renews it, rounded up: what Max-Age says."""
        return max(0, math.ceil(self._record.deadline - self.store.clock())) if self._record else 0

    @property
    def outlives_browser(self) -> bool:
        """Whether the cookie stays when the browser is closed: for who is signed in, if they asked for it."""
        record = self._record
        return record.remembered if record and record.user else self.settings.persistent

    @property
    def limits(self) -> Limits:
        """Both limits of this session."""
        limits = self.settings.when_remembered if self._identity.remembered else self.settings.limits
        return limits if self._timeout is None else Limits(self._timeout, limits.lifetime)

    @property
    def timeout(self) -> float:
        """Minutes that this session lives without being used. Setting it holds from this request's save on, for as long
        as the session lives, and renews it; None goes back to the options."""
        self._loaded()
        minutes = self.limits.timeout
        return int(minutes) if minutes % 1 == 0 else minutes  # as it was set: '300.0' would be no Max-Age

    @timeout.setter
    def timeout(self, minutes: float | None) -> None:
        number = isinstance(minutes, (int, float)) and not isinstance(minutes, bool) and 0 < minutes <= LONGEST
        if minutes is not None and not number:
            raise ValueError(f"session.timeout is {minutes!r:.100}: it must be minutes above 0, at most {LONGEST}")
        self._open()
        self._timeout = None if minutes is None else float(minutes)

    @property
    def known(self) -> dict[str, str]:
        """What is known of this session without asking the store: its short reference, that of its next id if it is
        about to get one, and its account."""
        key = self.store.key_of(self._next_id) if self._next_id else self.key
        return {"session": reference(key) if key else "", "account": self._identity.user}

    def now(self) -> dt.datetime:
        """Return the present moment as CherryPy does: local time without a zone."""
        return dt.datetime.fromtimestamp(self.store.clock())

    @property
    def locking(self) -> str:
        """The option. CherryPy makes attributes of the options, and tools for its sessions ask for these two."""
        return self.settings.locking

    @property
    def debug(self) -> bool:
        """The option."""
        return self.settings.debug

    def generate_id(self) -> str:
        """Return a new id: 256 random bits as 43 URL-safe characters (ASVS 7.2.3 asks for 128)."""
        return secrets.token_urlsafe(32)

    def clean_up(self) -> None:
        """Remove every expired session of the store. A thread of its own does this every `clean_freq` minutes."""
        while self.store.purge(1000) == 1000:
            pass
