"""The connections to one Memcached server: one send and one receive for each round trip.

pymemcache's pool and client were the way before: they took twice the processor time, and each of three things had to be
mended from outside. `raw_command` (4.0.0) forgets what it has read of an answer that comes in several pieces, its
timeout is one for each piece, and a connection that the server has closed long ago is noticed only when the command has
been sent and nobody can know any more whether it was done.
"""

from __future__ import annotations

import queue
import select
import socket
import time

# Seconds; with the server's own second for an answer below two, which is what a visitor may have to wait for the 503.
_WAIT = 0.2  # for a free connection
_CONNECT = 0.5

_IDLE = 60  # seconds after which an unused connection is not used again: firewalls forget about it
_END = b"\r\nMN\r\n"
_FIRST, _PIECE = 4096, 65536  # bytes; most answers are far smaller than the first piece may be


class Connections:
    """Connections that are made as they are needed, and kept.

    Args:
        host, port: where the server is. A name is looked up for each new connection.
        most: how many there may be at once.
        patience: seconds in which an answer has to be there, whole.
    """

    def __init__(self, host: str, port: int, most: int, patience: float) -> None:
        self._address = host, port
        self._patience = patience
        self._idle: list[tuple[socket.socket, float]] = []  # with the time of the last use; the latest is used first
        self._turns = queue.SimpleQueue[None]()  # as many as there may be connections; its waiting costs no Python code
        for _ in range(most):
            self._turns.put(None)

    def exchange(self, commands: bytes) -> bytes:
        """Send commands, and receive the answer up to its MN, which is left out.

        Raises:
            OSError: there was none, or not all of it.
        """
        try:
            self._turns.get(timeout=_WAIT)
        except queue.Empty:
            raise TimeoutError("all connections are busy") from None
        try:
            connection = self._take()
            try:
                connection.sendall(commands)
                answer = self._receive(connection)
            except BaseException:
                connection.close()
                raise
            self._idle.append((connection, time.monotonic()))
            return answer
        finally:
            self._turns.put(None)

    def close(self) -> None:
        """Close the idle connections; the next command opens a new one."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _take(self) -> socket.socket:
        """An idle connection, unless the server has closed it; else a new one."""
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:
                return self._connect()
            if time.monotonic() - since < _IDLE and not _readable(connection):
                return connection
            connection.close()

    def _connect(self) -> socket.socket:
        """One address is tried, else a visitor might wait for each. IPv4 first: Memcached rarely listens on ::1."""
        found = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        connection = socket.socket(family, kind, protocol)
        try:
            # Else Nagle's algorithm and delayed acknowledgements make each command wait for 40 ms.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_CONNECT)
            connection.connect(address)
            connection.settimeout(self._patience)
        except BaseException:
            connection.close()
            raise
        return connection

    def _receive(self, connection: socket.socket) -> bytes:
        end = time.monotonic() + self._patience
        answer = piece = connection.recv(_FIRST)
        if not answer.endswith(_END):
            while piece and not answer.endswith(_END):
                connection.settimeout(max(end - time.monotonic(), 0.001))
                piece = connection.recv(_PIECE)
                answer += piece
            if not piece:
                raise ConnectionError("the connection was closed before the answer")
            connection.settimeout(self._patience)
        return answer[: -len(_END)]


def _readable(connection: socket.socket) -> bool:
    """Whether something comes in, which between two commands can only be the end of the connection."""
    poll = select.poll()  # select.select() knows no descriptor above 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
