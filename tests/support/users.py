"""Where the tests have their users: a database of SQLite, and one of PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.backends import postgresql, table_of

DATABASES = ["sqlite", "postgresql"]


def url_of(database: str, place: Path) -> str:
    """Return the url of users that belong to a folder: of a file, or of a schema."""
    if database == "sqlite":
        return f"sqlite:///{place / 'var' / 'users.sqlite'}"
    with psycopg.connect(postgresql().dsn, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{table_of(place)}"')  # type: ignore[arg-type]
    return f"{postgresql().dsn}?options=-csearch_path%3D{table_of(place)}"


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections from now on wait for a lock for a moment, and not for seconds."""
    monkeypatch.setattr("auth.database._TIMEOUT", 0.05)
    monkeypatch.setattr("sessions.backends.postgresql.connection.Connection.timeout", 0.3)
