"""`python -m services start|stop|status`: Memcached and PostgreSQL for development, in var/services of the project.

Both listen on 127.0.0.1 only, as an unprivileged account, and take whoever is on this machine without a password. No
service of the system is touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from . import ServiceError, account
from .memcached import Memcached
from .postgresql import Postgresql

FOLDER = Path(__file__).resolve().parent.parent / "var" / "services"
_SECONDS = 30  # an end takes less than one


class Development:
    """The two servers on their usual ports, which are not the ports of the system's own.

    Args:
        folder: where their data, logs and process ids are kept.
        memcached_port, postgresql_port: on 127.0.0.1.
    """

    def __init__(self, folder: Path = FOLDER, memcached_port: int = 11311, postgresql_port: int = 55432) -> None:
        self.folder = folder
        self.memcached = Memcached(folder / "memcached", memcached_port)
        self.postgresql = Postgresql(folder / "postgresql", postgresql_port)
        self._pid_file = folder / "memcached.pid"

    def start(self) -> None:
        """Start what does not run.

        Raises:
            ServiceError: a server cannot be started.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if account():
            shutil.chown(self.folder, "nobody", "nogroup")
        if not self._memcached_pid():
            if self.memcached.answers():
                raise ServiceError(f"port {self.memcached.port} is in use by another program")
            self.memcached.start()
            if self.memcached.process:
                self._pid_file.write_text(f"{self.memcached.process.pid}\n")
        self.postgresql.start()

    def stop(self) -> None:
        """Stop what runs."""
        self.memcached.stop()  # does nothing if another process has started it
        if pid := self._memcached_pid():
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + _SECONDS
            while self._memcached_pid():
                if time.monotonic() > end:
                    raise ServiceError(f"memcached (process {pid}) does not end")
                time.sleep(0.02)
        self._pid_file.unlink(missing_ok=True)
        self.postgresql.stop()

    def status(self) -> str:
        """A line for each server."""
        running = {"memcached": self._memcached_pid(), "postgresql": self.postgresql.pid}
        ports = {"memcached": self.memcached.port, "postgresql": self.postgresql.port}
        return "\n".join(
            f"{name} runs on 127.0.0.1:{ports[name]} (process {pid})" if pid else f"{name} does not run"
            for name, pid in running.items()
        )

    def settings(self) -> str:
        """What a site has to be told, as shell commands."""
        return f"export MEMCACHED_SERVERS={self.memcached.address}\nexport DATABASE_URL={self.postgresql.dsn}"

    def _memcached_pid(self) -> int | None:
        """The process in the pid file, if it still is that server: its number may have gone to another program."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if b"memcached" in command[0] and str(self.memcached.port).encode() in command else None


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services", description="Servers for development, on loopback.")
    parser.add_argument("command", choices=["start", "stop", "status"])
    command = parser.parse_args().command
    servers = Development()
    try:
        if command == "start":
            servers.start()
            print(servers.status(), servers.settings(), sep="\n")
            print("# Without a password, for everybody on this machine and nobody else. make services-stop ends them.")
        elif command == "stop":
            servers.stop()
        else:
            print(servers.status())
    except ServiceError as error:
        print(f"services: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
