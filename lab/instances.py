"""Second processes of this site: few, for a short time, with files of their own, and gone with it."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cherrypy

from lab.child import GOODBYE
from web.settings import ENVIRONMENT, PATHS, ROOT

MOST = 2  # at once
SECONDS = 30  # each of them lives at most, whatever happens
_STOP = 10.0  # seconds in which one stops: it takes a tenth of that
_IDLE = 5  # minutes after which a session goes that an experiment could not end

_PREFIX = "tools.sessions."
_URL = re.compile(rb"Serving (http://\S+) with")
# What reaches a site from the shell it is started in. The rest stays: a driver may need its own, such as PGSSLMODE.
_OF_THIS_SITE = {*ENVIRONMENT, "PROFILE", "DEMO_PASSWORD", "_DEMO_PASSWORD_OF_THIS_START", "LISTEN_PID"}


class InstanceError(RuntimeError):
    """A second site did not start or has ended; the message says what it said."""


@dataclass(frozen=True)
class Place:
    """Where the second sites of one experiment run.

    Attributes:
        folder: of their files.
        profile: its name.
        options: the session options of the profile, without `tools.sessions.`.
    """

    folder: Path
    profile: str
    options: Mapping[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """What they find in their environment, but for the secret: the servers are those of this site."""
        kept = {name: value for name, value in os.environ.items() if name not in _OF_THIS_SITE}
        own = {
            name: value
            for name, (_, option, _) in ENVIRONMENT.items()
            if isinstance(value := self.options.get(option.removeprefix(_PREFIX)), str)
        }
        files = {"STORAGE_PATH": self.folder / "sessions", "USERS_URL": f"sqlite:///{self.folder / 'users.sqlite'}"}
        return {
            **kept, **own, **{name: str(path) for name, path in files.items()},
            "DEMO_PASSWORD": secrets.token_urlsafe(), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip

    def configuration(self) -> Path:
        """Write their configuration: as it is here, without a laboratory, and with no file that is this site's."""
        passed = {option for _, option, _ in ENVIRONMENT.values()}
        options = {
            name: value
            for option, value in self.options.items()
            if (name := _PREFIX + option) not in passed or not isinstance(value, str)
        }
        for name in PATHS:
            if options.get(name):
                options[name] = str(self.folder / name)
        sections: dict[str, dict[str, Any]] = {
            "global": {
                "engine.autoreload.on": False, "server.drain": 0, "server.ssl_certificate": None,
                "server.ssl_private_key": None, "log.access_file": "", "log.error_file": "", "log.screen": False,
            },
            "/": {**options, _PREFIX + "timeout": _IDLE, "mount.lab": "", "tools.proxy.on": False},
            f"profile:{self.profile}": {},
        }  # fmt: skip
        lines = []
        for section, found in sections.items():
            lines += [f"[{section}]", *(f"{name} = {_literal(value)}" for name, value in found.items())]
        path = self.folder / "instance.conf"
        path.write_text("\n".join(lines).replace("%", "%%"), encoding="utf-8")
        return path


def _literal(value: Any) -> str:
    """A value as CherryPy's configuration has it: a class or function by its name."""
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else repr(value)


class Instance:
    """A second site that answers at `url`."""

    def __init__(self, place: Place, secret: str) -> None:
        """Start it and wait until it answers. Raises InstanceError."""
        command = [
            sys.executable, "-m", "lab.child", str(SECONDS), str(place.folder),
            "--profile", place.profile, "--host", "127.0.0.1", "--port", "0", "--config", str(place.configuration()),
        ]  # fmt: skip
        environment = place.environment | ({"SESSION_SECRET": secret} if "secret" in place.options else {})
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(  # noqa: S603 -- the profile is one of site.conf
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
                start_new_session=True,  # Ctrl-C is for the first site, which ends this one
            )  # fmt: skip
            try:
                self.url = self._read_url(said)
            except BaseException:
                self.stop()
                raise

    def _read_url(self, said: IO[bytes]) -> str:
        assert self._process.stdout is not None  # noqa: S101 -- a pipe, see above
        for line in self._process.stdout:  # it ends with the process, which has its time
            if found := _URL.search(line):
                return found[1].decode()
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
        raise InstanceError(f"A second site did not start. {last or 'It said nothing.'}")

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        try:
            self._process.communicate(GOODBYE, timeout=_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


class Instances:
    """The second sites of an experiment; all of them end with this one."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(MOST)
        self._mutex = threading.Lock()
        self._running: set[Instance] = set()
        cherrypy.engine.subscribe("stop", self.stop_all, priority=5)  # before the site waits for its own requests

    @contextmanager
    def place(self, profile: str, options: Mapping[str, Any]) -> Iterator[Place]:
        """A folder for second sites, which end with the block."""
        with tempfile.TemporaryDirectory(prefix="sessions-lab-", ignore_cleanup_errors=True) as folder:
            try:
                yield Place(Path(folder), profile, options)
            finally:
                self.stop_all()

    def start(self, place: Place, secret: str) -> Instance:
        """Start one. Raises InstanceError, also when MOST run already."""
        if not self._free.acquire(blocking=False):
            raise InstanceError(f"{MOST} second sites run already, and there are never more.")
        try:
            if cherrypy.engine.state is cherrypy.engine.states.STOPPING:
                raise InstanceError("This site is about to stop.")
            instance = Instance(place, secret)
        except BaseException:
            self._free.release()
            raise
        with self._mutex:
            self._running.add(instance)
        return instance

    def stop(self, instance: Instance) -> None:
        """Stop one. Stopping a stopped one does nothing."""
        with self._mutex:
            if instance not in self._running:
                return
            self._running.discard(instance)
        instance.stop()
        self._free.release()

    def stop_all(self) -> None:
        """Stop what runs."""
        with self._mutex:
            running = list(self._running)
        for instance in running:
            self.stop(instance)
