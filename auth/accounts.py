"""Who may sign in: the accounts of the site, their passwords, and since when their sessions are valid."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, exc, insert, select, update

import sessions
from auth import hashes
from auth.database import AccountsUnavailable, Database, tokens, users
from auth.names import check_email, check_name, folded
from sessions.events import log_event
from web.settings import StartError

_AHEAD = 60.0  # seconds that clocks may differ without a word
_TICK = 0.001  # seconds: a revocation is later than what was proved in the same tick of the clock
_ENABLED = users.c.disabled.is_(None)

Step = Callable[[Connection], object]  # what else a transaction does; an exception of it undoes all


class ReadOnly(AccountsUnavailable):
    """A new password cannot be kept."""

    public = "New passwords cannot be kept here just now. Nothing was changed: your old password still holds."


class Taken(ValueError):
    """There is an account with this name already, or with this e-mail address: `field` is "name" or "email"."""

    def __init__(self, field: str) -> None:
        super().__init__(f"there is an account with this {field} already")
        self.field = field


class Proof(NamedTuple):
    """That somebody has shown the password of an account.

    Attributes:
        user: the account.
        moment: epoch seconds at which the hash was looked up. What is revoked after that was proved too early.
        hash: that the password fits.
        second_factor: whether the account has one, so that a code has to follow.
    """

    user: str
    moment: float
    hash: str
    second_factor: bool = False

    @property
    def mark(self) -> str:
        """What tells this password from a later one, and nothing else of it."""
        return hashlib.sha256(self.hash.encode()).hexdigest()[:16]


class Accounts:
    """The accounts of a site; the session tool asks them too, see sessions.Accounts.

    A disabled account is like none for whoever signs in or is signed in, and so is that of a site in development (see
    auth.demo) for any other site.

    Each method raises sessions.Unavailable if the database does not answer.
    """

    _is_ours: ColumnElement[bool] = users.c.demo.is_(None)

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Take the database, and the clock, in epoch seconds. Those of several machines must not differ by seconds."""
        self.database, self.hasher, self._clock = database, hashes.Hasher(), clock
        self._valid_since = select(users.c.valid_since).where(
            users.c.name == bindparam("user"), _ENABLED, self._is_ours
        )

    def registered(self, typed: str) -> str | None:
        """Return the name of the account that is meant, as it is registered; None where there is none. See folded()."""
        found = self.database.rows(select(users.c.name).where(users.c.folded == folded(typed), self._is_ours))
        return str(found[0].name) if found else None

    def is_empty(self) -> bool:
        """Tell whether there is no account."""
        return not self.database.rows(select(users.c.name).where(self._is_ours).limit(1))

    def everybody(self) -> list[Row[Any]]:
        """Return the rows of all accounts, by name."""
        return self.database.rows(select(users).where(self._is_ours).order_by(users.c.folded))

    def by_email(self, email: str) -> Row[Any] | None:
        """Return the row of the enabled account with this e-mail address. A mail goes to the address that stands there:
        the one that was typed may only look like it."""
        found = self.database.rows(select(users).where(users.c.folded_email == folded(email), _ENABLED, self._is_ours))
        return found[0] if found else None

    def verify(self, name: str, password: str) -> Proof | None:
        """Return the proof that the password is this account's, or None.

        An unknown name costs one computation of a hash like a known one, so that the time of the answer does not tell
        which accounts exist (OWASP ASVS 5.0, 6.3.8). A hash that is cheaper than those made today is replaced.
        """
        while True:
            proof = self._proof(name)
            if not self.hasher.verify(proof.hash if proof else self.hasher.dummy_hash, password) or proof is None:
                return None
            if hashes.is_outdated(proof.hash):
                proof = proof._replace(hash=self._renewed(proof, password))
            # While a password waits for its turn the hash may change. Then the same password has to fit the new one.
            again = self._proof(name)
            if again and again.hash == proof.hash:
                break
        if proof.moment > self._clock() + _AHEAD:
            log_event("the last revocation is ahead of the clock", level=logging.WARNING, account=proof.user)
        return proof

    def recall(self, user: str, moment: float, mark: str) -> Proof | None:
        """Return the proof of a while ago that had this moment and mark; None if it is worth nothing now: the password
        was changed since, or the sessions of the account were ended."""
        since, proof = self.valid_since(user), self._proof(user)
        if proof is None or since is None or since > moment or proof.mark != mark:
            return None
        return proof._replace(moment=moment)

    def add(self, name: str, password: str, email: str | None = None) -> Proof:
        """Add an account, and return the proof with which its owner can sign in at once; see weakness() before.

        Raises:
            ValueError: the name or the address cannot be one.
            Taken: somebody has it.
        """
        return self.insert(name, self.hasher.hash(password), email)

    def insert(
        self, name: str, hash: str, email: str | None = None, *, also: Step | None = None, **values: Any
    ) -> Proof:
        """Add an account by the hash of its password, with other `values` of its row. As add() does otherwise.

        Its sessions are valid from now on: whoever was signed in under this name was somebody else.
        """
        check_name(name)
        if email:
            check_email(email)
        now = self._clock()
        row = {
            "name": name, "folded": folded(name), "email": email or None, "folded_email": folded(email or "") or None,
            "hash": hash, "valid_since": now, "created": now, **values,
        }  # fmt: skip
        try:
            with self.database.begin() as connection:
                if also:
                    also(connection)
                connection.execute(delete(users).where(users.c.folded == row["folded"], users.c.demo.is_not(None)))
                connection.execute(insert(users).values(row))
        except exc.IntegrityError as error:
            raise Taken("email" if "email" in str(error.orig).partition("\n")[0] else "name") from error
        return Proof(name, row["valid_since"], hash)

    def change_password(self, proof: Proof, new: str) -> bool:
        """Make `new` the password of the account that was proved, for all processes and for good; see weakness()
        before. False: its password has changed since the proof, so nothing was changed."""
        try:
            return self._swap(proof, self.hasher.hash(new))
        except AccountsUnavailable as error:
            raise ReadOnly(str(error)) from error

    def set_password(self, user: str, new: str, also: Step | None = None) -> bool:
        """Make `new` the password of an account without a proof of the old one, and end its sessions. False: there is
        no such account."""
        return self._end_sessions(user, also, hash=self.hasher.hash(new))

    def disable(self, user: str) -> bool:
        """Let nobody sign in as this user, and end its sessions at their next request. False: no such account."""
        return self._end_sessions(user, disabled=self._clock())

    def enable(self, user: str) -> bool:
        """Let a disabled user sign in again. False: no such account."""
        return self._end_sessions(user, disabled=None)

    def remove(self, user: str) -> bool:
        """Remove an account and all that belongs to it. False: no such account."""
        with self.database.begin() as connection:
            return connection.execute(delete(users).where(users.c.name == user, self._is_ours)).rowcount > 0

    def valid_since(self, user: str) -> float | None:
        """Return the moment, in epoch seconds, before which whoever signed in as `user` is signed out. None: there is
        no such account, or it is disabled."""
        found = self.database.rows(self._valid_since, {"user": user})
        return float(found[0][0]) if found else None

    def revoke(self, user: str) -> None:
        """Make that moment now, for all processes and for good: later than that of every proof so far, unless the clock
        was set back since."""
        self._end_sessions(user)

    def _end_sessions(self, user: str, also: Step | None = None, **values: Any) -> bool:
        """Revoke, and write other values of the row in the same transaction.

        The clock is read when nobody can prove a password by the old row any more: with a time taken before, whoever
        read that row in between would have read it at a later time than the one that is written.
        """
        with self.database.begin() as connection:
            ours = users.c.name == user, self._is_ours
            before = connection.scalar(select(users.c.valid_since).where(*ours).with_for_update())
            if before is None:
                return False
            if also:
                also(connection)
            if "hash" in values:
                connection.execute(delete(tokens).where(tokens.c.user == user))
            values["valid_since"] = max(before, self._clock()) + _TICK
            connection.execute(update(users).where(*ours).values(values))
            return True

    def _proof(self, name: str) -> Proof | None:
        """A proof that begins now, if the password will fit.

        The clock is read first: a revocation that is not seen here yet is later. FOR SHARE, for readers do not wait for
        writers in PostgreSQL: a revocation under way has read its clock, and must be seen. (In SQLite they do.) A
        moment before the last revocation would lock an account out that was revoked by a clock ahead of this one.
        """
        now = self._clock()
        known = users.c.folded == folded(name), _ENABLED, self._is_ours
        found = self.database.rows(select(users).where(*known).with_for_update(read=True))
        if not found:
            return None
        row = found[0]
        return Proof(row.name, max(now, row.valid_since), row.hash, row.totp_secret is not None)

    def _renewed(self, proof: Proof, password: str) -> str:
        """Replace a hash unless it has changed meanwhile; return the one that the password fits. The visitor is let in
        also where that fails."""
        try:
            new = self.hasher.hash(password)
            if not self._swap(proof, new):
                return proof.hash
        except sessions.Unavailable as error:
            log_event("a password hash was not renewed", level=logging.WARNING, account=proof.user, reason=error)
            return proof.hash
        log_event("a password hash was renewed", account=proof.user)
        return new

    def _swap(self, proof: Proof, new: str) -> bool:
        """Only where the hash is still the one that was proved. Links to a new password open nothing from then on."""
        proved = users.c.name == proof.user, users.c.hash == proof.hash, _ENABLED
        with self.database.begin() as connection:
            swapped = connection.execute(update(users).where(*proved).values(hash=new)).rowcount > 0
            if swapped:
                connection.execute(delete(tokens).where(tokens.c.user == proof.user))
            return swapped


def check_hashes(accounts: Accounts) -> None:
    """Refuse hashes that are too cheap for production. Raises StartError."""
    others = select(users).where(users.c.hash.not_like(f"{hashes.current()}%"), users.c.demo.is_(None))
    for row in accounts.database.rows(others):
        if hashes.is_weak(row.hash):
            raise StartError(
                f"the hash of {row.name!r} is too cheap to guess at (11.4.2): in production it must be argon2id with "
                f"m=19456,t=2,p=1 or more; python app.py user password {row.name} takes another password"
            )
