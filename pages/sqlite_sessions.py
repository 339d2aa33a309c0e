"""Two functions that keep sessions in a table of SQLite: all that the profile `functions` needs.

It is CherryPy's oldest way to keep sessions, and still the shortest to a database of one's own. `id` is not the
visitor's id but its hash, so the table gives no session away; `data` is one line of text. Values go in as parameters,
never as parts of the statement.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from contextlib import closing
from pathlib import Path


def _database() -> closing[sqlite3.Connection]:
    path = _made(Path(os.environ.get("STORAGE_PATH") or Path(__file__).parent.parent / "var"))
    return closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=5, isolation_level=None))


@functools.cache
def _made(folder: Path) -> Path:
    """Make the database, once: one that is gone later is an error, and not an empty one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder.resolve() / "sessions.sqlite"
    with closing(sqlite3.connect(path, timeout=5)) as made:
        path.chmod(0o600)
        made.execute("CREATE TABLE IF NOT EXISTS session_data (sessionId TEXT PRIMARY KEY, sessionData TEXT NOT NULL)")
    return path


def load(id: str) -> str | None:
    """The text saved under `id`, or None."""
    with _database() as database:
        row = database.execute("SELECT sessionData FROM session_data WHERE sessionId = ?", (id,)).fetchone()
    return row[0] if row else None


def save(id: str, data: str) -> None:
    """Store a text under `id`."""
    with _database() as database:
        database.execute("INSERT OR REPLACE INTO session_data VALUES (?, ?)", (id, data))


def delete(id: str) -> None:
    """Remove the text of `id`."""
    with _database() as database:
        database.execute("DELETE FROM session_data WHERE sessionId = ?", (id,))
