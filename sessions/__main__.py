"""`python -m sessions sql`: what a database administrator has to know."""

from __future__ import annotations

import argparse

from .backends.postgresql import table_sql
from .errors import ConfigError


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m sessions")
    commands = parser.add_subparsers(dest="command", required=True)
    sql = commands.add_parser("sql", help="print the SQL that makes the table of the PostgreSQL sessions")
    sql.add_argument("--table", default="sessions", help="its name, or SCHEMA.NAME (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        print(table_sql(arguments.table), end="")
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
