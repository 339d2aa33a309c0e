"""The live sessions of a user: who else is signed in, and how to end that (ASVS 7.4.3, 7.4.5, 7.5.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cherrypy

from . import codec
from .audit import note
from .errors import CannotList, Unreadable
from .limits import Limits
from .owner import revoke
from .record import Record, reference
from .session import Session
from .settings import Settings
from .store import Store
from .stored import ask


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session of which the store knows. Times are epoch seconds.

    Attributes:
        reference: its masked name.
        user: whose it is; empty for a visitor who has not signed in.
        started: when the user signed in, or the session began.
        seen: when it was last used, to a tenth of the idle limit.
        ends: when it ends if it is not used again.
        remembered: the user asked to stay signed in.
        values: what is in it.
        current: it is that of the request that asks.
    """

    reference: str
    user: str
    started: float
    seen: float
    ends: float
    remembered: bool
    values: dict[Any, Any]
    current: bool


class Directory:
    """The live sessions of a store.

    Args:
        store: where they are.
        settings: the limits they live under, and the accounts they belong to.
        current: the key of the session of this request, or None.
    """

    def __init__(self, store: Store, settings: Settings, current: str | None = None) -> None:
        self._store, self._settings, self._current = store, settings, current

    def list(self, user: str | None = None) -> list[LiveSession]:
        """The sessions of a user, or with None of everybody, those used last first.

        Raises:
            CannotList: the backend cannot tell.
        """
        found = [self._described(key, record) for key, record in self._live(user)]
        return sorted(found, key=lambda session: (session.current, session.seen), reverse=True)

    def end(self, user: str | None, reference_: str | None = None) -> int:
        """End the sessions of a user, or with None of everybody, but not the one of this request; how many it were.

        Args:
            reference_: end only the ones of this reference.

        Raises:
            CannotList: the backend cannot find them.
        """
        ended = 0
        for key, record in list(self._live(user)):
            if key != self._current and reference_ in (None, reference(key)):
                ask(self._store.delete, key)
                note("session was revoked", key, account=record.user)
                ended += 1
        return ended

    def end_all(self, user: str) -> int | None:
        """End all sessions of a user, but not the one of this request, by every means there is; how many were found
        and deleted, or None where the backend cannot tell and only the accounts have ended them.

        The session of this request must be signed in again after this, or it ends with the others.

        Raises:
            CannotList: the backend cannot find them, and the site has no `accounts` to say that they have ended.
        """
        accounts = self._settings.accounts
        if accounts:
            revoke(accounts, user)
            note("all sessions of the account were revoked", account=user)
        try:
            return self.end(user)
        except CannotList:
            if accounts is None:
                raise
            return None

    def _live(self, user: str | None) -> Iterator[tuple[str, Record]]:
        now = self._store.clock()
        for key, record in ask(lambda: list(self._store.live(user))):
            if record.data and (user is None or record.user == user) and not self._limits(record).expired(record, now):
                yield key, record

    def _limits(self, record: Record) -> Limits:
        return self._settings.when_remembered if record.remembered else self._settings.limits

    def _described(self, key: str, record: Record) -> LiveSession:
        try:
            values = codec.decode(record.data)
        except Unreadable:
            values = {}
        limits = self._limits(record)
        ends = min(record.deadline, limits.deadline(record.created, record.deadline))
        return LiveSession(
            reference(key), record.user, record.created, limits.seen(record), ends, record.remembered, values,
            key == self._current,
        )  # fmt: skip


def _here() -> tuple[Session, str | None, Directory]:
    session: Session = cherrypy.serving.session
    user = session.user  # first, for it loads the session: one without a key would end itself among the others
    return session, user, Directory(session.store, cherrypy.serving.request.session_settings, session.key)


def live_sessions() -> list[LiveSession]:
    """The live sessions of the user who is signed in, this one first.

    Raises:
        CannotList: the backend cannot tell.
        cherrypy.HTTPError: 503, the store does not answer.
    """
    _, user, directory = _here()
    return directory.list(user) if user else []


def end_session(reference: str) -> bool:
    """End another session of the user who is signed in; whether there was one of this reference.

    Raises:
        CannotList: the backend cannot tell.
        cherrypy.HTTPError: 503, the store does not answer.
    """
    _, user, directory = _here()
    return bool(user and directory.end(user, reference))


def end_other_sessions() -> int | None:
    """End all other sessions of the user who is signed in, and give this one a new id; how many were found and deleted,
    None where the backend cannot tell.

    Raises:
        CannotList: the backend cannot find them, and the site has no `accounts` to say that they have ended.
        cherrypy.HTTPError: 503, the store does not answer.
    """
    cherrypy.serving.session.acquire_lock()  # loaded again after this, it would be one of those that have ended
    session, user, directory = _here()
    if not user:
        return 0
    remembered = session.remembered
    ended = directory.end_all(user)
    session.sign_in(user, remembered)
    return ended
