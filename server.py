"""How the site is served: its socket, CherryPy's HTTP server on it, and the headers of every answer."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cherrypy
from cheroot.server import HTTPConnection
from cherrypy._cpwsgi_server import CPWSGIHTTPRequest, CPWSGIServer
from cherrypy.process.servers import ServerAdapter

from settings import StartError, one_line

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SiteHeaders:
    """WSGI layer that adds the headers of `wsgi.headers.always` in site.conf to every answer of the site.

    A CherryPy tool would be shorter and was not enough: tools do not run for a request that CherryPy refuses while it
    still reads the headers. A header that the page set itself is kept; only Server, where CherryPy writes its exact
    version, is always replaced.
    """

    def __init__(self, nextapp: Callable[..., Iterable[bytes]], always: Sequence[tuple[str, str]] = ()) -> None:
        self.nextapp, self.always = nextapp, always

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            kept = [header for header in headers if header[0].lower() != "server"]
            names = {name.lower() for name, _ in kept}
            return start_response(status, kept + [h for h in self.always if h[0].lower() not in names], *exc_info)

        return self.nextapp(environ, start)


class Request(CPWSGIHTTPRequest):
    """A request whose headers are not waited for any longer when the site stops.

    Browsers open connections ahead of need and leave them silent. Each would hold the stop up for shutdown_timeout, and
    many of them, one thread after the other, for minutes. What has arrived before is still read and answered.
    """

    def parse_request(self) -> None:
        """Read the request line and the headers."""
        self.server.reading.add(self.conn)
        try:
            if self.server.stopping:
                end_input(self.conn.socket)
            super().parse_request()
        finally:
            self.server.reading.discard(self.conn)


class Server(CPWSGIServer):
    """CherryPy's HTTP server on a socket that already listens, and in time when it is told to stop.

    CherryPy binds its port last, when stores are open and threads run, and reports a busy one with a traceback; and it
    forgets which port it got for 0. Trying the port first and binding it again later would leave a moment to lose it.
    """

    ConnectionClass = type("Connection", (HTTPConnection,), {})  # not the one of every server: __init__ changes it

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(cherrypy.server)
        self.ConnectionClass.RequestHandlerClass = Request
        self.listener = listener
        self.stopping = False
        self.reading: set[HTTPConnection] = set()

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the site."""
        return ipaddress.ip_address(self.listener.getsockname()[0]).is_loopback

    @property
    def url(self) -> str:
        """The address of the site for a browser on this machine."""
        host, port = self.listener.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
        scheme = "https" if self.ssl_adapter else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        """Take the listener; called by cheroot where it would make a socket of its own."""
        self.bind_addr = self.listener.getsockname()[:2]
        self.socket = self.listener
        return self.socket

    def stop(self) -> None:
        """Let the requests that have arrived finish, for shutdown_timeout seconds at most, and drop the others."""
        self.stopping = True
        for connection in self.reading.copy():
            end_input(connection.socket)
        super().stop()


def end_input(connection: socket.socket) -> None:
    """Make a connection's reader find its end, now or after what it has received already; it may still answer."""
    with contextlib.suppress(OSError):  # closed meanwhile
        # Not connection.shutdown: a TLS socket would forget its encryption with it, and answer in clear text.
        socket.socket.shutdown(connection, socket.SHUT_RD)


def listen(host: str, port: int) -> Server:
    """Return a server that has its port, with nothing else started yet. Raises StartError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=cherrypy.server.socket_queue_size)
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise StartError(f"port {port} of {host} is in use; choose another with --port, or 0 for any") from error
        raise StartError(f"cannot listen on port {port} of {host}: {one_line(error)}") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
    try:
        return Server(listener)
    except (TypeError, ValueError) as error:
        raise StartError(f"a server.* setting is of the wrong kind: {one_line(error)}") from error


def serve(server: Server, welcome: str) -> None:
    """Start CherryPy's engine with the server, print the welcome, and return when the engine has stopped."""
    engine = cherrypy.engine
    cherrypy.server.unsubscribe()  # its way to start would insist that nobody listens on the port yet
    cherrypy.server.httpserver = server  # where others look for the server that runs
    ServerAdapter(engine, server).subscribe()
    engine.signal_handler.handlers["SIGINT"] = engine.exit  # as SIGTERM: a second Ctrl-C is no traceback either
    # The engine aborts the process when it is told to exit while it still starts, so that waits its turn.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    engine.signals.subscribe()
    engine.start()
    print(welcome, "Ctrl-C stops the site.", sep="\n", flush=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    engine.block()
