"""How the site is served: its socket, CherryPy's HTTP server on it, and the headers of every answer."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import select
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import cherrypy
from cheroot.errors import FatalSSLAlert, socket_errors_to_ignore
from cheroot.server import HTTPConnection, comma_separated_headers
from cheroot.ssl.builtin import BuiltinSSLAdapter
from cherrypy._cpwsgi_server import CPWSGIHTTPRequest, CPWSGIServer
from cherrypy.lib.httputil import urljoin
from cherrypy.process.servers import ServerAdapter

from sessions.cookies import HeaderReader
from sessions.errors import TooManyWaiting
from sessions.locks import MAX_WAITING, waiting
from web.csrf import THROUGH_A_PROXY, address_of
from web.settings import StartError, one_line

LOOPBACK = ("127.0.0.0/8", "::1/128")
UNIX = "unix:"  # in wsgi.proxy.trusted: whoever may connect to the socket file on which the site listens
_FORWARDED = ("HTTP_X_FORWARDED", "HTTP_FORWARDED", "HTTP_X_REAL_IP")  # what proxies tell, in all its spellings
_PEER, _PATH, _FOR = "REMOTE_ADDR", "PATH_INFO", "HTTP_X_FORWARDED_FOR"
_PORTS = ("SERVER_PORT", "REMOTE_PORT")
_TOLD = (("HTTP_X_FORWARDED_HOST", "host"), ("HTTP_X_FORWARDED_PROTO", "proto"))
_HOST = re.compile(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_PROTO = re.compile("https?")
_PREFIX = re.compile(r"(?:/[a-z0-9._~-]+)*", re.ASCII | re.IGNORECASE)
_SUCCESSOR, _AGAIN = "_SUCCESSOR_OF_THIS_SITE", 75  # a variable, and the exit status that asks for another one
_END_OF_HEADERS = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,18})", re.IGNORECASE)
_UNKNOWN_LENGTH = re.compile(rb"\n(?:transfer-encoding|expect):", re.IGNORECASE)  # or sent only when asked for
_SCHEMES = ("wsgi.url_scheme", "HTTP_X_FORWARDED_PROTO")


class Application(cherrypy.Application):
    """The site wherever it is mounted: in `cherrypy.tree`, by a dispatcher of another framework, or by the server."""

    @property
    def script_name(self) -> str:
        """The path of the site in the current request."""
        environ = getattr(cherrypy.serving.request, "wsgi_environ", {})
        path = urljoin("/", environ.get("SCRIPT_NAME", "")).rstrip("/")  # with //name links would lead to another host
        with contextlib.suppress(UnicodeError):  # bytes as latin-1 (PEP 3333), and CherryPy does this with what follows
            path = path.encode("latin-1").decode()
        return str(path)

    @script_name.setter
    def script_name(self, path: str) -> None:
        self._script_name = path


class TrustedProxy:
    """WSGI layer that takes the word of trusted proxies only for who asks, for which host, and whether by https.

    tools.proxy believes whoever sends X-Forwarded-For, and takes the first address of its list. That is the one which
    the visitor can make up: each proxy adds what it saw at the end. Here the last address that is not a proxy's own
    is left, and of the other two headers the last value. Whatever makes no sense is dropped, like every such header
    from anybody else (OWASP ASVS 5.0, 4.1.3). That there was one is noted, whoever sent it, in THROUGH_A_PROXY.

    A proxy that sends no X-Forwarded-For may send Forwarded (RFC 7239), or X-Real-IP. Where it names nobody, the
    visitor's address is "unknown": with that of the proxy all its visitors would be one.
    """

    def __init__(
        self, nextapp: Callable[..., Iterable[bytes]], trusted: Sequence[str] = LOOPBACK, prefix: str = ""
    ) -> None:
        """Take the networks of the proxies, and the path that the site has for its visitors, where the server does not
        say so (SCRIPT_NAME). Raises ValueError for what is none."""
        self.nextapp, self.prefix, self.socket_file = nextapp, prefix.rstrip("/"), UNIX in trusted
        self.trusted = [ipaddress.ip_network(network) for network in trusted if network != UNIX]
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"{prefix!r} is no path")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        told = {name: environ.pop(name) for name in list(environ) if name.startswith(_FORWARDED)}
        environ[THROUGH_A_PROXY] = bool(told) or "HTTP_VIA" in environ
        peer = environ.get(_PEER, "")
        if told and (self.trusts(peer) or (self.socket_file and address_of(peer) is None)):
            visitor = self.visitor(told)
            for (name, part), allowed in zip(_TOLD, (_HOST, _PROTO), strict=True):
                last = told.get(name, visitor.get(part, "")).rpartition(",")[2].strip().lower()
                if allowed.fullmatch(last):
                    environ[name] = last
            environ[_FOR] = str(address_of(visitor.get("for", "")) or "unknown")
        for port in _PORTS:
            if not str(environ.get(port, "")).isdecimal():
                environ[port] = ""  # on a socket file: "None" with waitress, with gunicorn a part of [2001:db8::1]
        if self.prefix and not environ.get("SCRIPT_NAME"):
            environ["SCRIPT_NAME"], path = self.prefix, environ.get(_PATH, "")
            if f"{path}/".startswith(f"{self.prefix}/"):  # a proxy may have taken it away
                environ[_PATH] = path.removeprefix(self.prefix)
        return self.nextapp(environ, start_response)

    def trusts(self, text: str) -> bool:
        """Tell whether text is the address of a trusted proxy."""
        address = address_of(text)
        return address is not None and any(address in network for network in self.trusted)

    def visitor(self, told: Mapping[str, str]) -> dict[str, str]:
        """Return what the headers say of the visitor: for, and with Forwarded maybe host and proto. Each proxy adds at
        the end, so that is the last who is no trusted proxy; or the first of all."""
        addresses, forwarded = told.get(_FOR, ""), told.get("HTTP_FORWARDED", "")
        if forwarded and not addresses:
            # Not by the rules of quoting: a quotation mark that a visitor opens would swallow what a proxy adds.
            pairs = ([pair.partition("=") for pair in hop.split(";")] for hop in forwarded.lower().split(","))
            hops = [{name.strip(): value.strip(' \t"') for name, _, value in hop} for hop in pairs]
        else:
            hops = [{"for": text.strip()} for text in (addresses or told.get("HTTP_X_REAL_IP", "")).split(",")]
        hops = [hop for hop in hops if any(hop.values())]
        return next((hop for hop in reversed(hops) if not self.trusts(hop.get("for", ""))), hops[0] if hops else {})


def trusted_proxies(options: Mapping[str, Any]) -> Sequence[str]:
    """Return the networks of [/] whose word TrustedProxy may take: none unless tools.proxy is on. Raises StartError."""
    networks: Sequence[str] = options.get("wsgi.proxy.trusted", LOOPBACK)
    try:
        TrustedProxy(lambda *_: (), networks, options.get("wsgi.proxy.prefix", ""))
    except (AttributeError, TypeError, ValueError) as error:
        raise StartError(
            "wsgi.proxy.trusted must be a list of networks such as '10.0.0.0/8', or 'unix:' for a socket file, and "
            f"wsgi.proxy.prefix (SCRIPT_NAME) empty or a path such as '/demo': {error}"
        ) from error
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


socket_errors_to_ignore += [ssl.SSL_ERROR_ZERO_RETURN, ssl.SSL_ERROR_EOF]  # a client that goes away, by https too

# Each proxy of a chain may add one of its own, and cheroot keeps the last of other headers (RFC 9110 section 5.3).
comma_separated_headers += [b"X-Forwarded-For", b"Forwarded"]


class PlainHeaderReader(HeaderReader):
    """Reads the headers of a request, but for those with an underscore: in WSGI X_Forwarded_For has the name of the one
    that a proxy overwrites, and proxies other than nginx let it pass."""

    def _allow_header(self, key_name: bytes) -> bool:
        return b"_" not in key_name


class Request(CPWSGIHTTPRequest):
    """A request that is refused where proxies and the site could read it in different ways."""

    header_reader = PlainHeaderReader()

    def read_request_headers(self) -> bool:
        """Read the headers; refuse what has two lengths: a proxy that goes by the other one would take the rest of the
        body for the next request, or the other way round (RFC 9112 section 6.1)."""
        read = bool(super().read_request_headers())
        if read and {b"Content-Length", b"Transfer-Encoding"} <= self.inheaders.keys():
            self.simple_response("400 Bad Request", "There are both Content-Length and Transfer-Encoding.")
            return False
        if self.chunked_read:  # what the page leaves of it would be read as the next request
            self.close_connection = True
        return read


class Connection(HTTPConnection):
    """A connection that is read without waiting, until a thread has something to work on."""

    rbufsize = 1 << 16  # bytes to read ahead; more than a TLS record, so nothing is left where select() does not see it
    reading = False  # not while a thread has it, or the client has to take an answer first
    begun = whole = False  # whether the headers of a request have come; all of it

    def read_ahead(self) -> bool:
        """Read what has come. Return whether there may be more."""
        self.socket.settimeout(0)
        try:
            if self.server.ssl_adapter and not self.ssl_env:
                self.socket.do_handshake()
                self.ssl_env = self.server.ssl_adapter.get_environ(self.socket)
            had = len(self.received)
            return len(self.rfile.peek(had + 1)) > had
        except ssl.SSLWantReadError:
            return True
        except OSError as error:
            self.server.error_log(f"a connection from {self.remote_addr} failed: {one_line(error)}")
            return False
        finally:
            self.socket.settimeout(self.server.timeout)

    @property
    def received(self) -> bytes:
        """What has been read ahead."""
        return self.rfile.peek(1) if self.rfile.has_data() else b""

    def has_request(self) -> bool:
        """Return whether there is a request: all of it, or the beginning of one that cannot be read ahead."""
        received = self.received
        end = _END_OF_HEADERS.search(received)
        self.begun, self.whole, fits = end is not None, False, len(received) < self.rbufsize
        if end:
            headers = received[: end.end()]
            length = _LENGTH.search(headers)
            size = len(headers) + int(length[1] if length else 0)
            fits = size <= self.rbufsize and not _UNKNOWN_LENGTH.search(headers)
            self.whole = fits and len(received) >= size
        return self.whole or not fits

    def is_writable(self) -> bool:
        """Return whether an answer can be sent: the client has taken those to earlier requests, or nearly so."""
        if not hasattr(select, "poll"):  # Windows
            return bool(select.select([], [self.socket], [], 0)[1])
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT)
        return bool(poll.poll(0))

    def communicate(self) -> bool:
        """Answer a request. While its client still sends it, a thread is added, as for one that waits for a session."""
        uploads = self.server.uploads
        try:
            if self.whole:
                return super().communicate()
            uploads.add(self)
            with waiting.one_more(MAX_WAITING, len(uploads)):
                return super().communicate()
        except TooManyWaiting:
            self.server.error_log(f"{len(uploads)} clients send large requests: no more are taken", logging.WARNING)
            self.RequestHandlerClass(self.server, self).simple_response("503 Service Unavailable")
            return False
        finally:
            uploads.discard(self)
            self.reading = not self.rfile.has_data()


class Server(CPWSGIServer):
    """CherryPy's HTTP server on a socket that already listens, whose threads do not wait for silent clients.

    CherryPy binds its port last, when stores are open and threads run, and reports a busy one with a traceback; and it
    forgets which port it got for 0. Trying the port first and binding it again later would leave a moment to lose it.

    And it gives each new connection to a thread, which waits for its request. Browsers open connections ahead of need
    and leave them silent: ten of them stop a site of ten threads. By https one is enough, for the thread that accepts
    them all waits for its handshake (https://github.com/cherrypy/cheroot/issues/748).
    """

    ConnectionClass = Connection
    keep_alive_conn_limit = 200  # connections to watch; of more, those go first that have been silent longest

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(cherrypy.server)
        self.ConnectionClass.RequestHandlerClass = Request
        self.listener = listener
        self.patience = float(getattr(cherrypy.server, "drain", 0))
        self.draining = False
        self._drained = 0.0  # when, by time.monotonic()
        self.uploads: set[Connection] = set()  # whose requests come while a thread waits for them
        if isinstance(self.ssl_adapter, BuiltinSSLAdapter):
            self.ssl_adapter.wrap = self.wrap

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

    def wrap(self, connection: socket.socket) -> tuple[ssl.SSLSocket, dict[str, str]]:
        """Prepare a connection for TLS; called by cheroot. The handshake comes when the client has begun it."""
        try:
            context = self.ssl_adapter.context
            return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), {}
        except OSError as error:  # the client is gone
            raise FatalSSLAlert(*error.args) from error

    def process_conn(self, conn: Connection) -> None:
        """Give a connection to a thread if a request has come that can be answered, and watch it otherwise.

        Called by cheroot when it is new, when it can be read or written, and when more came than the last request.
        """
        if conn.reading and not conn.read_ahead():
            conn.close()
            return
        conn.reading = not conn.has_request()
        if not conn.reading and conn.is_writable():
            super().process_conn(conn)
            return
        watched = self._connections._selector
        if not self._connections.can_add_keepalive_connection:
            oldest = min((one for _, one in watched.connections if one is not self), key=lambda one: one.last_used)
            oldest.last_used = time.time()  # and not the one to go next
            with contextlib.suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(oldest.socket, socket.SHUT_RDWR)  # of TLS, too: there is nothing more to say
        conn.last_used = time.time()
        watched.register(conn.socket.fileno(), selectors.EVENT_READ if conn.reading else selectors.EVENT_WRITE, conn)

    def stop(self) -> None:
        """Answer what has come, and forms whose headers have, for shutdown_timeout seconds at most; drop the others."""
        if not self.ready:
            return
        self.ready = False  # so that the thread that watches ends
        self._connections.stop()
        watched = self._connections._selector
        for number, conn in list(watched.connections):
            if conn is not self and conn.reading:
                conn.read_ahead()
                if conn.has_request() or conn.begun:
                    watched.unregister(number)
                    super().process_conn(conn)
        self.ready = True  # or cheroot would take it for stopped
        super().stop()


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
    if sys.platform == "win32":
        engine._do_execv = start_again
    handlers = engine.signal_handler.handlers
    # As SIGTERM: a second Ctrl-C is no traceback either. Ctrl-Break is what a program can send to another on Windows.
    handlers["SIGINT"] = handlers["SIGBREAK"] = engine.exit
    # The engine aborts the process when it is told to exit while it still starts, so that waits its turn.
    waiting_signals = set[int]()
    for name in handlers.keys() & vars(signal).keys():
        signal.signal(getattr(signal, name), lambda number, _: waiting_signals.add(number))
    try:
        engine.start()
        show(f"{welcome}\nCtrl-C stops the site.")
    finally:  # a site that goes on without could only be killed
        engine.signals.subscribe()
    for number in waiting_signals:
        signal.raise_signal(number)
    engine.block()


def start_again() -> None:
    """Serve in a new process, as a changed file asks for, and end with it.

    On Windows os.execv starts another process and ends this one: the prompt was back, and Ctrl-C meant for nobody. Here
    the first process waits for the one that serves, and starts the next when that asks for it.
    """
    if os.environ.get(_SUCCESSOR):
        sys.exit(_AGAIN)
    for number in (signal.SIGINT, getattr(signal, "SIGBREAK", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)  # they are for the other one, which gets them as well
    status = _AGAIN
    while status == _AGAIN:
        status = subprocess.call([sys.executable, *sys.orig_argv[1:]], env={**os.environ, _SUCCESSOR: "yes"})  # noqa: S603
    sys.exit(status)


def show(text: str) -> None:
    """Print text, if anybody can read it: what has no console any more is a site all the same."""
    try:
        print(text, flush=True)
    except OSError as error:
        cherrypy.log(f"standard output is closed: {one_line(error)}", "SITE", logging.WARNING)
        # What is still in its buffer would fail once more when Python ends.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
