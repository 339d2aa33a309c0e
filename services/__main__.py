"""`python -m services start|stop|status`: Memcached, Redis and PostgreSQL for development, in var/services.

They listen on 127.0.0.1 only, as an unprivileged account, and take whoever is on this machine without a password. No
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
from .redis import Redis
from .server import Server

FOLDER = Path(__file__).resolve().parent.parent / "var" / "services"
_SECONDS = 30  # an end takes less than one


class Development:
    """The servers on their usual ports, which are not the ports of the system's own.

    Args:
        folder: where their data, logs and process ids are kept.
        memcached_port, postgresql_port, redis_port: on 127.0.0.1.
    """

    def __init__(
        self, folder: Path = FOLDER, memcached_port: int = 11311, postgresql_port: int = 55432, redis_port: int = 16379
    ) -> None:
        self.folder = folder
        self.memcached = Memcached(folder / "memcached", memcached_port)
        self.postgresql = Postgresql(folder / "postgresql", postgresql_port)
        self.redis = Redis(folder / "redis", redis_port)
        self._processes: list[Server] = [self.memcached, self.redis]

    def start(self) -> None:
        """Start what does not run.

        Raises:
            ServiceError: a server cannot be started.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if account():
            shutil.chown(self.folder, "nobody", "nogroup")
        for server in self._processes:
            if not self._pid(server):
                server.start()
                if server.process:
                    self._pid_file(server).write_text(f"{server.process.pid}\n")
        self.postgresql.start()

    def stop(self) -> None:
        """Stop what runs."""
        for server in self._processes:
            server.stop()  # does nothing if another process has started it
            if pid := self._pid(server):
                os.kill(pid, signal.SIGTERM)
                end = time.monotonic() + _SECONDS
                while self._pid(server):
                    if time.monotonic() > end:
                        raise ServiceError(f"{server.name} (process {pid}) does not end")
                    time.sleep(0.02)
            self._pid_file(server).unlink(missing_ok=True)
        self.postgresql.stop()

    def status(self) -> str:
        """A line for each server."""
        found = [(server.name, server.port, self._pid(server)) for server in self._processes]
        return "\n".join(
            f"{name} runs on 127.0.0.1:{port} (process {pid})" if pid else f"{name} does not run"
            for name, port, pid in [*found, ("postgresql", self.postgresql.port, self.postgresql.pid)]
        )

    def settings(self) -> str:
        """What a site has to be told, as shell commands."""
        return (
            f"export MEMCACHED_SERVERS={self.memcached.address}\nexport DATABASE_URL={self.postgresql.dsn}\n"
            f"export REDIS_URL={self.redis.url}"
        )

    def _pid_file(self, server: Server) -> Path:
        return self.folder / f"{server.name}.pid"

    def _pid(self, server: Server) -> int | None:
        """The process in the pid file, if it still is that server: its number may have gone to another program."""
        try:
            pid = int(self._pid_file(server).read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if server.program.encode() in command and str(server.port).encode() in command else None


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services", description="Servers for development, on loopback.")
    parser.add_argument("command", choices=["start", "stop", "status"])
    command = parser.parse_args().command
    try:
        if sys.platform != "linux":
            raise ServiceError(
                "only Linux tells, in /proc, which process a server is: start servers in another way, and name them in "
                "MEMCACHED_SERVERS, DATABASE_URL and REDIS_URL"
            )
        servers = Development()
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
