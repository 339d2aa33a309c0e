"""A Redis server of one's own."""

from __future__ import annotations

import re

from . import ServiceError
from .server import Server


class Redis(Server):
    """`redis-server`, which writes nothing to disk unless its options say so."""

    name, program, package = "redis", "redis-server", "redis-server"

    @property
    def url(self) -> str:
        """What `url`, or REDIS_URL, has to name."""
        return f"redis://{self.address}/0"

    def arguments(self) -> list[str]:
        return ["--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]

    def answered_by(self) -> int:
        said = self.ask(b"INFO server persistence\r\n")
        found = re.search(rb"\r\nprocess_id:(\d+)\r\n", said)
        return int(found[1]) if found and b"\r\nloading:0\r\n" in said else 0  # else it reads what it had written

    def empty(self) -> None:
        """Drop everything that it keeps."""
        if self.ask(b"FLUSHALL\r\n") != b"+OK\r\n":
            raise ServiceError(f"redis on {self.address} could not be emptied")
