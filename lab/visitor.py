"""A visitor of the experiments' own: a browser reduced to what they need, whose cookie jar can be looked into.

It sends real requests to a site on this machine. Its clock can be moved, which the one of the real browser cannot.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

from sessions.tool import reference as reference_of

SECONDS = 10.0  # until an answer has to begin


@dataclass(frozen=True)
class Kept:
    """A cookie in the jar.

    Attributes:
        value: what is sent back.
        until: epoch seconds of the visitor's clock; None for a cookie that ends with the browser.
    """

    value: str
    until: float | None

    @property
    def reference(self) -> str:
        """A short masked name of the session that it opens."""
        return reference_of(self.value.partition(".")[0])


@dataclass(frozen=True)
class Answer:
    """What came back: `set_cookie`, the lines of that header; `told`, the JSON; `seconds`, how long it took. And what
    was asked: `request`, method and path; `sent`, the cookies that went along, by name."""

    status: int
    headers: Mapping[str, str]
    set_cookie: tuple[str, ...]
    told: dict[str, Any]
    seconds: float
    request: str = ""
    sent: Mapping[str, Kept] = field(default_factory=dict)


class Visitor:
    """Somebody with a cookie jar.

    Args:
        url: of the site, such as http://127.0.0.1:8080, without a slash at the end.
        clock: the visitor's own, in epoch seconds.

    Attributes:
        jar: the cookies by name. All experiments use Path=/ and one host, so it needs to know no more of them.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._address = urlsplit(url)
        self.clock = clock
        self.jar: dict[str, Kept] = {}

    def ask(
        self, method: str, path: str, form: Mapping[str, str] | None = None, more: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request with the cookies of the jar, and keep those of the answer. It follows no redirect.

        Args:
            form: fields of the body.
            more: headers beyond those that each request has.

        Raises:
            OSError, http.client.HTTPException: no answer came.
        """
        headers = {"Accept": "application/json", "Connection": "close", **(more or {})}
        if cookies := self.cookie_header():
            headers["Cookie"] = cookies
        sent = dict(self.jar)
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        host, port = self._address.hostname or "", self._address.port
        began = time.perf_counter()
        with closing(http.client.HTTPConnection(host, port, timeout=SECONDS)) as connection:
            connection.request(method, path, urlencode(form) if form is not None else None, headers)
            with connection.sock.dup() as line:
                response = connection.getresponse()
                body = response.read()
                took = time.perf_counter() - began
                # The server ends a request after its answer has gone out. Nobody at a keyboard is so quick that the
                # next one finds it unfinished; a program is, and would meet what is kept for requests under way.
                line.settimeout(SECONDS)
                line.recv(1)
        lines = tuple(response.headers.get_all("Set-Cookie") or ())
        self.take(lines)
        told = json.loads(body) if response.headers.get_content_type() == "application/json" else {}
        return Answer(response.status, dict(response.headers), lines, told, took, f"{method} {path}", sent)

    def cookie_header(self) -> str:
        """What the Cookie header of the next request says; what has run out by the visitor's clock is thrown away."""
        now = self.clock()
        self.jar = {name: kept for name, kept in self.jar.items() if kept.until is None or kept.until > now}
        return "; ".join(f"{name}={kept.value}" for name, kept in self.jar.items())

    def take(self, lines: tuple[str, ...]) -> None:
        """Keep the cookies that an answer sets. Max-Age counts from now and wins; Expires is a date, and is believed as
        it stands (RFC 6265bis section 5.5)."""
        for line in lines:
            for name, morsel in SimpleCookie(line).items():
                until = None
                if morsel["max-age"]:
                    until = self.clock() + int(morsel["max-age"])
                elif morsel["expires"]:
                    until = parsedate_to_datetime(morsel["expires"]).timestamp()
                self.jar[name] = Kept(morsel.value, until)
        self.cookie_header()

    def close_browser(self) -> None:
        """Throw away what ends with the browser."""
        self.jar = {name: kept for name, kept in self.jar.items() if kept.until is not None}
