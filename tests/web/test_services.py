"""`python -m services`: the servers for development."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services import ServiceError, free_port, postgresql
from services.__main__ import Development
from services.postgresql import Postgresql


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the servers' account may look into."""
    path = Path(tempfile.mkdtemp(prefix="sessions-services-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_the_servers_start_stop_and_start_again_and_keep_what_they_can(place: Path) -> None:
    ports = {f"{name}_port": free_port() for name in ("memcached", "postgresql", "redis")}
    try:
        for _ in range(2):
            servers = Development(place / "services", **ports)  # each command is a process of its own
            servers.start()
            Development(place / "services", **ports).start()  # nothing happens
            assert [f" runs on 127.0.0.1:{port} " in servers.status() for port in ports.values()] == [True] * 3
            with psycopg.connect(servers.postgresql.dsn) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
            pids = [int(line.split("process ")[1].rstrip(")")) for line in servers.status().splitlines()]
            assert all(os.stat(f"/proc/{pid}").st_uid != 0 for pid in pids)
            servers.stop()
            assert servers.status().count("does not run") == 3
        servers.stop()  # nothing happens
    finally:
        Development(place / "services", **ports).stop()


def test_they_listen_on_loopback_only(place: Path) -> None:
    server = Postgresql(place / "postgresql")
    server.start()
    try:
        listening = [
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
        ]
        assert [address for address in listening if address.endswith(f":{server.port:04X}")] == [
            f"0100007F:{server.port:04X}"
        ]
    finally:
        server.stop()


def test_a_missing_program_is_named_with_the_command_that_installs_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_BUILT", str(place))
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(ServiceError, match="sudo apt-get install postgresql"):
        Postgresql(place / "postgresql").start()


def test_a_port_that_is_in_use_is_an_error_that_says_so(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = Postgresql(place / "postgresql", other.getsockname()[1])
        with pytest.raises(ServiceError, match=f"port {server.port}:(.|\n)*Address already in use"):
            server.start()
        assert server.pid is None
