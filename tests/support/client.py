"""A client with a cookie jar, by HTTP or in front of a WSGI application, and one that examines what it is answered."""

from __future__ import annotations

import contextlib
import copy
import http.client
import io
import ipaddress
import itertools
import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any, Self
from urllib.parse import unquote, urlencode, urlsplit

from tests.support import leaks
from tests.support.process import ROOT, START_SECONDS

Fields = list[tuple[str, str]]
Headers = Mapping[str, str] | Fields
JSON = {"Accept": "application/json"}
SECURITY = {
    "server": "CherryPy",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "content-security-policy": (
        "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "strict-transport-security": None,  # on https only
}
INTERNAL = (b"Traceback", b"Powered by", b"<module", str(ROOT).encode())
_ID = re.compile(r"(?<![\w-])[\w-]{43}(?![\w-])", re.A)
_addresses = itertools.count(int(ipaddress.IPv4Address("127.1.0.1")))


def new_address() -> str:
    """Return a loopback address that nobody in this run came from: who guesses passwords slows down only himself."""
    return str(ipaddress.IPv4Address(next(_addresses)))


@dataclass
class Response:
    """What came back.

    Attributes:
        url: the site that was asked.
        headers: by their names in lower case.
        set_cookie: the Set-Cookie lines, but for those of flash messages (web/flash.py).
        flashes: the paths for which messages wait now; a path that begins with "-" is one for which none do any more.
    """

    url: str
    status: int
    headers: dict[str, str]
    set_cookie: list[str]
    body: bytes
    flashes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> SimpleCookie:
        """The Set-Cookie lines as morsels by name."""
        jar: SimpleCookie = SimpleCookie()
        for line in self.set_cookie:
            with contextlib.suppress(CookieError):  # a name such as <b>, which http.cookies has no place for
                jar.load(line)
        return jar

    @property
    def redirects_to(self) -> str:
        """Where it leads within the site; AssertionError when it leaves the site or does not redirect."""
        assert self.status == 303, (self.status, self.text)
        target, own = urlsplit(self.headers["location"]), urlsplit(self.url)
        assert (target.scheme, target.netloc) == (own.scheme, own.netloc), self.headers["location"]
        return target.path + (f"?{target.query}" if target.query else "")


class Client:
    """Somebody with a cookie jar, who asks a site by HTTP and follows no redirect.

    Args:
        url: the site, without a slash at the end.
        cookies: what is in the jar at first.
        headers: sent with each request.
        address: where it comes from, if not 127.0.0.1: another one of this machine, such as 127.0.0.2.
        tls: whose certificates it believes, for https.
        keep: whether to keep the connection, as browsers do.
    """

    def __init__(
        self,
        url: str,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "",
        *,
        tls: ssl.SSLContext | None = None,
        keep: bool = False,
    ) -> None:
        self.url, self.address = url, address
        self.cookies, self.headers = dict(cookies or {}), dict(headers or {})
        self._tls, self._keep = tls, keep
        self._connection: http.client.HTTPConnection | None = None
        self._flashes: set[str] = set()  # the paths of the cookies that are for one page each

    def get(self, path: str = "/", **headers: str) -> Response:
        """Ask for a page; in the names of headers an underscore is a hyphen."""
        return self.ask("GET", path, None, _hyphenated(headers))

    def post(self, path: str, form: Mapping[str, str] | None = None, **headers: str) -> Response:
        """Send a form; in the names of headers an underscore is a hyphen."""
        return self.ask("POST", path, urlencode(form or {}), _hyphenated(headers))

    def ask(self, method: str, path: str, body: str | bytes | None = None, headers: Headers | None = None) -> Response:
        """Send one request, and keep the cookies that come.

        Args:
            path: with the query string.
            body: a form, unless a header says that it is something else.
            headers: in place of those that are sent with each request; pairs may repeat a name.

        Raises:
            OSError, http.client.HTTPException: no answer came.
        """
        sent = [*(headers.items() if isinstance(headers, Mapping) else headers or [])]
        usual = dict(self.headers)
        jar = [*([self.cookie] if self.cookies else []), *self._flash_cookie(path)]
        if jar:
            usual["Cookie"] = "; ".join(jar)
        if body is not None:
            usual["Content-Type"] = "application/x-www-form-urlencoded"
        given = {name.lower() for name, _ in sent}
        sent += [(name, value) for name, value in usual.items() if name.lower() not in given]
        content = body.encode() if isinstance(body, str) else body
        leaks.recorder.sent(sent, content)
        response = self._response(method, path, *self._exchange(method, path, content, sent))
        self._flashes |= set(response.flashes)
        self._flashes -= {one for path in response.flashes if path[0] == "-" for one in (path, path[1:])}
        for name, morsel in response.cookies.items():
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.coded_value
        return response

    def _flash_cookie(self, path: str) -> list[str]:
        """Return what a browser sends of a page for which messages wait; the mount of the site comes before `path`."""
        page = path.partition("?")[0]
        return ["flash=1"] if any(one.endswith(page) and page for one in self._flashes) else []

    def twin(self) -> Self:
        """Return somebody who has got hold of the same cookies."""
        twin = copy.copy(self)
        twin._flashes = set(self._flashes)
        twin.cookies, twin.headers, twin._connection = dict(self.cookies), dict(self.headers), None
        return twin

    @property
    def cookie(self) -> str:
        """The Cookie header that is sent."""
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def close(self) -> None:
        """Close the connection that is kept."""
        if self._connection:
            self._connection.close()

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Fields) -> tuple[int, Fields, bytes]:
        connection = self._connection or self._connect()
        given = {name.lower() for name, _ in headers}
        try:
            connection.putrequest(method, path, "host" in given, "accept-encoding" in given)
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            got = connection.getresponse()
            answer = got.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        if self._keep:
            self._connection = connection
        else:
            connection.close()
        return got.status, got.getheaders(), answer

    def _connect(self) -> http.client.HTTPConnection:
        place = urlsplit(self.url)
        options: dict[str, Any] = {"timeout": 60, "source_address": (self.address, 0) if self.address else None}
        if self._tls:
            return http.client.HTTPSConnection(str(place.hostname), place.port, context=self._tls, **options)
        return http.client.HTTPConnection(str(place.hostname), place.port, **options)

    def _response(self, method: str, path: str, status: int, fields: Fields, body: bytes) -> Response:
        leaks.recorder.answered(f"{method} {path}", fields, body)
        lines = [value for name, value in fields if name.lower() == "set-cookie"]
        mine = [line for line in lines if not line.startswith("flash=")]
        flashes = [("-" if "Max-Age=0" in line else "") + line.partition("Path=")[2].partition(";")[0]
                   for line in lines if line not in mine]  # fmt: skip
        return Response(self.url, status, {name.lower(): value for name, value in fields}, mine, body, flashes)


class WsgiClient(Client):
    """Somebody in front of a WSGI application that is called directly: no socket, no server, no thread.

    Args:
        address: where it comes from; empty for a socket file.
        url: what it takes the site to be.
    """

    def __init__(
        self,
        app: Any,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
        *,
        url: str = "http://site",
    ) -> None:
        super().__init__(url, cookies, headers, address)
        self.app = app

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Fields) -> tuple[int, Fields, bytes]:
        """Call the application; its stream is read to the end."""
        raw, _, query = path.partition("?")
        site = urlsplit(self.url)
        environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": getattr(self.app, "_script_name", None) or "",
            "PATH_INFO": unquote(raw, "latin-1"), "QUERY_STRING": query, "SERVER_NAME": "site", "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": site.netloc, "REMOTE_ADDR": self.address,
            "CONTENT_LENGTH": str(len(body or b"")), "wsgi.url_scheme": site.scheme, "wsgi.version": (1, 0),
            "wsgi.input": io.BytesIO(body or b""), "wsgi.errors": io.StringIO(), "wsgi.multithread": False,
            "wsgi.multiprocess": False, "wsgi.run_once": False,
        }  # fmt: skip
        environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers}
        if body is not None:
            environ["CONTENT_TYPE"] = environ["HTTP_CONTENT_TYPE"]
        started: list[tuple[str, Fields]] = []
        answer = self.app(environ, lambda status, fields, exc_info=None: started.append((status, fields)))
        try:
            content = b"".join(answer)
        finally:
            answer.close()
        status, fields = started[-1]
        return int(status[:3]), fields, content


class CheckedClient(Client):
    """A client of the site, whose every answer is examined, whatever the test is about.

    Raises AssertionError for an answer without the security headers, with something internal in it, or with the id of
    any session that anybody in this test run has seen; Set-Cookie is the one place where an id belongs.
    """

    def ask(self, method: str, path: str, body: str | bytes | None = None, headers: Headers | None = None) -> Response:
        """Send one request, and return the answer when nothing is wrong with it."""
        response, request = super().ask(method, path, body, headers), f"{method} {path[:200]}"
        for name, value in SECURITY.items():
            assert response.headers.get(name) == value, f"{request}: {name}: {response.headers.get(name)}"
        public = {name: value for name, value in response.headers.items() if name != "set-cookie"}
        shown = response.body + json.dumps(public).encode()
        for word in INTERNAL:
            assert word not in shown, f"{request} shows {word!r}"
        ids = leaks.recorder.ids.intersection(_ID.findall(shown.decode("utf-8", "replace")))
        assert not ids, f"{request} shows the id of a session"
        return response

    def count(self) -> int:
        """Visit the counter and return the count."""
        answer = self.get("/counter", **JSON)
        assert answer.status == 200, answer.text
        return int(answer.json["count"])

    def sign_in(self, password: str, **form: str) -> Response:
        """Send the login form as ada."""
        return self.post("/login", {"username": "ada", "password": password, **form})

    def user(self) -> str | None:
        """Return who is signed in here."""
        return self.get("/login", **JSON).json["user"]


def send_raw(url: str, request: bytes) -> tuple[int, bytes]:
    """Send bytes that no client library would, end the input, and return the status and all that came back."""
    parts = urlsplit(url)
    with contextlib.closing(socket.create_connection((parts.hostname, parts.port), START_SECONDS)) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = [line.partition(": ")[::2] for line in head.decode("latin-1").split("\r\n")[1:]]
    leaks.recorder.answered("raw", fields, body)
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    assert status, answer[:200]
    return int(status[1]), answer


def _hyphenated(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
