"""`python -m sessions`: what an operator does to the sessions of a site from the command line (ASVS 7.4.5).

The commands work on the store itself, while the site runs or not; `sql` and `convert` need no site. They show no
values, ids or keys. The exit status is 0; 1 where there was nothing to revoke; 2 where something is wrong, which one
line on standard error says.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import cherrypy

from .errors import CannotCount, CannotList, ConfigError, SessionError, StoreError, Unavailable
from .events import as_word, log
from .moving import MovingStore
from .options import PREFIX, Settings, configured
from .registry import close_stores, open_stores
from .store import Store
from .users import ActiveSessions, LiveSession, revoke, valid_since

_PROGRAM = "python -m sessions"
_BATCH = 500  # records removed before the site has the store again


class Parser(argparse.ArgumentParser):
    """argparse, except that a mistake is one line and not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_PROGRAM}: error: {' '.join(message.split())}\n")


def _parser() -> Parser:
    parser = Parser(prog=_PROGRAM, description="Looks after the sessions of a site. Run it in the folder of the site, "
                    "with its environment and as the account that it runs as.", allow_abbrev=False)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    on_site = Parser(add_help=False, allow_abbrev=False)
    on_site.add_argument("--config", metavar="FILE", help="one more file of settings, as the site is started with")
    on_site.add_argument("--production", action="store_true", help="if the site is started with --production")
    on_site.add_argument("--app", metavar="MODULE:FACTORY", default="app:create_app", help="the function that "
                         "makes the site, called with NAME, FILE, production=True (default: %(default)s)")  # fmt: skip
    one_profile = Parser(add_help=False, allow_abbrev=False)
    one_profile.add_argument(
        "--profile", metavar="NAME", help="the site's profile (default: the one it chooses itself)"
    )
    add = commands.add_parser("list", parents=[one_profile, on_site], help="show the live sessions")
    add.add_argument("--user", metavar="NAME", help="of this account only")
    add.add_argument("--json", action="store_true", help="as JSON, for programs")
    add = commands.add_parser("revoke", parents=[one_profile, on_site], help="end the sessions of an account, or "
                              "one of them")  # fmt: skip
    add.add_argument("--user", metavar="NAME", help="the account; without --reference, all of its sessions")
    add.add_argument("--reference", metavar="REF", help="one session, by the reference that list and the log show")
    commands.add_parser("purge", parents=[one_profile, on_site], help="remove the sessions that have expired, now")
    add = commands.add_parser("copy", parents=[on_site], help="move the sessions of one profile to another, those that "
                              "no visitor has brought along; see docs/operations.md for the steps before")  # fmt: skip
    add.add_argument("--from", dest="former", metavar="PROFILE", required=True, help="where they are")
    add.add_argument("--to", dest="profile", metavar="PROFILE", required=True, help="where the site has them now")
    add = commands.add_parser("sql", help="print the SQL that makes the table of the PostgreSQL sessions")
    add.add_argument("--table", default="sessions", help="its name, or SCHEMA.NAME (default: %(default)s)")
    add = commands.add_parser("convert", help="print a configuration of an older CherryPy (from 0.9 on) as it is "
                              "written today, and on standard error what is for you to decide")  # fmt: skip
    add.add_argument("file", metavar="FILE", help="the old configuration")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "revoke":
        if options.reference is None and not options.user:
            parser.error("revoke needs --user NAME, --reference REF, or both")
        if options.reference is not None and not re.fullmatch("[0-9a-f]{8}", options.reference):
            parser.error(f"--reference is {options.reference!r}: it must be 8 digits, 0-9 and a-f, as list prints them")
    cherrypy.log.screen = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{_PROGRAM}: %(message)s"))
    if options.command == "copy":  # a line for each session would hide how far it is
        handler.setLevel(logging.WARNING)
    log.addHandler(handler)
    try:
        status, text = _run(options)
    except SessionError as error:
        parser.error(str(error))
    finally:
        log.removeHandler(handler)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _run(options: argparse.Namespace) -> tuple[int, str]:
    if options.command == "sql":
        from .backends.postgresql.table import table_sql

        return 0, table_sql(options.table).rstrip("\n")
    if options.command == "convert":
        return 0, _converted(options.file)
    with _opened(options) as places:
        if options.command == "copy":
            return _copied(places, options.former)
        if options.command == "list":
            found = [session for place in places for session in place.sessions.list(options.user)]
            return 0, json.dumps(list(map(_row, found))) if options.json else _table(found)
        if options.command == "purge":
            return 0, _number(sum(place.purge() for place in places), "removed")
        if options.reference is None:
            ended = [place.revoke(options.user) for place in places]
        else:
            ended = [place.sessions.end(options.user, options.reference) for place in places]
    if None in ended:
        return 0, f"All sessions of {options.user!r} end at their next request. How many there are is unknown."
    total = sum(filter(None, ended))
    return 0 if total else 1, _number(total, "ended")


def _converted(file: str) -> str:
    from .convert import convert

    try:
        data = Path(file).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # as editors wrote it when the file was new
    try:
        new, remarks = convert(text)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    for remark in remarks:
        print(f"{file}: {remark}", file=sys.stderr)
    return new


def _copied(places: list[Place], former: str) -> tuple[int, str]:
    """Move what can be moved; on standard error, how far it is, and what could not be."""
    moved, total, kept = 0, 0, dict[str, StoreError]()
    for store in (place.store for place in places):
        if not isinstance(store, MovingStore):
            raise ConfigError("--from and --to have one store: there is nothing to move")
        with suppress(CannotCount):
            total += store.former.count()
        try:
            for reference, problem in store.move_all():
                if problem is None:
                    moved += 1
                else:
                    kept[reference] = problem
                _show_progress(moved + len(kept), total)
        except CannotList as error:
            why = "Its sessions move when their visitors come, as long as the site has moving_from"
            raise CannotList(f"{error}. {why} = {former!r}") from error
        except StoreError as error:
            raise Unavailable(f"{_number(moved, 'moved')}, then: {error}. Run it again to go on") from error
    for reference, problem in kept.items():
        print(f"{_PROGRAM}: session {reference} is still in {former}: {problem}", file=sys.stderr)
    return 2 if kept else 0, _number(moved, "moved")


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        bar = "#" * min(40 * done // max(total, 1), 40)
        print(
            f"\r[{bar:40}] {done} of {max(done, total)}", end="" if done < total else "\n", file=sys.stderr, flush=True
        )


def _number(number: int, what: str) -> str:
    return f"{number} session{'' if number == 1 else 's'} {what}"


class Place(NamedTuple):
    """A store of the site, and the settings that its sessions live under."""

    settings: Settings
    store: Store

    @property
    def sessions(self) -> ActiveSessions:
        """Its sessions, unless only the site's own process sees them: it would look empty here."""
        if not self.store.capabilities.shared:
            what = f"the sessions of {self.settings.storage_class.__name__} cannot be reached from another process"
            raise CannotList(f"{what}. Who shares them? {self.store.capabilities.sharing}")
        return ActiveSessions(self.store, self.settings.limits_of)

    def purge(self) -> int:
        """Remove what has expired by now, and return how many sessions that were."""
        if self.sessions and not self.store.capabilities.purges:
            name, cleaning = self.settings.storage_class.__name__, self.store.capabilities.cleaning
            raise CannotList(f"{name} cannot be purged. {cleaning}")
        total = 0
        while (removed := self.store.purge(_BATCH)) == _BATCH:
            total += removed
        return total + removed

    def revoke(self, user: str) -> int | None:
        """End all sessions of a user by every means there is, and return how many were found and deleted; None where
        only the accounts have ended them."""
        accounts = self.settings.accounts
        known = accounts is not None and valid_since(accounts, user) is not None
        if accounts and known:
            revoke(accounts, user)
        try:
            return self.sessions.end(user)
        except CannotList as error:
            if known:
                return None
            if accounts is None:
                raise
            why = "who is signed in under that name is signed out at the next request"
            raise CannotList(f"the site has no account {as_word(user)}; {why}") from error


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[list[Place]]:
    """Open the stores of a site for the length of a block."""
    former = None
    if options.command == "copy":
        there = _made(options, options.former)
        former = next(configured(there), None)
        close_stores(there)
    factory, app = options.app, _made(options, options.profile)
    if former is not None:
        close_stores(app)
        app.merge({"/": {f"{PREFIX}moving_from": former}})
    try:
        places = [Place(*opened) for opened in open_stores(app)]
        if not places:
            raise ConfigError(f"--app {factory}: no page of it uses sessions of this package")
        _check_account(app, places)
        yield places
    finally:
        close_stores(app)


def _made(options: argparse.Namespace, profile: str | None) -> cherrypy.Application:
    """Make the site with a profile."""
    factory = options.app
    make = _function(factory)
    given = [profile, options.config] if options.config or options.production else [profile]
    try:
        # What holds in production may be another store, and other accounts.
        app = make(*given, production=True) if options.production else make(*given)
    except SessionError:
        raise
    except Exception as error:  # it is the site's: it may raise anything
        raise ConfigError(f"--app {factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(app, cherrypy.Application):
        raise ConfigError(f"--app {factory} returned a {type(app).__name__}: it must return a cherrypy.Application")
    return app


def _function(factory: str) -> Callable[..., Any]:
    module, _, name = factory.partition(":")
    here = os.getcwd()
    if here not in sys.path:  # Python leaves it out with -P and PYTHONSAFEPATH
        sys.path.insert(0, here)
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        what = "run this in the folder of the site, or name MODULE:FUNCTION"
        raise ConfigError(f"--app {factory} cannot be found: {error}; {what}") from error
    if not callable(found):
        raise ConfigError(f"--app {factory} is no function that makes an application")
    return found


def _check_account(app: cherrypy.Application, places: list[Place]) -> None:
    """Refuse to run unless the files of the site (the folders of file sessions, and what it lists as `operators_paths`
    of its [/]) belong to whoever runs this: what root made there, such as the first revocation, the site could not
    read. A folder of root's tells nothing: it may be lent to a group. Windows has no such accounts."""
    if os.name != "posix":
        return
    stored = [dict(place.settings.store).get("storage_path") for place in places]
    stored += [(place.settings.moving_from or {}).get("storage_path") for place in places]
    for path in filter(None, [*stored, *app.config.get("/", {}).get("operators_paths", ())]):
        # While it is not there, the folder above counts. Not Path.exists(): it raises for what is in a closed folder.
        whole = Path(path).absolute()
        owner = next(place for place in (whole, *whole.parents) if os.path.exists(place)).stat().st_uid
        if owner not in (0, os.geteuid()):
            raise ConfigError(
                f"{os.fspath(path)!r} is kept by the account {_name_of(owner)}, and this is {_name_of(os.geteuid())}: "
                f"run it as the account of the site, with sudo -u {_name_of(owner)}"
            )


def _name_of(uid: int) -> str:
    import pwd  # POSIX only

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container, an account may have no name
        return f"#{uid}"  # which sudo takes as well


def _row(session: LiveSession) -> dict[str, Any]:
    """Return what programs are told of a session; the user is None for a visitor who has not signed in."""
    moments = ((name, datetime.fromtimestamp(getattr(session, name), UTC)) for name in ("started", "last_used", "ends"))
    times = {name: moment.strftime("%Y-%m-%dT%H:%M:%SZ") for name, moment in moments}
    return {"reference": session.reference, "user": session.user or None, **times, "remembered": session.remembered}


def _table(found: list[LiveSession]) -> str:
    """Return the same for people, with a line of titles."""
    words = {None: "-", True: "yes", False: "no"}
    titles = ("reference", "user", "started", "last used", "ends", "remembered")
    rows = [titles, *([as_word(v) if isinstance(v, str) else words[v] for v in _row(one).values()] for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
