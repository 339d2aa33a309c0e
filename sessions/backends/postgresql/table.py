"""The SQL of the table in which sessions are kept. Needs no driver.

A row is in format 1, frozen: every later release reads it.
"""
# ruff: noqa: S608 -- all that is put into a statement is the name of a table, and `quoted` has checked it

from __future__ import annotations

import re
from typing import Any

from ...errors import ConfigError

FORMAT = 1
COLUMNS = "format, kind, created, deadline, timeout, account, remembered, data"
RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
UNREADABLE = "unreadable:"  # what the key of a quarantined row begins with

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}(\.[A-Za-z_][A-Za-z0-9_]{0,49})?", re.ASCII)

# A page is filled to 70 %, so that the next version of a row fits on it. Such an update is "heap-only" (HOT): it
# touches no index and is tidied up by the next reader, as long as no indexed column changes. Of those the deadline
# moves seldom (rule 7), and the account never: a sign-in makes a new row. The index of accounts has the keys, for one
# without was passed over for the primary key while the table had not been analysed, and only the beginning of the
# account, for it refuses what is longer than 2704 bytes.
_TABLE = """\
BEGIN;
CREATE TABLE IF NOT EXISTS {table} (
    key text COLLATE "C" PRIMARY KEY,    -- the application's prefix and the SHA-256 of the session id
    format smallint NOT NULL DEFAULT 1,  -- of this row
    kind text NOT NULL,                  -- session; or moved, and data is the key that it has moved to
    created double precision NOT NULL,   -- epoch seconds
    deadline double precision NOT NULL,  -- epoch seconds
    timeout double precision,            -- minutes, where the session has its own
    account text NOT NULL,               -- percent-quoted; empty: nobody signed in
    remembered boolean NOT NULL,         -- the user asked to stay signed in
    data text NOT NULL                   -- the values, as JSON
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS {name}_deadline" ON {table} (deadline);
CREATE INDEX IF NOT EXISTS {name}_account" ON {table} (left(account, 500), key) WHERE account <> '';
COMMIT;
"""


class Statements:
    """The statements of a store, for its table."""

    def __init__(self, table: str) -> None:
        name, values = quoted(table), ", ".join("%s" for _ in COLUMNS.split())
        self.load = f"SELECT {COLUMNS} FROM {name} WHERE key = %s"
        self.acquire = f"{self.load} FOR UPDATE"
        # An upsert, for it is sent twice where the connection broke, and the first may have arrived.
        self.save = f"""INSERT INTO {name} ({COLUMNS}, key) VALUES ({values}, %s)
ON CONFLICT (key) DO UPDATE SET ({COLUMNS}) = (excluded.{COLUMNS.replace(" ", " excluded.")})"""
        self.update = f"UPDATE {name} SET ({COLUMNS}) = ({values}) WHERE key = %s"
        self.remove = f"DELETE FROM {name} WHERE key = %s"
        self.check = f"{self.save}; {self.acquire}; {self.remove}"  # a row that nobody sees, but for all rights
        self.quarantine = f"UPDATE {name} SET key = '{UNREADABLE}' || key WHERE key = %s"
        # The array is worked out once; a plain IN (SELECT ...) may be run again for each row, and deletes too many.
        self.purge = f"""DELETE FROM {name} WHERE key = ANY(ARRAY(SELECT key FROM {name}
WHERE deadline <= %s ORDER BY deadline LIMIT %s FOR UPDATE SKIP LOCKED)) RETURNING {COLUMNS}, key"""
        live = f"FROM {name} WHERE key LIKE %s AND deadline > %s AND kind = 'session'"
        self.count = f"SELECT count(*) {live}"
        self.scan = f"SELECT {COLUMNS}, key {live} AND key > %s ORDER BY key LIMIT %s"
        of_user = "account <> '' AND left(account, 500) = left(%s, 500) AND account = %s"  # the index has the first 500
        self.live = self.scan.replace("ORDER", f"AND {of_user} ORDER")


def table_sql(table: str = "sessions") -> str:
    """Return the SQL that makes the table, whole or not at all. Running it again changes nothing."""
    return _TABLE.replace("{table}", quoted(table)).replace("{name}", '"' + table.split(".")[-1])


def quoted(table: Any) -> str:
    """Return the name of a table as it stands in a statement."""
    if not isinstance(table, str) or not _NAME.fullmatch(table):
        rule = "at most 50 letters, digits and _, not a digit first, with a schema before a dot if need be"
        raise ConfigError(f"table is {table!r}: it must be {rule}")
    return ".".join(f'"{part}"' for part in table.split("."))
