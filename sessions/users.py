"""Who is signed in, what a site says of its accounts, and the live sessions of a user (ASVS 7.2.4, 7.4, 7.5.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from . import codec
from .errors import CorruptRecord, StoreError, Unavailable, UnreadableValue
from .events import publish
from .record import SESSION, Limits, Record, reference
from .store import Store

T = TypeVar("T")


class Identity(NamedTuple):
    """Who is signed in."""

    user: str = ""
    remembered: bool = False
    proved_at: float | None = None  # epoch seconds of a sign-in in this request


ANONYMOUS = Identity()


class Accounts(Protocol):
    """What a site may tell the session tool, with the option `accounts`. The sessions of an account then end when it is
    removed, and all but one can be ended at once on every backend: also in cookies, which no server can take back."""

    def valid_since(self, user: str) -> float | None:
        """Return the moment, in epoch seconds, before which whoever signed in as `user` is signed out; 0.0 for none,
        None for an account that does not exist. Asked once in each request of somebody who is signed in."""

    def revoke(self, user: str) -> None:
        """Make that moment now, for all processes of the site, and for good."""


def is_revoked(record: Record, accounts: Accounts | None) -> bool:
    """Return whether the account says that this session has ended."""
    if not record.user or accounts is None:
        return False
    since = valid_since(accounts, record.user)
    return since is None or record.created < since


def valid_since(accounts: Accounts, user: str) -> float | None:
    """Ask the accounts. If they cannot answer, the page is a 503 and the session is left as it is (rule 15)."""
    return _ask(accounts.valid_since, user)


def revoke(accounts: Accounts, user: str) -> None:
    """End all sessions of a user by the account."""
    _ask(accounts.revoke, user)
    publish("ended_all", account=user)


def _ask(method: Callable[[str], T], user: str) -> T:
    try:
        return method(user)
    except StoreError:
        raise
    except Exception as error:
        raise Unavailable(f"the accounts do not answer: {type(error).__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session of which the store knows. Times are epoch seconds."""

    reference: str
    user: str  # empty for a visitor who is not signed in
    started: float  # when the user signed in, or the session began
    last_used: float  # to a tenth of the idle limit
    ends: float  # if it is not used again
    remembered: bool
    values: dict[Any, Any]
    current: bool  # whether it is that of the request that asks


class ActiveSessions:
    """The live sessions of a store; where the backend cannot find them, CannotList is raised.

    Args:
        limits: returns the limits of a stored session.
        current: key of the session of this request, or None.
    """

    def __init__(self, store: Store, limits: Callable[[Record], Limits], current: str | None = None) -> None:
        self._store, self._limits, self._current = store, limits, current

    def list(self, user: str | None = None) -> list[LiveSession]:
        """Return the sessions of a user, or with None of everybody, those used last first."""
        found = [self._described(key, record) for key, record in self._live(user).items()]
        return sorted(found, key=lambda session: (session.current, session.last_used), reverse=True)

    def end(self, user: str | None, reference_: str | None = None) -> int:
        """End the sessions of a user, or with None of everybody, but not the one of this request; with `reference_`,
        only those of this reference. Return the number ended."""
        ended = 0
        for key, record in self._live(user).items():
            if key != self._current and reference_ in (None, reference(key)):
                self._store.delete(key)
                publish("ended", key, account=record.user)
                ended += 1
        return ended

    def _live(self, user: str | None) -> dict[str, Record]:
        now = self._store.clock()
        found = dict(self._store.scan()) if user is None else self._store.live(user)
        return {
            key: record
            for key, record in found.items()
            if record.kind == SESSION and not self._limits(record).expired(record, now)
        }

    def _described(self, key: str, record: Record) -> LiveSession:
        try:
            values = codec.decode(record.data)
        except (CorruptRecord, UnreadableValue):
            values = {}
        limits = self._limits(record)
        ends = min(record.deadline, limits.deadline(record.created, record.deadline))
        return LiveSession(
            reference(key), record.user, record.created, limits.last_used(record), ends, record.remembered, values,
            key == self._current,
        )  # fmt: skip
