"""The backends that the tests run on, and the options of each for a site that keeps its things in one folder."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from services.memcached import Memcached
from services.postgresql import Postgresql
from services.redis import Redis
from services.server import Server

S = TypeVar("S", bound=Server)

BACKENDS = ["ram", "file", "cookie", "functions", "memcached", "postgresql", "redis"]
SECRET = "the tests have no secrets from each other"  # noqa: S105 -- it protects nothing
SERVER_SIDE = [name for name in BACKENDS if name != "cookie"]  # can revoke: a cookie that was copied does not count
SHARED = ["file", "memcached", "postgresql", "redis"]  # several processes share them, and lock each other out


@functools.cache
def memcached() -> Memcached:
    """Return the server of this run of the tests, which stops at its end."""
    return _started(Memcached)


@functools.cache
def redis() -> Redis:
    """Return the server of this run of the tests, which stops at its end."""
    return _started(Redis)


def _started(kind: type[S]) -> S:
    folder = Path(tempfile.mkdtemp(prefix=f"sessions-{kind.name}-"))
    atexit.register(shutil.rmtree, folder)
    server = kind(folder)
    atexit.register(server.stop)
    server.start()
    return server


@functools.cache
def postgresql() -> Postgresql:
    """Return the server of this run of the tests, which stops at its end."""
    folder = Path(tempfile.mkdtemp(prefix="sessions-postgresql-"))
    folder.chmod(0o755)  # its data is in a folder below, for the account it runs as
    atexit.register(shutil.rmtree, folder)
    server = Postgresql(folder / "server")
    atexit.register(server.stop)
    server.start()
    return server


def options_of(backend: str, place: Path) -> dict[str, Any]:
    """Return the options of the session tool, without `tools.sessions.` before them."""
    own: dict[str, dict[str, Any]] = {
        "file": {"storage_path": str(place / "sessions")},
        "cookie": {"secret": SECRET},
        "memcached": {"servers": memcached().address} if backend == "memcached" else {},
        "postgresql": {"dsn": postgresql().dsn, "table": table_of(place)} if backend == "postgresql" else {},
        "redis": {"url": redis().url} if backend == "redis" else {},
        "functions": {name: f"pages.sqlite_sessions.{name}" for name in ("load", "save", "delete")},
    }
    return {"storage_type": backend, **own.get(backend, {})}


def table_of(place: Path) -> str:
    """Return the table that belongs to a folder."""
    return "t_" + re.sub(r"\W", "_", place.name)


def environment_of(profile: str) -> dict[str, str]:
    """Return the environment in which `python app.py --profile PROFILE` finds what it needs."""
    own: dict[str, dict[str, str]] = {
        "cookie": {"SESSION_SECRET": SECRET},
        "memcached": {"MEMCACHED_SERVERS": memcached().address} if profile == "memcached" else {},
        "postgresql": {"DATABASE_URL": postgresql().dsn} if profile == "postgresql" else {},
        "redis": {"REDIS_URL": redis().url} if profile == "redis" else {},
    }
    return own.get(profile, {})
