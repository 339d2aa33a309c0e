"""What the measurements need around them: servers, folders, processes of the site; all gone at the end."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services import ServiceError
from services.memcached import Memcached
from services.postgresql import Postgresql
from services.redis import Redis

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ["ram", "file", "cookie", "functions", "memcached", "postgresql", "redis"]
SHARED = ["file", "memcached", "postgresql", "redis"]  # several processes share them, and lock each other out
SERVERS = ["memcached", "postgresql", "redis"]  # a server works on them: the processor time of this process is not all
_SECRET = "what is measured here is no secret"  # noqa: S105 -- it protects nothing
_SECONDS = 30  # far more than a start or an end takes


@dataclass
class Process:
    """A process of a site.

    Attributes:
        address: host and port.
    """

    popen: subprocess.Popen[str]
    address: tuple[str, int]

    @property
    def processor(self) -> float:
        """Seconds of processor time it has used so far, all threads together (clock_getcpuclockid(3))."""
        return time.clock_gettime((~self.popen.pid << 3) | 2)


class Stage(contextlib.ExitStack):
    """A folder, and servers that are started when they are first asked for; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="sessions-bench-"))
        self.folder.chmod(0o755)  # the servers run as another account
        self.callback(shutil.rmtree, self.folder)

    def new_folder(self, name: str) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    @functools.cached_property
    def memcached(self) -> Memcached:
        """A Memcached with room for all that is put into it."""
        return self.new_memcached()

    def new_memcached(self) -> Memcached:
        """One more."""
        server = Memcached(self.new_folder("memcached"), options=["-m", "1024"])
        self.callback(server.stop)
        server.start()
        return server

    @functools.cached_property
    def postgresql(self) -> Postgresql:
        """A PostgreSQL as it comes: each commit waits for the disk."""
        folder = self.new_folder("postgresql")
        folder.chmod(0o755)
        server = Postgresql(folder / "server")
        self.callback(server.stop)
        server.start()
        return server

    @functools.cached_property
    def redis(self) -> Redis:
        """A Redis that writes nothing to disk."""
        return self.new_redis()

    def new_redis(self) -> Redis:
        """One more."""
        server = Redis(self.new_folder("redis"))
        self.callback(server.stop)
        server.start()
        return server

    def options(self, backend: str, place: Path) -> dict[str, Any]:
        """The options of the session tool for sessions that belong to one folder, or to a table of its name."""
        own: dict[str, Any] = {}
        if backend == "file":
            own = {"storage_path": str(place / "sessions")}
        elif backend == "cookie":
            own = {"secret": _SECRET}
        elif backend == "functions":
            os.environ["STORAGE_PATH"] = str(place)  # where pages/sqlite_sessions.py looks
            own = {name: f"pages.sqlite_sessions.{name}" for name in ("load", "save", "delete")}
        elif backend == "memcached":
            own = {"servers": self.memcached.address}
        elif backend == "postgresql":
            own = {"dsn": self.postgresql.dsn, "table": table(place)}
        elif backend == "redis":
            own = {"url": self.redis.url}
        return {"storage_type": backend, **own}

    @contextlib.contextmanager
    def served(self, options: dict[str, Any], processes: int = 1) -> Iterator[list[Process]]:
        """Processes of the benchmark's own small site (served.py), by HTTP."""
        command = [sys.executable, "-m", "bench.served", json.dumps(options)]
        with _running(command, dict(os.environ), processes) as running:
            yield running

    @contextlib.contextmanager
    def site(self, profile: str, processes: int) -> Iterator[list[Process]]:
        """Processes of the whole site, by HTTP."""
        place = self.new_folder("site")
        config = place / "bench.conf"
        # The X-ray under each page of a lesson costs more than the page; in production there is none.
        config.write_text("[global]\nengine.autoreload.on = False\n[/]\ntools.xray.on = False\n")
        env = {"STORAGE_PATH": str(place / "sessions"), "SESSION_SECRET": _SECRET, "PORT": "0"}
        if profile == "memcached":
            env["MEMCACHED_SERVERS"] = self.memcached.address
        if profile == "postgresql":
            env["DATABASE_URL"] = self.postgresql.dsn
        if profile == "redis":
            env["REDIS_URL"] = self.redis.url
        command = [sys.executable, str(ROOT / "app.py"), "--profile", profile, "--config", str(config)]
        with _running(command, {**os.environ, **env}, processes) as running:
            yield running


def table(place: Path) -> str:
    """The table that belongs to a folder."""
    return "t_" + re.sub(r"\W", "_", place.name)


@contextlib.contextmanager
def _running(command: list[str], env: dict[str, str], processes: int) -> Iterator[list[Process]]:
    with contextlib.ExitStack() as stack:
        yield [_started(command, env, stack) for _ in range(processes)]


def _started(command: list[str], env: dict[str, str], stack: contextlib.ExitStack) -> Process:
    silent = subprocess.DEVNULL
    popen = subprocess.Popen(command, cwd=ROOT, env=env, stdin=silent, stdout=subprocess.PIPE, text=True)  # noqa: S603
    stack.callback(_stop, popen)
    said = popen.stdout.readline() if popen.stdout else ""  # it comes when the site answers, or has ended
    found = re.search(r"http://\S+:\d+", said)
    if not found:
        raise ServiceError(f"{' '.join(command[1:3])} did not start; what it wrote stands above")
    parts = urlsplit(found[0])
    return Process(popen, (str(parts.hostname), int(parts.port or 80)))


def _stop(popen: subprocess.Popen[str]) -> None:
    popen.terminate()
    try:
        popen.wait(_SECONDS)
    finally:
        popen.kill()  # does nothing to one that has ended
        popen.wait()
        if popen.stdout:
            popen.stdout.close()
