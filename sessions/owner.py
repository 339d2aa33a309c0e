"""Whose a session is: signing in and out, and staying signed in (ASVS 7.2.4, 7.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from .errors import StoreError, Unavailable
from .record import Record
from .stored import ask

T = TypeVar("T")


class Owner(NamedTuple):
    """Who is signed in.

    Attributes:
        user: the account; empty for nobody.
        remembered: the user asked to stay signed in.
        since: epoch seconds of a sign-in in this request; None otherwise.
    """

    user: str = ""
    remembered: bool = False
    since: float | None = None


NOBODY = Owner()


class Accounts(Protocol):
    """What a site may tell the session tool of its accounts, with the option `accounts`.

    With it the sessions of an account end when it is removed, and all but one can be ended at once on every backend:
    also in cookies, which no server can take back.
    """

    def valid_since(self, user: str) -> float | None:
        """The moment, in epoch seconds, before which whoever signed in as `user` is signed out; 0.0 for none. None:
        there is no such account, or not any more. Asked once in each request of somebody who is signed in."""

    def revoke(self, user: str) -> None:
        """Make that moment now, for all processes of the site, and for good."""


def is_revoked(record: Record, accounts: Accounts | None) -> bool:
    """Whether the account says that this session has ended."""
    if not record.user or accounts is None:
        return False
    since = valid_since(accounts, record.user)
    return since is None or record.created < since


def valid_since(accounts: Accounts, user: str) -> float | None:
    """Ask the accounts. Where they cannot answer, the page is a 503, and the session is left as it is (rule 15)."""
    since: float | None = ask(_call, accounts.valid_since, user)
    return since


def revoke(accounts: Accounts, user: str) -> None:
    """Tell the accounts that all sessions of a user have ended; a 503 where they cannot note it."""
    ask(_call, accounts.revoke, user)


def _call(method: Callable[[str], T], user: str) -> T:
    try:
        return method(user)
    except StoreError:
        raise
    except Exception as error:
        raise Unavailable(f"the accounts do not answer: {type(error).__name__}: {error}") from error
