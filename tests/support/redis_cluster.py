"""A cluster of Redis: three servers, and a replica of each."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import redis

from services import free_port
from services.redis import Redis
from tests.support.process import installed, wait_until

NODE_TIMEOUT = 1500  # milliseconds after which a server that does not answer is taken for dead by the others


class RedisCluster:
    """Six servers on loopback; the first three have the slots, until a replica takes over.

    Args:
        folder: where they keep what they know of each other; any account may write there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: list[Redis] = []

    def _add(self) -> Redis:
        folder = self._folder / str(len(self.servers))
        folder.mkdir()
        folder.chmod(0o777)  # noqa: S103 -- of the test alone
        server = Redis(folder, options=[
            "--dir", str(folder), "--cluster-enabled", "yes", "--cluster-port", str(free_port()),
            "--cluster-node-timeout", str(NODE_TIMEOUT), "--cluster-require-full-coverage", "no",
            "--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0",
        ])  # fmt: skip
        self.servers.append(server)
        server.start()  # at once: somebody else may take its ports
        return server

    @property
    def url(self) -> str:
        """What `url` has to name."""
        return f"redis://{','.join(server.address for server in self.servers[:3])}/0"

    def start(self) -> None:
        """Start them, and wait until each knows all others and each replica has what its server has."""
        for _ in range(6):
            self._add()
        self.run("create", *(server.address for server in self.servers), "--cluster-replicas", "1")
        self.wait_until_agreed()
        wait_until(lambda: sum("master_link_status:up" in self.ask(one, "INFO") for one in self.servers) == 3)
        self.empty()  # a replica whose link is up may not be sent anything yet, and would take over with nothing
        wait_until(lambda: all(map(self._has_replica, self.servers[:3])))

    def grow(self) -> Redis:
        """Add a server without slots, which nobody was told of."""
        server = self._add()
        self.run("add-node", server.address, self.servers[0].address)
        self.wait_until_agreed()
        return server

    def run(self, command: str, *args: str) -> None:
        """Run a command of `redis-cli --cluster`."""
        subprocess.run(  # noqa: S603
            [installed("redis-cli"), "--cluster", command, *args, "--cluster-yes"], check=True, capture_output=True
        )

    def _has_replica(self, server: Redis) -> bool:
        said = self.ask(server, "INFO", "replication")
        written, confirmed = re.search(r"master_repl_offset:(\d+)", said), re.search(r"online,offset=(\d+)", said)
        return bool(written and confirmed and written[1] == confirmed[1] != "0")

    def wait_until_agreed(self) -> None:
        """Wait until each knows all others, and that the cluster is well."""
        wanted = f"cluster_known_nodes:{len(self.servers)}"
        for server in self.servers:
            wait_until(lambda one=server: {wanted, "cluster_state:ok"} <= {*self.ask(one, "CLUSTER", "INFO").split()})

    def ask(self, server: Redis, *command: str | int) -> Any:
        """Return what one of them answers."""
        connection = redis.Connection(port=server.port, decode_responses=True, protocol=2)
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def id_of(self, server: Redis) -> str:
        """Return how the others call one of them."""
        return str(self.ask(server, "CLUSTER", "MYID"))

    def has(self, says: Redis, slot: int) -> int:
        """Return the port of the server that has a slot, as one of them says."""
        return next(int(has[1]) for first, last, has, *_ in self.ask(says, "CLUSTER", "SLOTS") if first <= slot <= last)

    def masters(self) -> list[Redis]:
        """Return those that have slots now."""
        return [one for one in self.servers if one.process and "role:master" in self.ask(one, "INFO", "replication")]

    def empty(self) -> None:
        """Drop everything that they keep."""
        for server in self.masters():
            server.empty()

    def stop(self) -> None:
        """End them."""
        for server in self.servers:
            server.kill()
