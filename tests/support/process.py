"""A program that runs while a test does: how it is started, what it prints, and how it ends."""

from __future__ import annotations

import atexit
import functools
import grp
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import urlsplit

from services import ServiceError
from tests.support import leaks

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 30  # far more than a start takes: only a machine under heavy load, or a defect, gets there
STOP_SECONDS = 15
# What would reach the site from the shell of whoever runs the tests.
CLEANED = (
    "PROFILE", "HOST", "PORT", "STORAGE_PATH", "DEMO_PASSWORD", "DATABASE_URL", "REDIS_URL", "MEMCACHED_SERVERS",
    "SESSION_SECRET", "USERS_URL", "ACCOUNTS_PATH", "LISTEN_PID", "PYTHONPATH", "SCRIPT_NAME", "MOUNT",
    "TRUSTED_PROXIES", "SITE_URL", "SMTP_URL", "MAIL_FROM",
)  # fmt: skip
LESSONS = (ROOT / "lessons").is_dir()  # or the pages of the tests, which are at some of their addresses
MOUNTED = {} if LESSONS else {"MOUNT": "tests.support.pages"}


class ProcessError(AssertionError):
    """A process did not start or stop, or ended too early; the message ends with what it printed."""


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
    own = {"HOME": tempfile.gettempdir(), "PYTHONDONTWRITEBYTECODE": "1", "USERS_URL": _users()}
    return {**kept, **own, **MOUNTED, **(extra or {})}


@functools.cache
def _users() -> str:
    """Return the url of the users of a site that is given none: never those of the project."""
    place = tempfile.mkdtemp(prefix="sessions-users-")
    if os.geteuid() == 0:
        shutil.chown(place, "nobody", "nogroup")
    atexit.register(shutil.rmtree, place)
    return f"sqlite:///{place}/users.sqlite"


def folder() -> Path:
    """Return a new empty folder that belongs to the account of the site. (pytest's tmp_path is closed to nobody.)"""
    path = Path(tempfile.mkdtemp(prefix="sessions-site-"))
    if account():
        os.chown(path, pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid)
    return path


def installed(name: str) -> str:
    """Return the path of a server's program. Raises ServiceError."""
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        raise ServiceError(f"{name} is missing. Install it with: sudo apt-get install {name}")
    return program


def wait_until(happened: Callable[[], Any], what: str = "that") -> None:
    """Wait until happened() is true; AssertionError when it takes far too long."""
    end = time.monotonic() + START_SECONDS
    while not happened():
        assert time.monotonic() < end, f"did not happen: {what}"
        time.sleep(0.01)


class Process:
    """A program that is ready when the constructor returns; a context manager.

    Args:
        command: the program and its arguments.
        cwd: where it runs.
        env: more variables for its environment.
        url: where it is, if it does not print that.
        account: arguments of Popen, as `account()` returns them; without any it runs as whoever runs the tests.
        stdin: what it reads.
        scratch: a folder of its own, which close() removes.

    Attributes:
        log: what it has printed, standard output and error together.

    Raises:
        ProcessError: it ended, or was not ready in time.
    """

    scheme = "http"
    ends_with: int = signal.SIGTERM  # how close() stops it

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        url: str = "",
        account: Mapping[str, Any] | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        scratch: Path | None = None,
    ) -> None:
        self.command, self.cwd, self.env = command, cwd, dict(env or {})
        self._url, self._scratch = url, scratch
        self._options: dict[str, Any] = {"stdin": stdin, **(account or {})}
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.log = tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                self.command, cwd=self.cwd, env=self.variables(), stdout=self.log, stderr=self.log, **self._options
            )
        except BaseException:  # a test that may start no program is skipped here
            self.log.close()
            raise
        leaks.recorder.sources.append(self)
        try:
            self.wait_until(self.ready, "start")
        except BaseException:
            self.close()
            raise

    def variables(self) -> dict[str, str]:
        """Return its environment."""
        return environment(self.env)

    def ready(self) -> bool:
        """Return whether it can be asked."""
        try:
            socket.create_connection(self.address, START_SECONDS).close()
        except (IndexError, OSError):
            return False
        return True

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end. Raises IndexError as long as it has not printed that."""
        return self._url or re.findall(rf"{self.scheme}://\S+:\d+(?=\D)", self.output())[0]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for a socket."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def output(self) -> str:
        """Return what it has printed since it was started."""
        return os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode(errors="replace")

    def told(self) -> Iterator[tuple[str, bytes]]:
        """Yield what it has written so far, for the search for secrets."""
        yield "log", self.output().encode()

    def wait_until(self, happened: Callable[[], Any], what: str) -> None:
        """Wait until happened() is true; ProcessError when the process ends before, or it takes far too long."""
        end = time.monotonic() + START_SECONDS
        while not happened():
            if self.process.poll() is not None:
                raise ProcessError(f"it ended before it did {what}:\n{self.output()}")
            if time.monotonic() > end:
                raise ProcessError(f"it did not {what} within {START_SECONDS} seconds:\n{self.output()}")
            time.sleep(0.02)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send the signal, wait for the end and return the exit status. Raises ProcessError when there is no end."""
        self.process.send_signal(signum)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise ProcessError(f"it did not stop within {STOP_SECONDS} seconds:\n{self.output()}") from error

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Stop it if it runs, and start it again."""
        self._end()
        self.start()

    def close(self) -> None:
        """Stop it if it runs, and remove its folder."""
        try:
            self._end()
        finally:
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self) -> None:
        if self.log.closed:
            return
        try:
            if self.process.poll() is None:
                self.stop(self.ends_with)
        finally:
            leaks.recorder.sources.remove(self)
            for place, text in self.told():
                leaks.recorder.wrote(place, text)
            self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
