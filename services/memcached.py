"""A Memcached server of one's own."""

from __future__ import annotations

import re

from . import ServiceError
from .server import Server


class Memcached(Server):
    """`memcached`; `address` is what `servers`, or MEMCACHED_SERVERS, has to name."""

    name = program = package = "memcached"

    def arguments(self) -> list[str]:
        # -U 0: no UDP, which would let a stranger's packets in and be of no use.
        return ["-l", "127.0.0.1", "-p", str(self.port), "-U", "0"]

    def answered_by(self) -> int:
        found = re.match(rb"STAT pid (\d+)\r\n", self.ask(b"stats\r\n"))
        return int(found[1]) if found else 0

    def empty(self) -> None:
        """Drop everything that it keeps."""
        if self.ask(b"flush_all\r\n") != b"OK\r\n":
            raise ServiceError(f"memcached on {self.address} could not be emptied")
