"""A PgBouncer of the test's own."""

from __future__ import annotations

import signal
from pathlib import Path

from services import account, free_port
from tests.support.process import Process, installed

_SETTINGS = """\
[databases]
sessions = host=127.0.0.1 port={server} dbname=sessions user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
"""


class PgBouncer(Process):
    """In front of the server at a port, which it asks as one user. Raises ServiceError when it is not installed."""

    ends_with = signal.SIGKILL  # it would wait for its clients

    def __init__(
        self, folder: Path, server_port: int, user: str = "sessions", mode: str = "transaction", size: int = 4
    ) -> None:
        self.port = free_port()
        self.dsn = f"postgresql://sessions@127.0.0.1:{self.port}/sessions"
        settings = folder / "pgbouncer.ini"
        settings.write_text(_SETTINGS.format(server=server_port, port=self.port, user=user, mode=mode, size=size))
        # It reads its settings as an account that may not look into a folder of pytest's.
        command = [installed("pgbouncer"), "--quiet", "/dev/stdin"]
        with settings.open("rb") as stdin:
            super().__init__(command, cwd=Path("/"), url=self.dsn, account=account(), stdin=stdin)
