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
from pathlib import Path

from auth import hashes
from auth.accounts import Accounts, Taken
from auth.database import Database
from auth.names import check_email, check_name
from auth.passwords import weakness
from web.settings import ROOT, Sections, StartError, one_line, read

FORMS = (
    "user list", "user add NAME [EMAIL]", "user password NAME", "user disable NAME", "user enable NAME",
    "user remove NAME", "user import FILE.conf",
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
        _list(accounts)
    elif action == "add":
        _add(accounts, *given)
    elif action == "import":
        _import(accounts, given[0], environ)
    else:
        name = accounts.registered(given[0])
        if name is None:
            raise StartError(f"there is no account {given[0]!r}: python app.py user list shows all")
        if action == "password":
            accounts.set_password(name, _new_password(name))
            print(f"{name} has the new password, and is signed out everywhere.")
        else:
            {"disable": accounts.disable, "enable": accounts.enable, "remove": accounts.remove}[action](name)
            print(f"{name} is {action}d.")


def _list(accounts: Accounts) -> None:
    found = accounts.everybody()
    width = max((len(row.name) for row in found), default=0)
    for row in found:
        made = datetime.fromtimestamp(row.created, UTC).date()
        print(
            f"{row.name:{width}}  {made}  {row.email or '':{0}}  {'' if row.disabled is None else 'disabled'}".rstrip()
        )


def _add(accounts: Accounts, name: str, email: str | None = None) -> None:
    check_name(name)
    if email:
        check_email(email)
    if accounts.registered(name):
        raise StartError(str(Taken("name")))
    try:
        accounts.add(name, _new_password(name), email)
    except Taken as error:
        raise StartError(str(error)) from error
    print(f"{name} is added.")


def _import(accounts: Accounts, file: str, environ: Mapping[str, str]) -> None:
    """Take over the lines of a section [users], by which accounts were configured until release 1, and what their
    owners have changed since: passwords, and the moment before which they are signed out."""
    sections = read(file)
    lines = sections.get("users", {})
    if not lines:
        raise StartError(f"{file} has no accounts: there is no line in a section [users]")
    for name, line in lines.items():
        check_name(name)
        if not hashes.is_hash(line):
            raise StartError(f"the line of {name!r} in [users] of {file} is no argon2id hash: take it out")
    beside = os.path.join(environ.get("STORAGE_PATH") or "var", "accounts.sqlite")
    path = ROOT / (environ.get("ACCOUNTS_PATH") or sections.get("/", {}).get("accounts.path") or beside)
    changes = _changes(path)
    for name, line in lines.items():
        seed, hash, valid_since = changes.get(name, ("", "", 0.0))
        changed = seed == hashlib.sha256(line.encode()).hexdigest()
        try:
            accounts.insert(name, hash if changed else line, valid_since=valid_since)
            print(f"{name} is taken over" + (", with the password that was changed on the site." if changed else "."))
        except Taken:
            print(f"{name} is left out: there is an account of this name already.")


def _changes(path: Path) -> dict[str, tuple[str, str, float]]:
    """The table of changes, by name: the digest of the line that was changed, the hash, and valid_since."""
    if not path.exists():
        print(f"There is no {path}: passwords are those of [users]. If it is elsewhere, ACCOUNTS_PATH names it.")
        return {}
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as old:
            return {name: row for name, *row in old.execute("SELECT name, seed, hash, valid_since FROM accounts")}
    except sqlite3.Error as error:
        raise StartError(f"{path} cannot be read: {one_line(error)}") from error


def _new_password(name: str) -> str:
    """Ask twice for a password on a terminal, which does not show it; or take the first line of standard input."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    try:
        password = _typed("Password (not shown): ") if terminal else _piped()
        if weak := weakness(password, name):
            raise StartError(weak)
        if terminal and _typed("Once more: ") != password:
            raise StartError("the two passwords are not the same; please start again")
    except EOFError as error:
        raise StartError("no password was given; type it, or send it as one line to standard input") from error
    except UnicodeDecodeError as error:
        raise StartError("what was given is not text in UTF-8") from error
    return password


def _typed(prompt: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(prompt)
        except getpass.GetPassWarning as error:
            raise StartError("this terminal would show the password; nothing was read") from error


def _piped() -> str:
    line = sys.stdin.buffer.readline() if sys.stdin is not None else b""
    if not line:
        raise EOFError
    return line.decode().removesuffix("\n").removesuffix("\r")
