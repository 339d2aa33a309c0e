"""A visitor of a WSGI application that is called directly: no socket, no server, no thread."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

import cherrypy

import sessions
from tests.support import leaks


@dataclass
class Answer:
    """What came back; `headers` has lower-case names, `cookies` the Set-Cookie headers."""

    status: int
    headers: dict[str, str]
    cookies: SimpleCookie
    text: str


@dataclass
class Client:
    """Somebody with a cookie jar in front of `app`."""

    app: Any
    jar: dict[str, str] = field(default_factory=dict)

    def get(self, path: str = "/", *, method: str = "GET", query: str = "", **headers: str) -> Answer:
        """Ask for a page; its stream is read to the end.

        Args:
            headers: to send, by their names in the WSGI environment: cookie, x_forwarded_for.
        """
        environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": self.app._script_name or "", "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "site", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "site",
            "REMOTE_ADDR": "127.0.0.1", "wsgi.url_scheme": "http", "wsgi.version": (1, 0),
            "CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(), "wsgi.multithread": False,
            "wsgi.multiprocess": False, "wsgi.run_once": False,
        }  # fmt: skip
        if self.jar:
            environ["HTTP_COOKIE"] = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        started: list[Any] = []
        body = self.app(environ, lambda status, fields, exc_info=None: started.append((status, fields)))
        try:
            text = b"".join(body).decode()
        finally:
            body.close()
        status, fields = started[-1]
        leaks.spool.answered(f"{method} {path}", fields, text.encode())
        cookies: SimpleCookie = SimpleCookie()
        for name, value in fields:
            if name.lower() == "set-cookie":
                cookies.load(value)
        self._keep(cookies)
        return Answer(int(status[:3]), {name.lower(): value for name, value in fields}, cookies, text)

    def twin(self) -> Client:
        """Return somebody who has a copy of the cookies."""
        return Client(self.app, dict(self.jar))

    def _keep(self, cookies: SimpleCookie) -> None:
        for name, morsel in cookies.items():
            if morsel["max-age"] == "0":
                self.jar.pop(name, None)
            else:
                self.jar[name] = morsel.coded_value


def application(root: Any, mount: str = "", **options: Any) -> cherrypy.Application:
    """Return an application with sessions on and these options; its stores are open, and nothing cleans them."""
    sessions.install()
    set_here = {f"tools.sessions.{name}": value for name, value in {"on": True, "clean_freq": 0, **options}.items()}
    app = cherrypy.Application(root, mount, {"/": {"request.show_tracebacks": False, **set_here}})
    app.log.screen = cherrypy.log.screen = False
    sessions.open_stores(app)
    return app


class Counter:
    """The page of most tests: it counts its visits."""

    @cherrypy.expose
    def index(self) -> str:
        cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
        return str(cherrypy.session["n"])


@contextmanager
def logged(name: str = "sessions") -> Iterator[list[str]]:
    """Collect the lines that the package logs meanwhile, or that another logger does."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger(name)
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
