"""One Memcached server: its connections, and what it answers.

All commands of a request that can go together go in one send, closed by `mn` (no operation), whose answer `MN` says
that all the others have been given: a round trip to the server costs more than everything else.

The connections are pymemcache's, with its `raw_command`. What they lack is added where pymemcache lets a program bring
sockets of its own (`socket_module`), for three reasons: `raw_command` (4.0.0) forgets what it has read of an answer
that comes in several pieces, its timeout is one for each piece, and a connection that the server has closed long ago is
noticed only when the command has been sent and nobody can know any more whether it was done.
"""

from __future__ import annotations

import select
import socket
import threading
import time
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, Unavailable
from ..events import publish, watchers

if TYPE_CHECKING:
    from pymemcache import PooledClient

# Seconds; together below two, which is what a visitor may have to wait for the 503.
_WAIT = 0.2  # for a free connection
_CONNECT = 0.5
ANSWER = 1.0

_IDLE = 60  # seconds after which an unused connection is not used again: firewalls forget about it
_END = b"\r\nMN\r\n"
_PIECE = 65536
_MARGIN = 512  # bytes of an item that its key and its header take, and some more
_STATUS = {b"HD", b"VA", b"EN", b"NS", b"EX", b"NF"}


class _Stale(ConnectionError):
    """The server closed the connection while it was idle. Nothing was sent."""


class _Socket(socket.socket):
    """A connection over which each answer is read whole, in bounded time."""

    _used = False

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send a command, unless the server has closed the connection since the last one."""
        if self._used and _readable(self):
            raise _Stale("the connection was closed")
        self._used = True
        super().sendall(data, flags)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """The whole answer, up to its MN, however long; empty if the server closed the connection before that."""
        timeout = self.gettimeout()
        end = time.monotonic() + (timeout or 0)
        answer = super().recv(_PIECE, flags)
        try:
            while answer and not answer.endswith(_END):
                self.settimeout(max(end - time.monotonic(), 0.001))
                piece = super().recv(_PIECE, flags)
                answer = answer + piece if piece else b""
        finally:
            self.settimeout(timeout)
        return answer


def _readable(connection: socket.socket) -> bool:
    """Whether something comes in, which between two commands can only be the end of the connection."""
    poll = select.poll()  # select.select() knows no descriptor above 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _addresses_of(*args: Any) -> list[Any]:
    """IPv4 first: pymemcache tries a single address of a name, and Memcached listens on 127.0.0.1, rarely on ::1."""
    return sorted(socket.getaddrinfo(*args), key=lambda found: found[0] != socket.AF_INET)


_SOCKETS = types.SimpleNamespace(**{**vars(socket), "socket": _Socket, "getaddrinfo": _addresses_of})


def _name(command: bytes) -> str:
    """Which command it is, for people."""
    return command[:2].decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class Reply:
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
            size = int(words.pop(0))
            value, rest = rest[:size], rest[size + 2 :]
        told = {word[:1]: int(word[1:]) for word in words}
        numbers = (told.get(name, missing) for name, missing in ((b"s", 0), (b"f", 0), (b"t", -1)))
        found.append(Reply(status, told.get(b"c", 0), value, *numbers))
    return found


class Server:
    """A server and the pool of connections to it.

    A connection is taken for one round trip, never for the time a page takes, so a small pool serves many threads.

    Args:
        address: 'host:port'; a host of IPv6 digits stands in brackets.
        connections: how many there may be at once.
        patience: seconds in which it has to answer.
    """

    def __init__(self, address: str, connections: int, patience: float = ANSWER) -> None:
        self.address = address
        host, _, port = address.rpartition(":")
        self._pool = _pool((host.strip("[]"), int(port)), patience)
        self._free = threading.BoundedSemaphore(connections)
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
        self._pool.close()

    def _ask(self, commands: bytes) -> bytes:
        down = self._down
        if down and not self._probe.acquire(blocking=False):
            raise Unavailable(f"memcached at {self.address} still does not answer")
        try:
            answer = self._exchange(commands)
            self._down = False
            return answer
        except Unavailable:
            self._down, self._failed = True, time.monotonic()
            raise
        finally:
            if down:
                self._probe.release()

    def _exchange(self, commands: bytes) -> bytes:
        from pymemcache.exceptions import MemcacheError

        if not self._free.acquire(timeout=_WAIT):
            raise Unavailable(f"memcached at {self.address}: all connections are busy")
        try:
            while True:
                try:
                    return bytes(self._pool.raw_command(commands, _END))
                except _Stale:  # it has left the pool; each try takes another one, at last a new one, never stale
                    continue
        except (OSError, MemcacheError) as error:
            reason = str(error) or "the connection was closed before the answer"
            raise Unavailable(f"memcached at {self.address}: {reason}") from error
        finally:
            self._free.release()


def _pool(address: tuple[str, int], patience: float) -> PooledClient:
    """The connections, made as they are needed. Their number is bounded by who may ask: pymemcache's own bound does not
    wait but raises."""
    try:
        from pymemcache import PooledClient
    except ImportError as error:
        raise ConfigError("MemcachedSession needs a driver: pip install pymemcache") from error
    return PooledClient(
        address,
        connect_timeout=_CONNECT,
        timeout=patience,
        no_delay=True,  # else Nagle's algorithm and delayed acknowledgements make each command wait for 40 ms
        pool_idle_timeout=_IDLE,
        socket_module=_SOCKETS,
    )
