"""The links that the site gives away: to a new password, and to an account of one's own."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from auth.accounts import Step
from auth.database import Database, tokens

LIVES = {"reset": 1800.0, "sign-up": 86400.0, "invite": 604800.0}  # seconds of each kind: 30 minutes, a day, a week


class Spent(Exception):
    """The link was used meanwhile, or its time is over."""


class Links:
    """Makes links, and finds what they stand for. Each has a random token, which works once and for a while.

    The table has the SHA-256 of the token alone: whoever reads it can open nothing. A slow hash would add nothing, for
    nobody guesses 256 bits.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Take the database of the accounts, and the clock, in epoch seconds."""
        self._database, self._clock = database, clock

    def make(self, kind: str, email: str | None = None, user: str | None = None) -> str:
        """Return the token of a new link.

        Args:
            kind: one of LIVES.
            email: the address that it is sent to; None where it is given by hand.
            user: whose account it opens; None where there is none yet.
        """
        token, now = secrets.token_urlsafe(), self._clock()
        row = {"hash": digest(token), "kind": kind, "user": user, "email": email, "expires": now + LIVES[kind]}
        with self._database.begin() as connection:
            connection.execute(insert(tokens).values(row))
        with self._database.begin() as connection:  # by itself: it locks rows in no order, and could lead to a deadlock
            connection.execute(delete(tokens).where(tokens.c.expires <= now))
        return token

    def find(self, hash: str, *kinds: str) -> Row[Any] | None:
        """Return the row of a link of one of these kinds that still works."""
        wanted = tokens.c.hash == hash, tokens.c.kind.in_(kinds), tokens.c.expires > self._clock()
        found = self._database.rows(select(tokens).where(*wanted))
        return found[0] if found else None

    def spend(self, link: Row[Any]) -> Step:
        """Return what uses a link up, as a step of the transaction that does what it is for. It raises Spent."""

        def step(connection: Connection) -> None:
            if not connection.execute(delete(tokens).where(tokens.c.hash == link.hash)).rowcount:
                raise Spent

        return step


def digest(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
