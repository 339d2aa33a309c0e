"""A PostgreSQL server of one's own, on loopback, in a folder: for development and for the tests.

Its database and its user are both called sessions. There is no password: everybody on this machine may use it, nobody
from outside can. It is no example for production.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from . import ServiceError, account, free_port

_SECONDS = 30  # a start takes 0.1 s, the first one 1.5 s; only a machine under heavy load, or a defect, gets there
_BUILT = "/usr/lib/postgresql"  # where Debian has the programs, VERSION/bin


class Postgresql:
    """`postgres` on a port of 127.0.0.1, which any program of this machine may use.

    It refuses to run as root; root runs it as nobody.

    Args:
        folder: where its data and log go; made if it is missing.
        port: 0 for a free one; it keeps it over a restart.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """What a site has to be told: the value of DATABASE_URL."""
        return f"postgresql://sessions@127.0.0.1:{self.port}/sessions"

    @property
    def pid(self) -> int | None:
        """The process id of the running server, also of one that another process has started."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.data).encode() in command else None  # a number may have gone to another program

    def start(self) -> None:
        """Start it, and return when it answers. Nothing happens if it runs already.

        Raises:
            ServiceError: PostgreSQL is not installed, or it did not start.
        """
        if self.pid:
            return
        if not (self.data / "PG_VERSION").exists():
            self._make()
        self._process = self._spawn(
            program("postgres"), "-D", str(self.data), "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
        )  # fmt: skip
        end = time.monotonic() + _SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                self._process.wait()
                raise ServiceError(f"PostgreSQL did not start on port {self.port}:\n{self.log()}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it takes connections."""
        command = [program("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.port}", "--timeout=2"]
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603 -- the arguments are ours

    def log(self) -> str:
        """What it has logged."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """End it in order; what is under way is rolled back."""
        if pid := self.pid:
            self.resume()
            os.kill(pid, signal.SIGINT)  # "fast": it waits for no client
            self._wait_for_the_end(pid)

    def kill(self) -> None:
        """End it at once, with SIGKILL and with all its processes."""
        if pid := self.pid:
            self._signal(signal.SIGKILL)
            self._wait_for_the_end(pid)

    def restart(self) -> None:
        """Stop it and start it again, on the same port and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        self._run(
            program("initdb"), "--pgdata", str(self.data), "--username=sessions", "--auth=trust", "--encoding=UTF8",
            "--locale=C.UTF-8", "--no-sync", "--no-instructions",
        )  # fmt: skip
        single = [program("postgres"), "--single", "-D", str(self.data), "-F", "postgres"]
        self._run(*single, text=b"CREATE DATABASE sessions\n")

    def _run(self, *command: str, text: bytes = b"") -> None:
        process = self._spawn(*command, stdin=subprocess.PIPE)
        process.communicate(text, timeout=_SECONDS)
        if process.returncode:
            raise ServiceError(f"{command[0]} failed:\n{self.log()}")

    def _spawn(self, *command: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 -- the arguments are ours
                command, cwd=self.folder, stdin=stdin, stdout=log, stderr=log, start_new_session=True, **account()
            )  # fmt: skip

    def _signal(self, number: int) -> None:
        """To the server first, so that it starts no more, and then to the processes it has started."""
        if pid := self.pid:
            os.kill(pid, number)
            for child in _children(pid):
                with suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(child, number)

    def _wait_for_the_end(self, pid: int) -> None:
        if self._process and self._process.pid == pid:
            self._process.wait(_SECONDS)
            self._process = None
        end = time.monotonic() + _SECONDS
        while Path(f"/proc/{pid}").exists():
            if time.monotonic() > end:
                raise ServiceError(f"PostgreSQL (process {pid}) does not end")
            time.sleep(0.02)


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, of the newest version that is installed.

    Raises:
        ServiceError: PostgreSQL is not installed; the message names the command that does it.
    """
    installed = sorted(Path(_BUILT).glob(f"*/bin/{name}"), key=_version)
    found = str(installed[-1]) if installed else shutil.which(name)
    if not found:
        raise ServiceError("PostgreSQL is missing. Install it with: sudo apt-get install postgresql")
    return found


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.parts[-3]))


def _children(parent: int) -> list[int]:
    """The process ids of a process's children. PostgreSQL's are each a process group of their own."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in text.split()]
