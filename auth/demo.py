"""The account of a site in development, which lets in nobody but this machine's users."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from auth.accounts import Accounts, Proof, folded
from web import csrf

DEMO = "ada"
_OWN_PASSWORD = "_DEMO_PASSWORD_OF_THIS_START"  # noqa: S105 - the name of a variable


def demo_account(users: Mapping[str, str], environ: Mapping[str, str]) -> tuple[dict[str, str], str | None, str]:
    """Return the password of the demo account by its name, the hint for the sign-in page, and the line for the console.

    There is no demo account where [users] has one of its name. A password that was given is shown nowhere.
    """
    if DEMO in map(folded, users):
        return {}, None, ""
    given = environ.get("DEMO_PASSWORD")
    if given:
        line = f"Sign in as {DEMO} with the password that DEMO_PASSWORD holds, unless it was changed here."
        return {DEMO: given}, None, line
    # In the environment it outlives a reload, which starts this program again in the same process.
    password = os.environ.setdefault(_OWN_PASSWORD, secrets.token_urlsafe(9))
    line = f"Sign in as {DEMO} with the password {password}"
    return {DEMO: password}, line, line


class DemoAccounts(Accounts):
    """The accounts of a site with a demo account, which lets in nobody but this machine's users.

    DEMO_PASSWORD may be known to more people than one, and another WSGI server may serve the site to a whole network.
    """

    def __init__(self, users: Mapping[str, str], path: str | Path, demo: Mapping[str, str] | None = None) -> None:
        """Take the accounts, as Accounts does."""
        super().__init__(users, path, demo)
        self._demo = frozenset(demo or ())

    def verify(self, name: str, password: str) -> Proof | None:
        """Check a password as Accounts does; from elsewhere, a demo account has none.

        Another one is checked in its place: the answer is that to a wrong password, and takes as long.
        """
        if self.registered(name) in self._demo and not csrf.from_this_machine():
            password = secrets.token_urlsafe()
        return super().verify(name, password)
