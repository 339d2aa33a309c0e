"""One Memcached server: its connections, and what it answers.

All commands of a request that can go together go in one send, closed by `mn` (no operation), whose answer `MN` says
that all the others have been given: a round trip to the server costs more than everything else.

Rejected: pymemcache's pool and client. They took twice the processor time; `raw_command` (4.0.0) forgets what it has
read of an answer in several pieces, has one time-out for each piece, and notices a connection that the server has
closed long ago only when nobody can know any more whether the command was done.
"""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, TypeVar

from ...errors import Unavailable
from ...events import publish, watchers
from ..outage import Outage, is_closed

T = TypeVar("T")

# Seconds; together below two, which is what a visitor may have to wait for the 503.
ANSWER = 1.0  # for an answer, whole
_WAIT = 0.2  # for a free connection
_CONNECT = 0.5

MAX_CONNECTIONS = 32  # to one server; they are held for round trips, not for requests
_IDLE = 60  # seconds after which an unused connection is not used again: firewalls forget about it
_END = b"\r\nMN\r\n"
_FIRST, _PIECE = 4096, 65536  # bytes; most answers are far smaller than the first piece may be
_MARGIN = 512  # bytes of an item that its key and its header take, and some more
_STATUS = {b"HD", b"VA", b"EN", b"NS", b"EX", b"NF"}


class Reply(NamedTuple):
    """The answer to one command."""

    status: bytes  # HD (done), VA (a value follows), EN (no such item), NS (not stored), EX (it has changed since), NF
    cas: int = 0  # the unique number of this state of the item, if it was asked for
    value: bytes | None = None  # what is stored, for VA


def replies(answer: bytes) -> list[Reply]:
    """Return the answers to the commands of one send. ValueError: there is something else in it."""
    found, rest = list[Reply](), answer
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        status, *words = line.split(b" ")
        if status not in _STATUS:
            raise ValueError(f"an answer begins with {line[:80]!r}")
        value, cas = None, 0
        if status == b"VA":
            length = int(words.pop(0))
            value, rest = rest[:length], rest[length + 2 :]
        for word in words:
            if word[:1] == b"c":
                cas = int(word[1:])
        found.append(Reply(status, cas, value))
    return found


def _largest_item(answer: bytes) -> int:
    settings = answer.split()
    return int(settings[settings.index(b"item_size_max") + 1]) - _MARGIN


class Server:
    """A server at 'host:port', and connections to it, which are made as they are needed and kept."""

    def __init__(self, address: str, timeout: float = ANSWER) -> None:
        self.address, self._timeout = address, timeout
        self.outage = Outage(f"memcached at {address}", OSError)
        self._idle: list[tuple[socket.socket, float]] = []  # with the time of the last use; the latest is used first
        self._free = queue.SimpleQueue[None]()  # as many as there may be connections; its waiting costs no Python code
        for _ in range(MAX_CONNECTIONS):
            self._free.put(None)

    def send(self, *commands: bytes) -> list[Reply]:
        """Give all `commands` in one send, and return the answer to each. If there is none (Unavailable), what the
        server has done of them is not known."""
        found = self._ask(b"\r\n".join((*commands, b"mn\r\n")), replies)
        if watchers:
            what = " ".join(command[:2].decode("ascii", "replace") for command in commands)
            publish("trip", to=f"memcached at {self.address}", what=what)
        if len(found) != len(commands):
            raise Unavailable(f"memcached at {self.address}: {len(found)} answers to {len(commands)} commands")
        return found

    @cached_property
    def limit(self) -> int:
        """How many bytes one item may have. The server drops the earlier item when a newer one is too large."""
        return self._ask(b"stats settings\r\nmn\r\n", _largest_item)

    def close(self) -> None:
        """Close the idle connections; the next command opens a new one."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _ask(self, commands: bytes, parse: Callable[[bytes], T]) -> T:
        try:
            return parse(self.outage.ask(self._exchange, commands))
        except (OSError, ValueError) as error:
            raise Unavailable(f"memcached at {self.address}: {error}") from error

    def _exchange(self, commands: bytes) -> bytes:
        """Send commands, and return the answer up to its MN, which is left out."""
        try:
            self._free.get(timeout=_WAIT)
        except queue.Empty:
            raise TimeoutError("all connections are busy") from None
        connection, idle = None, self._idle
        try:
            connection = self._take()
            end = time.monotonic() + self._timeout
            connection.sendall(commands)
            answer = connection.recv(_FIRST)
            if answer[-6:] != _END:
                answer = self._receive_rest(connection, answer, end)
            if idle is self._idle:
                idle.append((connection, time.monotonic()))
            else:  # closed meanwhile, while a heartbeat was under way
                connection.close()
            return answer[:-6]
        except BaseException:
            if connection:
                connection.close()
            raise
        finally:
            self._free.put(None)

    def _receive_rest(self, connection: socket.socket, answer: bytes, end: float) -> bytes:
        whole = bytearray(answer)
        while whole[-6:] != _END:
            connection.settimeout(max(end - time.monotonic(), 0.001))
            piece = connection.recv(_PIECE)
            if not piece:
                raise ConnectionError("the connection was closed before the answer")
            whole += piece
        connection.settimeout(self._timeout)
        return bytes(whole)

    def _take(self) -> socket.socket:
        """Return an idle connection, unless the server has closed it; else a new one."""
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                break
            if time.monotonic() - since < _IDLE and not is_closed(connection):
                return connection
            connection.close()
        # One address is tried, else a visitor might wait for each. IPv4 first: Memcached rarely listens on ::1.
        host, _, port = self.address.rpartition(":")
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        name = min(found, key=lambda one: one[0] != socket.AF_INET)[4]
        connection = socket.create_connection((str(name[0]), int(name[1])), _CONNECT)
        # Else Nagle's algorithm and delayed acknowledgements make each command wait for 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(self._timeout)
        return connection
