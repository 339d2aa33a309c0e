"""Who may sign in: the accounts of the configuration, and what their owners have changed since."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import sessions
from auth import hashes
from auth.passwords import NAME_LENGTH, check_name, weakness
from auth.users_table import AccountsUnavailable, UsersTable
from sessions.events import log_event
from web.settings import StartError

__all__ = ["Accounts", "Proof", "weakness"]

# Only where the hash in force is still the one that was read before: the configured one, unless a row of its seed has
# another.
_CHANGE = """INSERT INTO accounts (name, seed, hash) SELECT :name, :seed, :hash
    WHERE :old = :configured OR EXISTS (SELECT 1 FROM accounts WHERE name = :name)
    ON CONFLICT (name) DO UPDATE SET seed = excluded.seed, hash = excluded.hash
    WHERE :old = CASE seed WHEN excluded.seed THEN hash ELSE :configured END"""
# Later than every moment at which a password was looked at before: also in the same tick of the clock, and when the
# last revocation came from a clock that was ahead.
_REVOKE = """INSERT INTO accounts (name, valid_since) VALUES (:name, now() + 0.001)
    ON CONFLICT (name) DO UPDATE SET valid_since = max(valid_since + 0.001, excluded.valid_since)"""

_LONGEST_TYPED = 20 * NAME_LENGTH  # one character can be eighteen, and more of them would take long to be sorted
_AHEAD = 60.0  # seconds that clocks may differ without a word


class ReadOnly(AccountsUnavailable):
    """A new password cannot be kept."""

    public = "New passwords cannot be kept here just now. Nothing was changed: your old password still holds."


class Proof(NamedTuple):
    """That somebody has shown the password of an account.

    Attributes:
        user: the account.
        moment: epoch seconds at which the hash was looked up. What is revoked after that was proved too early.
        hash: that the password fits.
    """

    user: str
    moment: float
    hash: str


class Accounts:
    """The accounts of a site; the session tool asks them too, see sessions.Accounts.

    The configuration says which accounts there are. A password that was changed since is kept at `path`, with a digest
    of the configured hash that it took the place of: when an operator changes that line, the line holds again.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        path: str | Path,
        demo: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the accounts.

        Where there are configured ones and no file of changes, a line of the log says so: a file that was lost cannot
        be told from one that was never made, and with it old passwords and ended sessions come back.

        Args:
            users: argon2id hash by name, the section [users].
            path: of the SQLite file for changes; made when there is one.
            demo: password by name, for development only.
            clock: in epoch seconds.

        Raises:
            StartError: an account has no such hash, or a name or a password that cannot be one.
        """
        self._hasher = hashes.Hasher()
        self._clock, self._users = clock, UsersTable(path, clock)
        demo = demo or {}
        self._registered = {folded(name): name for name in demo}
        for name, line in users.items():
            check_name(name)
            if not hashes.is_hash(line):
                raise StartError(
                    f"the account {name!r} in [users] needs an argon2id hash; make its line with: "
                    f"python app.py hash-password {name}"
                )
            other = self._registered.setdefault(folded(name), name)
            if other in demo:
                raise StartError(f"the account {name!r} of [users] is a demo account too; unset DEMO_PASSWORD")
            if other != name:
                raise StartError(
                    f"the accounts {other!r} and {name!r} in [users] are the same to whoever types the name; rename one"
                )
        for word in demo.values():
            if hashes.prepared(word) is None:
                what = f"text of at most {hashes.MAX_LENGTH} characters"
                raise StartError(f"the password of the demo account must be {what}")
        self._seeds, self._unhashed = dict(users), dict(demo)
        self._names = frozenset(self._registered.values())
        self._hashing = threading.Lock()
        if users and not self._users.exists():
            log_event("no password was ever changed here, or that file is lost", level=logging.WARNING, file=path)

    def __contains__(self, name: object) -> bool:
        """Tell whether an account is registered under this name, exactly."""
        return name in self._names

    def registered(self, typed: str) -> str | None:
        """Return the name of the account that is meant, as it is registered; None where there is none. See folded()."""
        return self._registered.get(folded(typed))

    def verify(self, name: str, password: str) -> Proof | None:
        """Return the proof that the password is this account's, or None.

        An unknown name costs one computation of a hash like a known one, so that the time of the answer does not tell
        which accounts exist (OWASP ASVS 5.0, 6.3.8). A hash that is cheaper than those made today is replaced.

        Raises:
            sessions.Unavailable: the accounts cannot be read, or too many sign in at once.
        """
        self._hash_demo_passwords()
        name = self.registered(name) or ""
        while True:
            moment, hash = self._in_force(name)
            if not self._hasher.verify(hash or self._hasher.dummy_hash, password) or hash is None:
                return None
            if hashes.is_outdated(hash):
                hash = self._renewed(name, password, hash)
            # While a password waits for its turn the hash may change. Then the same password has to fit the new one.
            if self._in_force(name)[1] == hash:
                break
        if moment > self._clock() + _AHEAD:
            log_event("the last revocation is ahead of the clock", level=logging.WARNING, account=name)
        return Proof(name, moment, hash)

    def change_password(self, proof: Proof, new: str) -> bool:
        """Make `new` the password of the account that was proved, for all processes and for good; see weakness()
        before. False: its password has changed since the proof, so nothing was changed.

        Raises:
            KeyError: there is no such account.
            sessions.Unavailable: it cannot be kept, or too many sign in at once.
        """
        try:
            return self._users.write(_CHANGE, self._swap(proof.user, proof.hash, self._hasher.hash(new)))
        except AccountsUnavailable as error:
            raise ReadOnly(str(error)) from error

    def valid_since(self, user: str) -> float | None:
        """Return the moment, in epoch seconds, before which whoever signed in as `user` is signed out; 0.0 for none.
        None: the account is not in the configuration.

        Raises:
            sessions.Unavailable: the changes cannot be read.
        """
        return self._users.row(user).valid_since if user in self else None

    def revoke(self, user: str) -> None:
        """Make that moment now, for all processes and for good: later than that of every proof so far, unless the clock
        was set back since.

        Raises:
            sessions.Unavailable: it cannot be kept.
        """
        self._users.write(_REVOKE, {"name": user})

    def _in_force(self, name: str) -> tuple[float, str | None]:
        """The moment of a proof that begins now, and the hash in force.

        The clock is read first: a revocation that is not seen here yet is later. A moment before the last revocation
        would lock an account out that was revoked by a clock ahead of this one. An unknown name is looked up like a
        known one: a table that is locked does not tell them apart either.
        """
        now, seed = self._clock(), self._seeds.get(name)
        row = self._users.row(name)
        if seed is None:
            return now, None
        return max(now, row.valid_since), row.hash if row.seed == _digest(seed) else seed

    def _hash_demo_passwords(self) -> None:
        """Make the hashes of demo passwords when somebody first signs in, whoever that is: a start does not wait for
        them, and the time of the answer tells nobody's name.

        Every process has to make the same ones, for a change belongs to the hash it took the place of. Hence no random
        salt.
        """
        with hashes.turn(self._hashing):
            for name, word in self._unhashed.items():
                self._seeds[name] = self._hasher.hash(word, hashes.demo_salt(name))
            self._unhashed = {}

    def _renewed(self, name: str, password: str, old: str) -> str:
        """Replace a hash unless it has changed meanwhile; return the one that the password fits. The visitor is let in
        also where that fails."""
        try:
            new = self._hasher.hash(password)
            if not self._users.write(_CHANGE, self._swap(name, old, new)):
                return old
        except sessions.Unavailable as error:
            log_event("a password hash was not renewed", level=logging.WARNING, account=name, reason=error)
            return old
        log_event("a password hash was renewed", account=name)
        return new

    def _swap(self, name: str, old: str, new: str) -> dict[str, str]:
        configured = self._seeds[name]
        return {"name": name, "seed": _digest(configured), "configured": configured, "old": old, "hash": new}


def check_hashes(users: Mapping[str, str]) -> None:
    """Refuse the hashes of [users] that are too cheap for production. Raises StartError."""
    for name, line in users.items():
        if hashes.is_hash(line) and hashes.is_weak(line):
            raise StartError(
                f"the hash of {name!r} in [users] is too cheap to guess at (11.4.2): in production it must be argon2id "
                f"with m=19456,t=2,p=1 or more; python app.py hash-password {name} makes another"
            )


def folded(name: str) -> str:
    """Return what a user name is compared by: without the space that a phone adds, whatever the keyboard's way to write
    an accent, its capitals, and characters that cannot be seen (Unicode, chapter 3.13). Passwords are never folded.

    A Turkish capital is that of the letter with its dot: ILGIN is ilgin, and not the name without dots.
    """
    if len(name) > _LONGEST_TYPED:
        return name
    text = unicodedata.normalize("NFKD", name).casefold()
    return unicodedata.normalize("NFKC", "".join(c for c in text if unicodedata.category(c) != "Cf")).strip()


def _digest(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()
