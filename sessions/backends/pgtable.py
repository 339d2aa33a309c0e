"""The table in which `postgresql.py` keeps sessions: its SQL, and how it is made or brought up to date at the start."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from .pglink import Link, Links

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}(\.[A-Za-z_][A-Za-z0-9_]{0,49})?", re.ASCII)
_START_TIMEOUT = 10.0  # seconds for which a start waits for whoever uses the table, or is making it
_INDEX_TIMEOUT = 120.0  # seconds in which a table that is there already has its new index; a million rows take two

# A page is filled to 70 %, so that the next version of a row fits on it. Such an update is "heap-only" (HOT): it
# touches no index and is tidied up by the next reader, as long as no indexed column changes. So the deadline, which has
# an index for the cleaner, is moved seldom (rule 7), and the data has no index at all. The account of a session never
# changes: a sign-in makes a new row.
#
# The index of accounts leaves out who has not signed in. It has the keys, too, and gives them in order, a batch at a
# time: one of the account alone was passed over for the primary key while the table had not been analysed. And it has
# only the beginning of the account, for it refuses what is longer than 2704 bytes.
#
# What came after the first four columns is added to a table of the version before by the same commands. A process of
# that version goes on meanwhile: it names its columns. ALTER comes before the indexes, for it takes the strongest lock:
# taken later, on top of theirs, it was a deadlock with each request that had locked its session and went on to save it.
_TABLE = """\
CREATE TABLE IF NOT EXISTS {table} (
    key text COLLATE "C" PRIMARY KEY,    -- the application's prefix and the SHA-256 of the session id
    data text NOT NULL,                  -- JSON; empty for a session that has moved to another key
    created double precision NOT NULL,   -- epoch seconds
    deadline double precision NOT NULL   -- epoch seconds
) WITH (fillfactor = 70);
ALTER TABLE {table}
    ADD COLUMN IF NOT EXISTS account text NOT NULL DEFAULT '',            -- percent-quoted; empty: nobody signed in
    ADD COLUMN IF NOT EXISTS remembered boolean NOT NULL DEFAULT false;   -- the user asked to stay signed in
CREATE INDEX IF NOT EXISTS {name}_deadline" ON {table} (deadline);
CREATE INDEX IF NOT EXISTS {name}_account" ON {table} (left(account, 500), key) WHERE account <> '';
"""
_RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
_USABLE = """SELECT key, data, created, deadline, account, remembered FROM {table} LIMIT 0;
SELECT bool_and(has_table_privilege('{table}', privilege)) FROM unnest(string_to_array(%s, ', ')) AS privilege"""
_OF_VERSION_BEFORE = "SELECT key, data, created, deadline FROM {table} LIMIT 0"


def table_sql(table: str = "sessions") -> str:
    """The SQL that makes the table, or brings one of an earlier version up to date, for an administrator who does it by
    hand. It is done whole or not at all. Running it again changes nothing.

    Args:
        table: its name, with its schema before a dot if need be.

    Raises:
        ConfigError: it is no name for a table.
    """
    return f"BEGIN;\n{_commands(table)}COMMIT;\n"


def _commands(table: str) -> str:
    return _TABLE.replace("{table}", quoted(table)).replace("{name}", '"' + table.split(".")[-1])


def quoted(table: Any) -> str:
    """The name of a table as it stands in a statement.

    Raises:
        ConfigError: it is no name for a table.
    """
    if not isinstance(table, str) or not _NAME.fullmatch(table):
        raise ConfigError(
            f"table is {table!r}: it must be letters, digits and _, not a digit first, at most 50, "
            "with a schema before a dot if need be"
        )
    return ".".join(f'"{part}"' for part in table.split("."))


def prepare(links: Links, table: str) -> None:
    """Look at the table, which needs no right but to use it; make it if it is missing, and bring it up to date if a
    version before made it.

    Raises:
        ConfigError: it cannot be used; the message names the command that prints its SQL.
        Unavailable: the server does not answer.
    """
    from psycopg import errors

    def wrong(why: str) -> ConfigError:
        return ConfigError(
            f"table {table} in PostgreSQL at {links.address} cannot be used: {why.splitlines()[0]}; "
            f"its SQL: python -m sessions sql --table {table}"
        )

    with links.alone() as link:
        try:
            usable = _made_usable(link, table)
        except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as error:
            raise wrong(str(error)) from error
        except errors.UndefinedColumn as error:
            raise wrong("it is there, and has other columns") from error
        except errors.LockNotAvailable as error:
            raise wrong(f"it must be made or brought up to date, and was in use for {_START_TIMEOUT:g} s") from error
    if not usable:
        raise wrong(f"its user needs the rights {_RIGHTS}")


def _made_usable(link: Link, table: str) -> bool:
    from psycopg import errors

    try:
        return _is_usable(link, table)
    except errors.UndefinedTable:
        pass
    except errors.UndefinedColumn:
        link.ask(_OF_VERSION_BEFORE.replace("{table}", quoted(table)))  # the table of something else is left alone
    try:
        _make(link, table)
    except errors.InsufficientPrivilege as error:
        raise errors.InsufficientPrivilege(
            f"it is missing or of an earlier version, and its user may not change that: {error}"
        ) from error
    return _is_usable(link, table)


def _is_usable(link: Link, table: str) -> bool:
    return link.ask(_USABLE.replace("{table}", quoted(table)), _RIGHTS).set_result(1).fetchone() == (True,)


def _make(link: Link, table: str) -> None:
    """IF NOT EXISTS is not enough where two processes start at once: both find nothing, and one fails."""
    link.ask_for_lock(
        f"SELECT pg_advisory_xact_lock(hashtext(%s)); {_commands(table)} COMMIT",
        f"sessions table {table}", timeout=_START_TIMEOUT, extra=_INDEX_TIMEOUT,
    )  # fmt: skip
