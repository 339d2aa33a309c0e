"""How the site is served: its socket, CherryPy's HTTP server on it, and the headers of every answer."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import cherrypy
from cheroot.server import HTTPConnection
from cherrypy._cpwsgi_server import CPWSGIHTTPRequest, CPWSGIServer
from cherrypy.process.servers import ServerAdapter

from pages.origin import THROUGH_A_PROXY, address_of
from settings import StartError, one_line

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

LOOPBACK = ("127.0.0.0/8", "::1/128")
_FORWARDED = ("HTTP_X_FORWARDED", "HTTP_FORWARDED", "HTTP_X_REAL_IP")  # what proxies tell, in all its spellings
_PEER, _FOR = "REMOTE_ADDR", "HTTP_X_FORWARDED_FOR"
_HOST = re.compile(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_PROTO = re.compile("https?")
_SCHEMES = ("wsgi.url_scheme", "HTTP_X_FORWARDED_PROTO")


class TrustedProxy:
    """WSGI layer that takes the word of trusted proxies only for who asks, for which host, and whether by https.

    tools.proxy believes whoever sends X-Forwarded-For, and takes the first address of its list. That is the one which
    the visitor can make up: each proxy adds what it saw at the end. Here the last address that is not a proxy's own
    is left, and of the other two headers the last value. Whatever makes no sense is dropped, like every such header
    from anybody else (OWASP ASVS 5.0, 4.1.3). That there was one is noted, whoever sent it, in THROUGH_A_PROXY.
    """

    def __init__(self, nextapp: Callable[..., Iterable[bytes]], trusted: Sequence[str] = LOOPBACK) -> None:
        """Take the networks of the proxies. Raises ValueError for what is none."""
        self.nextapp, self.trusted = nextapp, [ipaddress.ip_network(network) for network in trusted]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        told = {name: environ.pop(name) for name in list(environ) if name.startswith(_FORWARDED)}
        environ[THROUGH_A_PROXY] = bool(told) or "HTTP_VIA" in environ
        if told and self.trusts(environ.get(_PEER, "")):
            for name, allowed in (("HTTP_X_FORWARDED_HOST", _HOST), ("HTTP_X_FORWARDED_PROTO", _PROTO)):
                last = told.get(name, "").rpartition(",")[2].strip()
                if allowed.fullmatch(last):
                    environ[name] = last
            visitor = self.visitor(told.get(_FOR, ""))
            if visitor:
                environ[_FOR] = visitor
        return self.nextapp(environ, start_response)

    def trusts(self, text: str) -> bool:
        """Tell whether text is the address of a trusted proxy."""
        address = address_of(text)
        return address is not None and any(address in network for network in self.trusted)

    def visitor(self, forwarded: str) -> str:
        """Return the last address of X-Forwarded-For that is not a trusted proxy's; empty if that is no address."""
        for text in reversed(forwarded.split(",")):
            if not self.trusts(text.strip()):
                return str(address_of(text.strip()) or "")
        return ""


def trusted_proxies(options: Mapping[str, Any]) -> Sequence[str]:
    """Return the networks of [/] whose word TrustedProxy may take: none unless tools.proxy is on. Raises StartError."""
    networks: Sequence[str] = options.get("wsgi.proxy.trusted", LOOPBACK)
    try:
        TrustedProxy(lambda *_: (), networks)
    except (TypeError, ValueError) as error:
        raise StartError(f"wsgi.proxy.trusted must be a list of networks such as '10.0.0.0/8': {error}") from error
    return networks if options.get("tools.proxy.on") else ()


class SiteHeaders:
    """WSGI layer that adds the headers of `wsgi.headers.always` in site.conf to every answer of the site, and those of
    `wsgi.headers.https` to every answer by https (on plain http they mean nothing: RFC 6797 section 7.2).

    A CherryPy tool would be shorter and was not enough: tools do not run for a request that CherryPy refuses while it
    still reads the headers. A header that the page set itself is kept; only Server, where CherryPy writes its exact
    version, is always replaced.
    """

    def __init__(
        self,
        nextapp: Callable[..., Iterable[bytes]],
        always: Sequence[tuple[str, str]] = (),
        https: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.nextapp, self.plain, self.secure = nextapp, list(always), [*always, *https]

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # The server's own TLS, or that of a proxy whose word TrustedProxy has left in place.
        added = self.secure if "https" in map(environ.get, _SCHEMES) else self.plain

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            kept = [header for header in headers if header[0].lower() != "server"]
            names = {name.lower() for name, _ in kept}
            return start_response(status, kept + [h for h in added if h[0].lower() not in names], *exc_info)

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

    def read_request_headers(self) -> bool:
        """Read the headers; refuse what has two lengths: a proxy that goes by the other one would take the rest of the
        body for the next request, or the other way round (RFC 9112 section 6.1)."""
        read = bool(super().read_request_headers())
        if read and {b"Content-Length", b"Transfer-Encoding"} <= self.inheaders.keys():
            self.simple_response("400 Bad Request", "There are both Content-Length and Transfer-Encoding.")
            return False
        return read


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
        self.patience = float(getattr(cherrypy.server, "drain", 0))
        self.draining = self.stopping = False
        self._drained = 0.0  # when, by time.monotonic()
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

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Whether a connection stays open after its answer: not while the site is about to stop."""
        return not self.draining and bool(super().can_add_keepalive_connection)

    def drain(self) -> None:
        """Go on serving for the `server.drain` seconds in which a balancer learns from /healthz to ask others.

        Closing the port at once lost what a balancer had sent and no thread had taken: the kernel resets it. A second
        signal ends the wait. (An Event would be no shorter: set by a signal's handler, it may wait for itself.)
        """
        self._drained = 0.0 if self.draining else time.monotonic() + self.patience
        self.draining = True
        while time.monotonic() < self._drained:
            time.sleep(0.05)

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
    except OSError as error:
        files = f"{cherrypy.server.ssl_certificate!r} and {cherrypy.server.ssl_private_key!r}"
        raise StartError(
            f"server.ssl_certificate and server.ssl_private_key are {files}, and no certificate with its key, both as "
            f"PEM, can be read there: {type(error).__name__}"
        ) from error


def show_what_matters() -> None:
    """Print warnings, and what the sessions note of signing in and out, but not the progress of CherryPy's engine."""
    handler = logging.StreamHandler()
    # CherryPy keeps the context of a message nowhere but in its text, behind the time.
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or "] SESSIONS " in record.getMessage()[:40])
    cherrypy.log.error_log.addHandler(handler)


def utc() -> str:
    """The time for a line of the log. CherryPy's own is local and does not say so (OWASP ASVS 5.0, 16.2.2)."""
    return datetime.now(UTC).strftime("[%d/%b/%Y:%H:%M:%S +0000]")


def serve(server: Server, welcome: str) -> None:
    """Start CherryPy's engine with the server, print the welcome, and return when the engine has stopped."""
    engine = cherrypy.engine
    cherrypy.server.unsubscribe()  # its way to start would insist that nobody listens on the port yet
    cherrypy.server.httpserver = server  # where others look for the server that runs
    ServerAdapter(engine, server).subscribe()
    engine.subscribe("stop", server.drain, priority=10)  # before anything that the pages need has stopped
    engine.signal_handler.handlers["SIGINT"] = engine.exit  # as SIGTERM: a second Ctrl-C is no traceback either
    # The engine aborts the process when it is told to exit while it still starts, so that waits its turn.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    engine.signals.subscribe()
    try:
        engine.start()
        show(f"{welcome}\nCtrl-C stops the site.")
    finally:  # a site that goes on with them blocked could only be killed
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    engine.block()


def show(text: str) -> None:
    """Print text, if anybody can read it: what has no console any more is a site all the same."""
    try:
        print(text, flush=True)
    except OSError as error:
        cherrypy.log(f"standard output is closed: {one_line(error)}", "SITE", logging.WARNING)
        # What is still in its buffer would fail once more when Python ends.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
