"""A TCP proxy on loopback that counts the round trips of its clients, and cuts connections when it is told to."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from types import TracebackType

_GOODBYE = b"X\x00\x00\x00\x04"  # the message Terminate of PostgreSQL's protocol


class Proxy:
    """Passes everything on to a port of 127.0.0.1; a context manager.

    A round trip is a send of a client's after an answer of the server's, over all connections together. PostgreSQL's
    goodbye is none: nobody waits for an answer, and it may come long after the connection was closed.

    Attributes:
        port: where it listens.
        trips: the round trips so far.
        cut_next: True: the server's next answer is not passed on, and its connection is cut instead.
        cut_to: only an answer to this counts as one: a pool may be opening another connection at the same moment.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._mutex = threading.Lock()
        self.port = int(self._listener.getsockname()[1])
        self.trips = 0
        self.cut_next = False
        self.cut_to = b""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def expect(self, trips: int) -> Iterator[None]:
        """Fail unless the block makes this many round trips."""
        before = self.trips
        yield
        if self.trips - before != trips:
            raise AssertionError(f"{self.trips - before} round trips instead of {trips}")

    def cut(self) -> None:
        """Cut every connection there is."""
        with self._mutex:
            for connection in self._open:
                with contextlib.suppress(OSError):  # its other end was quicker
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections, and cut those there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone does not wake the thread that waits in accept()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._mutex:
                self._open |= {client, server}
            try:
                self._pass_on(client, server)
            finally:
                with self._mutex:
                    self._open -= {client, server}

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        selector = selectors.DefaultSelector()
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        answered, asked = True, b""
        with selector:
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is server:
                        answered = True
                        if self.cut_next and self.cut_to in asked:
                            self.cut_next = False
                            return
                    else:
                        asked = b"" if answered else asked
                        asked += data
                        if answered and data != _GOODBYE:
                            answered = False
                            with self._mutex:
                                self.trips += 1
                    key.data.sendall(data)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
