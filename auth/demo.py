"""The account of a site in development, which lets in nobody but this machine's users."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Mapping

from sqlalchemy import ColumnElement, select, true, update

from auth import hashes
from auth.accounts import Accounts, Proof, check_hashes
from auth.database import Database, users
from auth.names import folded
from web import csrf
from web.settings import StartError
from web.wiring import Site

DEMO = "ada"
_OWN_PASSWORD = "_DEMO_PASSWORD_OF_THIS_START"  # noqa: S105 - the name of a variable
# The same in every process: a password that was changed stays until DEMO_PASSWORD is another one.
_SALT = hashlib.sha256(b"demo account").digest()[: hashes.CURRENT_PARAMETERS.salt_len]


def demo_account(environ: Mapping[str, str]) -> tuple[str, str | None, str]:
    """Return the password of the demo account, the hint for the sign-in page, and the line for the console. A password
    that was given is shown nowhere."""
    given = environ.get("DEMO_PASSWORD")
    if given:
        return given, None, f"Sign in as {DEMO} with the password that DEMO_PASSWORD holds, unless it was changed here."
    # In the environment it outlives a reload, which starts this program again in the same process.
    password = os.environ.setdefault(_OWN_PASSWORD, secrets.token_urlsafe(9))
    line = f"Sign in as {DEMO} with the password {password}"
    return password, line, line


def open_accounts(site: Site) -> Accounts:
    """Return the accounts of a site, with the demo account if it has one and nobody else has that name."""
    database = Database(site.users_url)
    accounts = Accounts(database)
    if site.production:
        check_hashes(accounts)
    if site.demo and accounts.registered(DEMO):
        site.demo, site.hint, site.line = "", None, ""
    elif site.demo:
        return DemoAccounts(database, site.demo)
    elif accounts.is_empty():
        site.line = "There is no account to sign in with: python app.py user add NAME makes one."
    return accounts


class DemoAccounts(Accounts):
    """The accounts of a site with a demo account, which lets in nobody but this machine's users: DEMO_PASSWORD may be
    known to more people than one, and another WSGI server may serve the site to a whole network.

    It is a row like others, so that it can do what they can. Its column `demo` keeps it away from every other site.
    """

    _is_ours: ColumnElement[bool] = true()

    def __init__(self, database: Database, password: str) -> None:
        """Take the password of the demo account."""
        super().__init__(database)
        if hashes.prepared(password) is None:
            what = f"text of at most {hashes.MAX_LENGTH} characters"
            raise StartError(f"the password of the demo account must be {what}")
        self._password, self._making = password, threading.Lock()

    def verify(self, name: str, password: str) -> Proof | None:
        """Check a password as Accounts does; from elsewhere, the demo account has none.

        Another one is checked in its place: the answer is that to a wrong password, and takes as long.
        """
        with hashes.turn(self._making):
            if self._password:
                self._make(self.hasher.hash(self._password, _SALT))
                self._password = ""
        if folded(name) == DEMO and not csrf.from_this_machine():
            password = secrets.token_urlsafe()
        return super().verify(name, password)

    def _make(self, hash: str) -> None:
        """Make the account when somebody first signs in, whoever that is: a start does not wait for its hash, and the
        time of the answer tells nobody's name."""
        found = self.database.rows(select(users.c.demo).where(users.c.folded == DEMO))
        if not found:
            self.insert(DEMO, hash, demo=hash)
        elif found[0].demo not in (None, hash):
            with self.database.begin() as connection:
                new = {"hash": hash, "demo": hash, "totp_secret": None, "totp_step": None}
                connection.execute(update(users).where(users.c.name == DEMO).values(new))
