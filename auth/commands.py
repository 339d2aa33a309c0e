"""`python app.py user ...`: the accounts, for whoever runs the site."""

from __future__ import annotations

import getpass
import hashlib
import os
import sqlite3
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime

import sessions
from auth.accounts import Accounts, Taken
from auth.database import Database
from auth.links import Links
from auth.names import check_email, check_name
from auth.passwords import weakness
from auth.second_factor import SecondFactor
from web.settings import ROOT, Sections, StartError, one_line, read

FORMS = (
    "user list", "user add NAME [EMAIL]", "user password NAME", "user disable NAME", "user enable NAME",
    "user remove NAME", "user reset-factor NAME", "user import FILE.conf", "user invite [EMAIL]",
)  # fmt: skip


def run(words: Sequence[str], settings: Sections, environ: Mapping[str, str]) -> None:
    """Do what one of FORMS says, `words` without "user", to the accounts of a site with these settings.

    Raises:
        StartError: nothing was changed.
        sessions.Unavailable: the accounts do not answer.
    """
    accounts = Accounts(Database(str(settings["/"]["users.url"])))
    action, *given = words
    if action == "list":
        for row in accounts.everybody():
            state = "enabled" if row.disabled is None else "disabled"
            made = datetime.fromtimestamp(row.created, UTC).date()
            print(row.name, row.email or "-", made, state, sep="\t")
    elif action == "add":
        _add(accounts, *given)
    elif action == "invite":
        _invite(accounts, settings["/"], *given)
    elif action == "import":
        _import(accounts, given[0], environ)
    else:
        name = accounts.registered(given[0])
        if name is None:
            raise StartError(f"there is no account {given[0]!r}: python app.py user list shows all")
        if action == "password":
            accounts.set_password(name, _new_password(name))
            print(f"{name} has the new password, and is signed out everywhere.")
        elif action == "reset-factor":
            SecondFactor(accounts.database).turn_off(name)
            accounts.revoke(name)
            print(f"{name} has no second factor now, and is signed out everywhere.")
        else:
            {"disable": accounts.disable, "enable": accounts.enable, "remove": accounts.remove}[action](name)
            print(f"{name} is {action}d.")


def _add(accounts: Accounts, name: str, email: str | None = None) -> None:
    check_name(name)
    if email:
        check_email(email)
    try:
        if accounts.registered(name):
            raise Taken("name")
        accounts.add(name, _new_password(name), email)
    except Taken as error:
        raise StartError(str(error)) from error
    print(f"{name} is added.")


def _invite(accounts: Accounts, options: Mapping[str, str], email: str | None = None) -> None:
    if options["auth.signup"] == "closed":
        raise StartError("auth.signup is 'closed', and nobody can use an invitation: set it to 'invite'")
    if not options["site.url"]:
        raise StartError("an invitation is a link: set site.url (SITE_URL) to the address of the site")
    if email:
        check_email(email)
        if accounts.by_email(email):
            raise StartError(str(Taken("email")))
    print(f"{options['site.url'].rstrip('/')}/signup/confirm?token={Links(accounts.database).make('invite', email)}")


def _new_password(name: str) -> str:
    """Ask twice for a password on a terminal, which does not show it; or take the first line of standard input."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    try:
        password = _typed("Password (not shown): ") if terminal else sys.stdin.buffer.readline().decode().rstrip("\r\n")
        if weak := weakness(password, name):
            raise StartError(weak)
        if terminal and _typed("Once more: ") != password:
            raise StartError("the two passwords are not the same; please start again")
    except (AttributeError, EOFError, UnicodeDecodeError, getpass.GetPassWarning) as error:
        raise StartError(f"no password was read from the terminal or standard input: {one_line(error)}") from error
    return password


def _typed(prompt: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)  # of a terminal that would show it
        return getpass.getpass(prompt)


def _import(accounts: Accounts, file: str, environ: Mapping[str, str]) -> None:
    """Take over the lines of a section [users], which had the accounts before there was a table, and what was changed
    since: passwords, and the moment before which somebody is signed out."""
    sections = read(file)
    lines = sections.get("users", {})
    for name, line in lines.items():
        check_name(name)
        try:
            whole = str(line).startswith("$argon2id$v=19$") and accounts.hasher.verify(line, "") is not None
        except sessions.Unavailable:
            whole = False
        if not whole:
            raise StartError(f"the line of {name!r} in [users] is no argon2id hash: take it out of {file}")
    beside = os.path.join(environ.get("STORAGE_PATH") or "var", "accounts.sqlite")
    old = ROOT / (environ.get("ACCOUNTS_PATH") or sections.get("/", {}).get("accounts.path") or beside)
    changes: dict[str, tuple[str, str, float]] = {}
    if old.exists():
        try:
            with closing(sqlite3.connect(f"{old.as_uri()}?mode=ro", uri=True)) as database:
                found = database.execute("SELECT name, seed, hash, valid_since FROM accounts")
                changes = {name: row for name, *row in found}
        except sqlite3.Error as error:
            raise StartError(f"{old} cannot be read: {one_line(error)}") from error
    told = f"{len(changes)} changes in" if old.exists() else "no changes, for there is no"
    print(f"There are {len(lines)} accounts in {file}, and {told} {old}.")
    for name, line in lines.items():
        seed, hash, valid_since = changes.get(name, ("", "", 0.0))
        changed = seed == hashlib.sha256(line.encode()).hexdigest()
        try:
            accounts.insert(name, hash if changed else line, valid_since=valid_since)
            print(f"{name} is taken over.")
        except Taken:
            print(f"{name} is left out: there is an account with this name already.")
