"""Who may sign in: the accounts of the configuration, and what their owners have changed since."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import sessions
from pages import hashes
from pages.changes import AccountsUnavailable, Changes
from pages.passwords import check_name, weakness
from settings import StartError

__all__ = ["Accounts", "weakness"]

P = ParamSpec("P")
T = TypeVar("T")

# A row of an older seed gives way. One of the same seed only where it still has the hash that was read before.
_CHANGE = """INSERT INTO accounts (name, seed, hash) VALUES (:name, :seed, :hash)
    ON CONFLICT (name) DO UPDATE SET seed = excluded.seed, hash = excluded.hash"""
_RENEW = f"{_CHANGE} WHERE seed <> excluded.seed OR hash = :old"
_REVOKE = """INSERT INTO accounts (name, valid_since) VALUES (:name, :now)
    ON CONFLICT (name) DO UPDATE SET valid_since = max(valid_since, excluded.valid_since)"""


def for_pages(method: Callable[P, T]) -> Callable[P, T]:
    """Make what a page calls answer 503 where the accounts cannot; the reason is noted."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except sessions.StoreError as error:
            sessions.note("the accounts do not answer", level=logging.WARNING, reason=error)
            raise sessions.StoreHTTPError(error) from error

    return call


class ReadOnly(AccountsUnavailable):
    """A new password cannot be kept."""

    public = "New passwords cannot be kept here just now. Nothing was changed: your old password still holds."


class Accounts:
    """The accounts of a site; the session tool asks them too, see sessions.Accounts.

    The configuration says which accounts there are. A password that was changed since is kept at `path`, with a digest
    of the configured hash that it took the place of: when an operator changes that line, the line holds again.
    """

    def __init__(self, users: Mapping[str, str], path: str | Path, demo: Mapping[str, str] | None = None) -> None:
        """Take the accounts.

        Args:
            users: argon2id hash by name, the section [users].
            path: of the SQLite file for changes; made when there is one.
            demo: password by name, for development only.

        Raises:
            StartError: an account has no such hash, or a name or a password that cannot be one.
        """
        self._hasher = hashes.Hasher()
        self._changes = Changes(path)
        for name, line in users.items():
            check_name(name)
            if not hashes.is_hash(line):
                raise StartError(
                    f"the account {name!r} in [users] needs an argon2id hash; make its line with: "
                    f"python app.py hash-password {name}"
                )
            if name in (demo or {}):
                raise StartError(f"the account {name!r} of [users] is a demo account too; unset DEMO_PASSWORD")
        # Every process, and every start, has to make the same hash of a demo password: what changed would be that of
        # another line otherwise. Hence no random salt.
        try:
            made = {name: self._hasher.hash(word, hashes.demo_salt(name)) for name, word in (demo or {}).items()}
        except ValueError as error:
            raise StartError(f"the password of the demo account cannot be one: {error}") from error
        self._seeds = {**users, **made}

    def __contains__(self, name: object) -> bool:
        """Tell whether there is an account of this name."""
        return name in self._seeds

    @for_pages
    def verify(self, name: str, password: str) -> bool:
        """Tell whether the password is this account's.

        An unknown name costs one computation of a hash like a known one, so that the time of the answer does not tell
        which accounts exist (OWASP ASVS 5.0, 6.3.8). A hash that is cheaper than those made today is replaced.

        Raises:
            cherrypy.HTTPError: 503, the accounts cannot be read or too many sign in at once.
        """
        hash = self._hash_of(name)
        if not self._hasher.verify(hash or self._hasher.nobody, password) or hash is None:
            return False
        if hashes.is_outdated(hash):
            self._renew(name, password, hash)
        return True

    @for_pages
    def change_password(self, name: str, new: str) -> None:
        """Make `new` the password of an account, for all processes and for good; see weakness() before.

        Raises:
            KeyError: there is no such account.
            cherrypy.HTTPError: 503, it cannot be kept.
        """
        values = {"name": name, "seed": _digest(self._seeds[name]), "hash": self._hasher.hash(new)}
        try:
            self._changes.write(_CHANGE, values)
        except AccountsUnavailable as error:
            raise ReadOnly(str(error)) from error

    def valid_since(self, user: str) -> float | None:
        """Return the moment, in epoch seconds, before which whoever signed in as `user` is signed out; 0.0 for none.
        None: the account is not in the configuration.

        Raises:
            sessions.Unavailable: the changes cannot be read.
        """
        return self._changes.of(user).valid_since if user in self._seeds else None

    def revoke(self, user: str) -> None:
        """Make that moment now, for all processes and for good.

        Raises:
            sessions.Unavailable: it cannot be kept.
        """
        self._changes.write(_REVOKE, {"name": user, "now": time.time()})

    def _hash_of(self, name: str) -> str | None:
        """The hash in force. An unknown name is looked up like a known one: a table that is locked does not tell them
        apart either."""
        seed = self._seeds.get(name)
        change = self._changes.of(name if seed else "")
        if seed is None:
            return None
        return change.hash if change.seed == _digest(seed) else seed

    def _renew(self, name: str, password: str, old: str) -> None:
        """Replace a hash unless the password was changed meanwhile. The visitor is let in also where that fails."""
        try:
            values = {"name": name, "seed": _digest(self._seeds[name]), "hash": self._hasher.hash(password), "old": old}
            self._changes.write(_RENEW, values)
        except sessions.Unavailable as error:
            sessions.note("a password hash was not renewed", level=logging.WARNING, account=name, reason=error)
        else:
            sessions.note("a password hash was renewed", account=name)


def _digest(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()
