"""One Memcached server, and what it answers.

All commands of a request that can go together go in one send, closed by `mn` (no operation), whose answer `MN` says
that all the others have been given: a round trip to the server costs more than everything else.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from ..errors import Unavailable
from ..events import publish, watchers
from .memcached_connection import Connections

ANSWER = 1.0  # seconds; see memcached_connection.py

_MARGIN = 512  # bytes of an item that its key and its header take, and some more
_STATUS = {b"HD", b"VA", b"EN", b"NS", b"EX", b"NF"}


def _name(command: bytes) -> str:
    """Which command it is, for people."""
    return command[:2].decode("ascii", "replace")


class Reply(NamedTuple):
    """The answer to one command.

    Attributes:
        status: HD (done), VA (a value follows), EN (no such item), NS (not stored), EX (it has changed since), NF.
        cas: the unique number of this state of the item, if it was asked for; else 0.
        value: what is stored, for VA.
        size, flags, ttl: if they were asked for, how long that is, the number that stands beside it, and for how many
            seconds it is kept (-1: for ever).
    """

    status: bytes
    cas: int = 0
    value: bytes | None = None
    size: int = 0
    flags: int = 0
    ttl: int = -1


def replies(answer: bytes) -> list[Reply]:
    """Take an answer apart.

    Raises:
        ValueError: it holds something that is no answer to a meta command.
    """
    found, rest = list[Reply](), answer
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        status, *words = line.split(b" ")
        if status not in _STATUS:
            raise ValueError(f"an answer begins with {line[:80]!r}")
        value = None
        if status == b"VA":
            length = int(words.pop(0))
            value, rest = rest[:length], rest[length + 2 :]
        if not words:
            found.append(Reply(status, 0, value))
            continue
        told = {word[:1]: int(word[1:]) for word in words}
        size, flags, ttl = told.get(b"s", 0), told.get(b"f", 0), told.get(b"t", -1)
        found.append(Reply(status, told.get(b"c", 0), value, size, flags, ttl))
    return found


class Server:
    """A server.

    A connection is taken for one round trip, never for the time a page takes, so a few serve many threads.

    Args:
        address: 'host:port'; a host of IPv6 digits stands in brackets.
        connections: how many there may be at once.
        patience: seconds in which it has to answer.
    """

    def __init__(self, address: str, connections: int, patience: float = ANSWER) -> None:
        self.address = address
        host, _, port = address.rpartition(":")
        self._connections = Connections(host.strip("[]"), int(port), connections, patience)
        self._down = False
        self._failed = 0.0  # when it did not answer last, by time.monotonic()
        self._probe = threading.Lock()
        self._limit = 0

    def send(self, *commands: bytes) -> list[Reply]:
        """Give all `commands` in one send; the answer to each.

        While the server is down one thread at a time finds out whether it still is. The others are refused at once:
        else a server that hangs would soon have every thread of the site, and stop the sessions of the others, too.

        Raises:
            Unavailable: the server did not answer; what it has done of the commands is not known.
        """
        answer = self._ask(b"\r\n".join((*commands, b"mn")))
        if watchers:
            publish("trip", to=f"memcached at {self.address}", what=" ".join(_name(command) for command in commands))
        try:
            found = replies(answer)
            if len(found) == len(commands):
                return found
            raise ValueError(f"{len(found)} answers to {len(commands)} commands")
        except ValueError as error:
            raise Unavailable(f"memcached at {self.address}: {error}") from error

    def limit(self) -> int:
        """How many bytes one item may have. The server is asked once.

        Memcached drops the earlier item when a newer one is too large, so that is found out before it is sent.
        """
        if not self._limit:
            settings = self._ask(b"stats settings\r\nmn").split()
            if b"item_size_max" not in settings:
                raise Unavailable(f"memcached at {self.address}: it does not say how large an item may be")
            self._limit = int(settings[settings.index(b"item_size_max") + 1]) - _MARGIN
        return self._limit

    @property
    def is_down(self) -> bool:
        """Whether it did not answer when it was last asked."""
        return self._down

    def check(self, since: float) -> None:
        """Do nothing if the server was not found to be down since then, a time of `time.monotonic()`.

        Raises:
            Unavailable: it was, and nobody has had an answer after that.
        """
        if self._down and self._failed > since:
            raise Unavailable(f"memcached at {self.address} did not answer a request that came before")

    def close(self) -> None:
        """Close the idle connections; the next command opens a new one."""
        self._connections.close()

    def _ask(self, commands: bytes) -> bytes:
        down = self._down
        if down and not self._probe.acquire(blocking=False):
            raise Unavailable(f"memcached at {self.address} still does not answer")
        try:
            answer = self._connections.exchange(commands + b"\r\n")
            self._down = False
            return answer
        except OSError as error:
            self._down, self._failed = True, time.monotonic()
            raise Unavailable(f"memcached at {self.address}: {error}") from error
        finally:
            if down:
                self._probe.release()
