"""A PgBouncer of the test's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from services import ServiceError, account, free_port

_SECONDS = 30

_SETTINGS = """\
[databases]
sessions = host=127.0.0.1 port={server} dbname=sessions user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 4
"""


class PgBouncer:
    """A context manager: it runs in the block, in front of the server at a port, which it asks as one user.

    Raises:
        ServiceError: it is not installed, or did not start.
    """

    def __init__(self, folder: Path, server_port: int, user: str = "sessions", mode: str = "transaction") -> None:
        self.port = free_port()
        self._folder = folder
        self._settings = _SETTINGS.format(server=server_port, port=self.port, user=user, mode=mode)

    @property
    def dsn(self) -> str:
        return f"postgresql://sessions@127.0.0.1:{self.port}/sessions"

    def __enter__(self) -> PgBouncer:
        program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
        if program is None:
            raise ServiceError("pgbouncer is missing. Install it with: sudo apt-get install pgbouncer")
        settings, log = self._folder / "pgbouncer.ini", self._folder / "pgbouncer.log"
        settings.write_text(self._settings)
        with settings.open("rb") as stdin, log.open("wb") as output:
            # It reads its settings as an account that may not look into a folder of pytest's.
            self._process = subprocess.Popen(
                [program, "--quiet", "/dev/stdin"], stdin=stdin, stdout=output, stderr=output, cwd="/", **account()
            )
        end = time.monotonic() + _SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise ServiceError(f"pgbouncer did not start:\n{log.read_text()}")
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
