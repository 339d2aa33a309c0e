"""`python -m sessions`: what an operator does from the command line.

    list      the live sessions of a site
    revoke    end those of a user, or one of them
    purge     remove what has expired, now
    sql       what a database administrator has to know

The exit status is 0; 1 where there was nothing to revoke; 2 where something is wrong, which one line on standard error
says. What is noted of it for the log stands there as well.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import cherrypy

from .backends.pgtable import table_sql
from .errors import SessionError
from .operators import Place, listed, listed_as_json, site
from .store import log
from .stored import StoreHTTPError

_PROGRAM = "python -m sessions"
_REFERENCE = re.compile(r"[0-9a-f]{8}")


class Parser(argparse.ArgumentParser):
    """argparse, except that a mistake is one line and not the whole usage."""

    def error(self, message: str) -> NoReturn:
        """End the program with the message."""
        self.exit(2, f"{_PROGRAM}: error: {' '.join(message.split())}\n")


def _parser() -> Parser:
    parser = Parser(prog=_PROGRAM, description="Looks after the sessions of a site. Run it in the folder of the site, "
                    "with its environment and as the account that it runs as.", allow_abbrev=False)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    on_site = Parser(add_help=False, allow_abbrev=False)
    on_site.add_argument("--profile", metavar="NAME", help="the site's profile (default: the one it chooses itself)")
    on_site.add_argument("--config", metavar="FILE", help="one more file of settings, as the site is started with")
    on_site.add_argument("--production", action="store_true", help="if the site is started with --production")
    on_site.add_argument(
        "--app", metavar="MODULE:FACTORY", default="app:create_app",
        help="the function that makes the site, called with NAME and FILE, and with production=True (default: "
        "%(default)s)",
    )  # fmt: skip

    add = commands.add_parser("list", parents=[on_site], help="show the live sessions")
    add.add_argument("--user", metavar="NAME", help="of this account only")
    add.add_argument("--json", action="store_true", help="as JSON, for programs")
    add = commands.add_parser("revoke", parents=[on_site], help="end the sessions of an account, or one of them")
    add.add_argument("--user", metavar="NAME", help="the account; without --reference, all of its sessions")
    add.add_argument("--reference", metavar="REF", help="one session, by the reference that list and the log show")
    commands.add_parser("purge", parents=[on_site], help="remove the sessions that have expired, now")
    add = commands.add_parser("sql", help="print the SQL that makes or updates the table of the PostgreSQL sessions")
    add.add_argument("--table", default="sessions", help="its name, or SCHEMA.NAME (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "revoke":
        _check_revoke(parser, options)
    cherrypy.log.screen = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{_PROGRAM}: %(message)s"))
    log.addHandler(handler)
    try:
        status, text = _run(options)
    except StoreHTTPError:
        return 2  # whoever raised it has logged why
    except SessionError as error:
        parser.error(str(error))
    finally:
        log.removeHandler(handler)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _check_revoke(parser: Parser, options: argparse.Namespace) -> None:
    if options.reference is None and not options.user:
        parser.error("revoke needs --user NAME, --reference REF, or both")
    if options.reference is not None and not _REFERENCE.fullmatch(options.reference):
        parser.error(f"--reference is {options.reference!r}: it must be 8 digits, 0-9 and a-f, as list prints them")


def _run(options: argparse.Namespace) -> tuple[int, str]:
    """The exit status, and what to print."""
    if options.command == "sql":
        return 0, table_sql(options.table).rstrip("\n")
    with site(options.app, options.profile, options.config, options.production) as places:
        if options.command == "list":
            found = [session for place in places for session in place.directory.list(options.user)]
            return 0, listed_as_json(found) if options.json else listed(found)
        if options.command == "purge":
            return 0, _sessions(sum(place.purge() for place in places), "removed")
        return _revoke(places, options.user, options.reference)


def _revoke(places: list[Place], user: str | None, reference: str | None) -> tuple[int, str]:
    if user and reference is None:
        ended = [place.revoke(user) for place in places]
        if None in ended:
            return 0, f"All sessions of {user!r} end at their next request. How many there are cannot be told."
    else:
        ended = [place.directory.end(user, reference) for place in places]
    total = sum(filter(None, ended))
    return 0 if total else 1, _sessions(total, "ended")


def _sessions(number: int, what: str) -> str:
    return f"{number} session{'' if number == 1 else 's'} {what}"


if __name__ == "__main__":
    sys.exit(main())
