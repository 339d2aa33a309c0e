"""The site as a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import contextlib
import functools
import grp
import http.client
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from tests.support import leaks

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 30  # far more than a start takes: only a machine under heavy load, or a defect, gets there
STOP_SECONDS = 15
# What would reach the site from the shell of whoever runs the tests.
CLEANED = (
    "PROFILE", "HOST", "PORT", "STORAGE_PATH", "DEMO_PASSWORD", "DATABASE_URL", "MEMCACHED_SERVERS", "SESSION_SECRET",
    "ACCOUNTS_PATH", "LISTEN_PID", "PYTHONPATH", "SCRIPT_NAME", "MOUNT",
)  # fmt: skip
LESSONS = (ROOT / "lessons").is_dir()  # or the pages of the tests, which are at some of their addresses
MOUNTED = {} if LESSONS else {"MOUNT": "tests.support.pages"}
_OF_LESSONS = ("/cookie", "/session", "/backends", "/glossary")


class SiteError(AssertionError):
    """The site did not start or did not stop; the message ends with what it printed."""


@functools.cache
def account() -> dict[str, Any]:
    """Return the arguments of Popen that run the site without privileges; none where that is not possible.

    root may read, write and delete anything, and a test that expects a refusal would prove nothing. So root's tests
    start the site as nobody, if nobody can execute this Python and read the project, which is tried.
    """
    if os.geteuid() != 0:
        return {}
    nobody: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    command = [sys.executable, "-c", "import cherrypy; from web import settings; settings.read(settings.SITE_CONF)"]
    try:
        subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True, **nobody)
    except (OSError, ValueError, LookupError, subprocess.CalledProcessError):
        return {}
    return nobody


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for the site: this process's own without its settings, and then extra."""
    kept = {name: value for name, value in os.environ.items() if name not in CLEANED}
    return {**kept, "HOME": tempfile.gettempdir(), "PYTHONDONTWRITEBYTECODE": "1", **MOUNTED, **(extra or {})}


def mounted(addresses: Iterable[str]) -> list[str]:
    """Return which of these addresses (`/name`, `POST /name`) the site has that is tested."""
    return [one for one in addresses if LESSONS or not one.split()[-1].startswith(_OF_LESSONS)]


def folder() -> Path:
    """Return a new empty folder that belongs to the account of the site. (pytest's tmp_path is closed to nobody.)"""
    path = Path(tempfile.mkdtemp(prefix="sessions-site-"))
    if account():
        os.chown(path, pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid)
    return path


def run(*args: str, env: Mapping[str, str] | None = None, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python app.py` to its end, with the account and environment of Site; for commands that do not serve."""
    command = [sys.executable, str(root / "app.py"), *args]
    ended = subprocess.run(
        command, env=environment(env), capture_output=True, text=True, timeout=START_SECONDS, **account()
    )
    leaks.spool.wrote("console", ended.stdout + ended.stderr)
    return ended


def free_port() -> int:
    """Return the number of a port that nobody uses at the moment, for tests that must know it before the start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Site:
    """`python app.py`, started on a free port, answering when the constructor returns; a context manager.

        with Site(profile="file", env={"DEMO_PASSWORD": "secret"}) as site:
            response, body = site.request("GET", "/counter", {"Accept": "application/json"})
            site.restart()           # same storage, same port, a new process
            assert site.stop() == 0  # SIGTERM; leaving the block does the same

    profile   --profile, or None to leave it to the other settings
    env       more environment variables; the tester's own PROFILE, HOST, PORT and so on never reach the site
    args      more arguments of the command line
    config    an extra configuration, {section: {option: value}}: {"/": {"tools.sessions.timeout": 0.1}}
    storage   folder of the sessions, as STORAGE_PATH; without one, an own temporary folder that close() removes.
              Give the same folder (from folder()) to two Sites and they share their sessions
    port      the port to serve on; 0 takes a free one, and restart() keeps it
    root      the project's folder; a test that changes files gives a copy
    reload    True leaves CherryPy's autoreloader on; else files may change under a running test
    command   what to start instead of `python app.py` (a shell command, for the Procfile)

    Raises SiteError, with the site's output, when it ends or does not answer in time.
    """

    def __init__(
        self,
        profile: str | None = "file",
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        config: Mapping[str, Mapping[str, Any]] | None = None,
        storage: Path | None = None,
        port: int = 0,
        root: Path = ROOT,
        reload: bool = False,
        command: str | None = None,
    ) -> None:
        self.env, self.port, self.root = dict(env or {}), port, root
        self.scratch = folder()
        self.storage = storage or self.scratch / "sessions"
        extra = {section: dict(options) for section, options in (config or {}).items()}
        extra.setdefault("global", {}).setdefault("engine.autoreload.on", reload)
        extra["global"].setdefault("log.access_file", str(self.scratch / "access.log"))
        own = ["--config", str(self._write(extra))] + (["--profile", profile] if profile else [])
        python = [sys.executable, str(root / "app.py"), *own, *args]
        self.command = ["sh", "-c", f"exec {command}"] if command else python
        self.process: subprocess.Popen[bytes] | None = None
        leaks.spool.password(self.env.get("DEMO_PASSWORD", ""))
        leaks.spool.sources.append(self)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def _write(self, config: Mapping[str, Mapping[str, Any]]) -> Path:
        lines = []
        for section, options in config.items():
            lines += [f"[{section}]", *(f"{option} = {value!r}" for option, value in options.items())]
        path = self.scratch / "extra.conf"
        path.write_text("\n".join(lines).replace("%", "%%"), encoding="utf-8")
        path.chmod(0o644)
        return path

    def start(self) -> None:
        """Start the process and wait until it answers."""
        env = environment({"PORT": str(self.port), "STORAGE_PATH": str(self.storage), **self.env})
        self.log = tempfile.TemporaryFile()
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log}
        self.process = subprocess.Popen(self.command, cwd=self.root, env=env, **streams, **account())
        self.wait_until(self.answers, "answer", START_SECONDS)
        self.port = self.address[1]

    @property
    def url(self) -> str:
        """The address that the site printed last, without a slash at the end."""
        return str(re.findall(r"http://\S+:\d+", self.output())[-1])

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for http.client and socket."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def output(self) -> str:
        """Return what the process has printed since it was started, standard output and error together."""
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors="replace")

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send one request on a connection of its own; return the answer and its body. Follows no redirect."""
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=START_SECONDS)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            leaks.spool.sent(headers or {}, body)
            response = connection.getresponse()
            answer = response.read()
            leaks.spool.answered(f"{method} {path}", response.getheaders(), answer)
            return response, answer

    def told(self) -> Iterator[tuple[str, bytes]]:
        """Everything that the site has written so far, for the search for secrets: printed, logged, and stored."""
        yield "log", self.output().encode()
        for folder in {self.scratch, self.storage}:
            for path in folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # the site may be at work
                    if path.is_file():
                        yield "file", path.name.encode() + b"\n" + path.read_bytes()

    def answers(self) -> bool:
        """Return whether /healthz answers, with whatever status."""
        try:
            self.request("GET", "/healthz")
        except (IndexError, OSError, http.client.HTTPException):
            return False
        return True

    def wait_until(self, happened: Any, what: str, seconds: float = START_SECONDS) -> None:
        """Wait until happened() is true; SiteError when the process ends before, or the seconds do."""
        end = time.monotonic() + seconds
        while not happened():
            if self.process is None or self.process.poll() is not None:
                raise SiteError(f"the site ended before it did {what}:\n{self.output()}")
            if time.monotonic() > end:
                raise SiteError(f"the site did not {what} within {seconds} seconds:\n{self.output()}")
            time.sleep(0.02)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send the signal, wait for the end and return the exit status. Raises SiteError when there is no end."""
        if self.process is None:
            raise SiteError("the site is not running")
        self.process.send_signal(signum)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise SiteError(f"the site did not stop within {STOP_SECONDS} seconds:\n{self.output()}") from error

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """Stop the site if it runs, and start it again on the same storage and port."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        leaks.spool.wrote("log", self.output())
        self.log.close()
        self.start()

    def close(self) -> None:
        """Stop the site if it runs and remove its temporary folder."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
        finally:
            leaks.spool.sources.remove(self)
            for place, text in self.told():
                leaks.spool.wrote(place, text)
            self.log.close()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
