"""Two functions that keep sessions in a file of Python's dbm."""

from __future__ import annotations

import dbm
import os
import threading

PATH = os.environ.get("DBM_PATH", "sessions.dbm")
_one_at_a_time = threading.Lock()  # dbm is not made for several threads


def load(id: str) -> str | None:
    """The text saved under `id`, or None. `id` is not what the cookie holds, but its hash."""
    with _one_at_a_time, dbm.open(PATH, "c", 0o600) as file:
        text = file.get(id.encode())
    return text.decode() if text is not None else None


def save(id: str, data: str) -> None:
    """Store a text under `id`."""
    with _one_at_a_time, dbm.open(PATH, "c", 0o600) as file:
        file[id.encode()] = data.encode()


def delete(id: str) -> None:
    """Forget `id`; one that is not there is no error."""
    with _one_at_a_time, dbm.open(PATH, "c", 0o600) as file:
        if id.encode() in file:
            del file[id.encode()]
