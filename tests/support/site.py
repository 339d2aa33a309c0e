"""The site as a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from auth.accounts import Accounts, Taken
from auth.database import Database
from tests.support import leaks
from tests.support.client import Client
from tests.support.process import LESSONS, ROOT, START_SECONDS, Process, account, environment, folder

_OF_LESSONS = ("/cookie", "/session", "/backends", "/glossary")


def mounted(addresses: Iterable[str]) -> list[str]:
    """Return which of these addresses (`/name`, `POST /name`) the site has that is tested."""
    return [one for one in addresses if LESSONS or not one.split()[-1].startswith(_OF_LESSONS)]


def run(*args: str, env: Mapping[str, str] | None = None, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python app.py` to its end, with the account and environment of Site; for commands that do not serve."""
    command = [sys.executable, str(root / "app.py"), *args]
    ended = subprocess.run(
        command, env=environment(env), capture_output=True, text=True, timeout=START_SECONDS, **account()
    )
    leaks.recorder.wrote("console", ended.stdout + ended.stderr)
    return ended


class Site(Process):
    """`python app.py`, started on a free port, answering when the constructor returns; a context manager.

        with Site(profile="file", env={"DEMO_PASSWORD": "secret"}) as site:
            response = site.client().get("/counter", accept="application/json")
            site.restart()           # same storage, same port, a new process
            assert site.stop() == 0  # SIGTERM; leaving the block does the same

    profile   --profile, or None to leave it to the other settings
    env       more environment variables; the tester's own PROFILE, HOST, PORT and so on never reach the site
    args      more arguments of the command line
    config    an extra configuration, {section: {option: value}}: {"/": {"tools.sessions.timeout": 0.1}}
    users     accounts that the site has besides, the hash of each by its name
    storage   folder of the sessions, as STORAGE_PATH; without one, an own temporary folder that close() removes.
              Give the same folder (from folder()) to two Sites and they share their sessions
    port      the port to serve on; 0 takes a free one, and restart() keeps it
    root      the project's folder; a test that changes files gives a copy
    reload    True leaves CherryPy's autoreloader on; else files may change under a running test
    command   what to start instead of `python app.py` (a shell command, for the Procfile)
    url       where it is, if it does not print that
    """

    tls: ssl.SSLContext | None = None  # of a site with https

    def __init__(
        self,
        profile: str | None = "file",
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        config: Mapping[str, Mapping[str, Any]] | None = None,
        users: Mapping[str, str] | None = None,
        storage: Path | None = None,
        port: int = 0,
        root: Path = ROOT,
        reload: bool = False,
        command: str | None = None,
        url: str = "",
    ) -> None:
        self.port, self.scratch = port, folder()
        self.storage = storage or self.scratch / "sessions"
        extra = {section: dict(options) for section, options in (config or {}).items()}
        extra.setdefault("global", {}).setdefault("engine.autoreload.on", reload)
        extra["global"].setdefault("log.access_file", str(self.scratch / "access.log"))
        own = ["--config", str(self._write(extra))] + (["--profile", profile] if profile else [])
        python = [sys.executable, str(root / "app.py"), *own, *args]
        leaks.recorder.password((env or {}).get("DEMO_PASSWORD", ""))
        self.users_url = (env or {}).get("USERS_URL") or f"sqlite:///{self.storage}/users.sqlite"
        for name, hash in (users or {}).items():
            with contextlib.suppress(Taken):  # another process of the same site
                Accounts(Database(self.users_url)).insert(name, hash, valid_since=0.0)
        started = ["sh", "-c", f"exec {command}"] if command else python
        super().__init__(started, cwd=root, env=env, url=url, account=account(), scratch=self.scratch)
        self.port = self.address[1]

    def _write(self, config: dict[str, dict[str, Any]]) -> Path:
        lines = []
        for section, options in config.items():
            lines += [f"[{section}]", *(f"{option} = {value!r}" for option, value in options.items())]
        path = self.scratch / "extra.conf"
        path.write_text("\n".join(lines).replace("%", "%%"), encoding="utf-8")
        path.chmod(0o644)
        return path

    def variables(self) -> dict[str, str]:
        """Return its environment."""
        own = {"PORT": str(self.port), "STORAGE_PATH": str(self.storage), "USERS_URL": self.users_url}
        return environment({**own, **self.env})

    def client(self) -> Client:
        """Return somebody who has never been here."""
        return Client(self.url, tls=self.tls)

    def ready(self) -> bool:
        """Return whether /healthz answers, with whatever status."""
        try:
            self.client().get("/healthz")
        except (IndexError, OSError, http.client.HTTPException):
            return False
        return True

    def told(self) -> Iterator[tuple[str, bytes]]:
        """Yield what it has written so far, for the search for secrets: printed, logged, and stored."""
        yield from super().told()
        for place in {self.scratch, self.storage}:
            for path in place.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # the site may be at work
                    if path.is_file():
                        yield "file", path.name.encode() + b"\n" + path.read_bytes()
