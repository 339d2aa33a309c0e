"""The backends that the tests run on, and the options of each for a site that keeps its things in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BACKENDS = ["ram", "file", "cookie", "functions"]
SECRET = "the tests have no secrets from each other"
SERVER_SIDE = [name for name in BACKENDS if name != "cookie"]  # can revoke: a cookie that was copied does not count
SHARED = ["file"]  # several processes share them, and lock each other out


def options_of(backend: str, place: Path) -> dict[str, Any]:
    """The options of the session tool, without `tools.sessions.` before them."""
    own: dict[str, dict[str, Any]] = {
        "file": {"storage_path": str(place / "sessions")},
        "cookie": {"secret": SECRET},
        "functions": {name: f"pages.sqlite_sessions.{name}" for name in ("load", "save", "delete")},
    }
    return {"storage_type": backend, **own.get(backend, {})}
